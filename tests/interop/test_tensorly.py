from functools import partial

import keras
import numpy as np
import pytest

import tfcompress as tfc

tensorly = pytest.importorskip("tensorly")
decomposition = pytest.importorskip("tensorly.decomposition")
bridge = tfc.interop.tensorly
CP, Tucker = tfc.layers.CPConv2D, tfc.layers.TuckerConv2D


def conv(channels=4, filters=6, kernel_size=(3, 2), **options):
    keras.utils.set_random_seed(0)
    layer = keras.layers.Conv2D(
        filters, kernel_size, bias_initializer="normal", name="conv", **options
    )
    layer.build((None, 8, 9, channels))
    return layer


def model_of(layer):
    return keras.Sequential([keras.Input((8, 9, 4)), layer, keras.layers.Flatten()])


@pytest.mark.parametrize("ways", [3, 4])
def test_a_cp_layer_and_its_tensor_hold_the_same_numbers(ways):
    layer = CP(6, (3, 2), rank=5, ways=ways)
    layer.build((None, 8, 9, 4))
    tensor = bridge.to_tensorly(layer)
    assert isinstance(tensor, tensorly.cp_tensor.CPTensor)
    whole = tensorly.cp_to_tensor(tensor).reshape(layer.kernel.shape)
    np.testing.assert_allclose(whole, layer.kernel, atol=1e-6)
    again = bridge.from_tensorly(tensor, conv())
    assert (again.rank, again.ways, again.name) == (5, ways, "conv")
    for name, part in layer.parts.items():
        np.testing.assert_array_equal(again.parts[name], part)


def test_a_tucker_layer_and_its_tensor_hold_the_same_numbers():
    layer = Tucker(6, (3, 2), rank=(2, 5))
    layer.build((None, 8, 9, 4))
    tensor = bridge.to_tensorly(layer)
    assert isinstance(tensor, tensorly.tucker_tensor.TuckerTensor)
    np.testing.assert_allclose(tensorly.tucker_to_tensor(tensor), layer.kernel, atol=1e-6)
    again = bridge.from_tensorly(tensor, conv())
    for name, part in layer.parts.items():
        np.testing.assert_array_equal(again.parts[name], part)


def test_weights_and_factors_of_space_are_multiplied_in():
    layer = conv()
    w = np.asarray(layer.kernel)
    found = decomposition.parafac(
        w.reshape(6, 4, 6), 3, normalize_factors=True, init="random", random_state=0
    )
    assert np.ptp(found.weights) > 0
    new = bridge.from_tensorly(found, layer)
    expected = tensorly.cp_to_tensor(found).reshape(w.shape)
    np.testing.assert_allclose(new.kernel, expected, atol=1e-6)
    np.testing.assert_array_equal(new.bias, layer.bias)
    found = decomposition.tucker(w, (2, 2, 3, 4))
    new = bridge.from_tensorly(found, layer)
    assert new.rank == (3, 4)
    np.testing.assert_allclose(new.kernel, tensorly.tucker_to_tensor(found), atol=1e-6)


CP_FITS = {
    "parafac": decomposition.parafac,
    "normalized": partial(decomposition.parafac, normalize_factors=True),
    "with errors": partial(decomposition.parafac, return_errors=True),
    "power iteration": decomposition.parafac_power_iteration,
    "non-negative": decomposition.non_negative_parafac,
    "non-negative hals": decomposition.non_negative_parafac_hals,
    "sparse": partial(decomposition.constrained_parafac, l1_reg=1e-3, init="random"),
    "randomised": partial(
        decomposition.randomised_parafac, n_samples=50, n_iter_max=20, random_state=0
    ),
    "class": lambda w, rank: decomposition.CP(rank, init="random").fit_transform(w),
}


@pytest.mark.parametrize("name", CP_FITS)
def test_functions_of_tensorly_are_the_fit_of_a_cp_layer(name):
    found = []

    def fit(w, rank):
        found.append(CP_FITS[name](w, rank))
        return found[-1]

    layer = conv(strides=2, activation="relu")
    layer.kernel.assign(np.abs(layer.kernel))
    model = model_of(layer)
    small = tfc.swap(model, {"conv": CP.using(rank=4, fit=fit)})
    tensor = found[0][0] if name == "with errors" else found[0]
    expected = tensorly.cp_to_tensor(tensor).reshape(layer.kernel.shape)
    new = small.get_layer("conv")
    np.testing.assert_allclose(new.kernel, expected, atol=1e-5)
    assert new.strides == (2, 2) and new.activation is keras.activations.relu
    if "non-negative" in name:
        assert all((np.asarray(part) >= 0).all() for part in new.parts.values())


TUCKER_FITS = {
    "tucker": decomposition.tucker,
    "with errors": partial(decomposition.tucker, return_errors=True),
    "partial": lambda w, ranks: decomposition.partial_tucker(w, ranks[2:], modes=(2, 3)),
    "non-negative": partial(decomposition.non_negative_tucker, n_iter_max=20),
    "non-negative hals": partial(decomposition.non_negative_tucker_hals, n_iter_max=20),
}


@pytest.mark.parametrize("name", TUCKER_FITS)
def test_functions_of_tensorly_are_the_fit_of_a_tucker_layer(name):
    found = []

    def fit(w, ranks):
        found.append(TUCKER_FITS[name](w, ranks))
        return found[-1]

    layer = conv()
    layer.kernel.assign(np.abs(layer.kernel))
    new = Tucker.from_layer(layer, rank=(2, 3), fit=fit)
    assert new.rank == (2, 3)
    if name == "partial":
        (core, (a, b)), _ = found[0]
        expected = np.einsum("ip,hwpq,oq->hwio", a, core, b)
    else:
        expected = tensorly.tucker_to_tensor(found[0][0] if name == "with errors" else found[0])
    np.testing.assert_allclose(new.kernel, expected, atol=1e-5)


def test_what_was_found_stays_as_it_is_when_measured_on_data(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 8, 9, 4)).astype("float32")
    fit = decomposition.non_negative_parafac
    small = tfc.swap(model_of(conv()), {"conv": CP.using(rank=2, fit=fit)}, data=x)
    parts = small.get_layer("conv").parts.values()
    assert all((np.asarray(part) >= 0).all() for part in parts)
    small.save(tmp_path / "small.keras")  # without the function
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(x), small(x))
    assert "fit" not in small.get_layer("conv").get_config()


def test_shares_and_automatic_ranks_reach_the_fit_as_numbers():
    ranks = []

    def fit(w, rank):
        ranks.append(rank)
        return decomposition.parafac(w, rank, init="random", random_state=0)

    for rank in (0.5, "auto"):
        assert CP.from_layer(conv(), rank=rank, fit=fit).rank == ranks[-1]


def refused(found, match):
    with pytest.raises(ValueError, match=match):
        CP.from_layer(conv(), rank=2, fit=lambda w, rank: found(w, rank))


def test_what_is_no_such_decomposition_is_refused():
    refused(decomposition.tensor_train, "must return a CP decomposition")
    refused(partial(decomposition.parafac, sparsity=0.1), "nothing else that the kernel is made of")
    refused(lambda w, rank: decomposition.parafac(w, rank + 1), "of rank 2 of an array of shape")
    refused(lambda w, rank: (None, [np.full((n, rank), np.nan) for n in w.shape]), "not finite")
    with pytest.raises(TypeError, match="`fit` must be a function"):
        CP.from_layer(conv(), rank=2, fit="parafac")
    with pytest.raises(ValueError, match="its 1x1 kernel is a matrix"):
        CP.from_layer(conv(kernel_size=1), rank=2, fit=decomposition.parafac)
    with pytest.raises(ValueError, match=r"ranks \(2, 3\) of the channels"):
        Tucker.from_layer(
            conv(), rank=(2, 3), fit=lambda w, r: decomposition.tucker(w, [3, 2, 3, 3])
        )


def test_other_layers_and_tensors_are_refused():
    with pytest.raises(TypeError, match="CPConv2D or a TuckerConv2D"):
        bridge.to_tensorly(conv())
    with pytest.raises(ValueError, match="not built"):
        bridge.to_tensorly(CP(6, 3, rank=2))
    with pytest.raises(TypeError, match="CPTensor or a TuckerTensor"):
        bridge.from_tensorly(np.ones((3, 3)), conv())
    found = decomposition.parafac(np.ones((9, 4, 6)), 1)
    with pytest.raises(ValueError, match=r"of shape \(6, 4, 6\)"):
        bridge.from_tensorly(found, conv())


def test_without_the_package_the_message_tells_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorly", None)
    layer = CP(6, (3, 2), rank=5)
    layer.build((None, 8, 9, 4))
    with pytest.raises(ImportError, match="pip install tensorly"):
        bridge.to_tensorly(layer)
