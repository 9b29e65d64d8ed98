"""The contract, over every layer and option."""

import itertools
import random

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress import checks

layers = tfc.layers

DENSE = {
    "binary": layers.BinaryDense.using(),
    "binary-fixed": layers.BinaryDense.using(scale=False),
    "ternary": layers.TernaryDense.using(),
    "quantized-3": layers.QuantizedDense.using(bits=3),
    "quantized-8": layers.QuantizedDense.using(),
    "quantized-log": layers.QuantizedDense.using(bits=4, levels="log"),
    "codebook": layers.CodebookDense.using(size=5),
    "float16": layers.Float16Dense.using(),
    "hashed": layers.HashedDense.using(ratio=4),
    "hashed-buckets": layers.HashedDense.using(buckets=11, seed=3),
    "hashed-runs": layers.HashedDense.using(ratio=4, blocks=7),
    "tile-hashed": layers.TileHashedDense.using(tile=4, tiles=3),
    "circulant": layers.CirculantDense.using(),
    "circulant-block": layers.CirculantDense.using(block=5, seed=1),
    "circulant-plain": layers.CirculantDense.using(signs=False),
    "low-rank": layers.LowRankDense.using(rank=3),
    "low-rank-share": layers.LowRankDense.using(rank=0.5),
}
CONV1D = {
    "binary": layers.BinaryConv1D.using(),
    "ternary": layers.TernaryConv1D.using(),
    "quantized": layers.QuantizedConv1D.using(bits=4),
    "codebook": layers.CodebookConv1D.using(size=8),
    "hashed": layers.HashedConv1D.using(ratio=4),
    "float16": layers.Float16Conv1D.using(),
    "low-rank": layers.LowRankConv1D.using(rank=3),
}
CONV2D = {
    "binary": layers.BinaryConv2D.using(),
    "ternary": layers.TernaryConv2D.using(),
    "quantized": layers.QuantizedConv2D.using(bits=4),
    "codebook": layers.CodebookConv2D.using(size=8),
    "hashed": layers.HashedConv2D.using(ratio=4),
    "hashed-runs": layers.HashedConv2D.using(ratio=4, blocks=3, seed=1),
    "float16": layers.Float16Conv2D.using(),
    "circulant": layers.CirculantConv2D.using(),
    "circulant-block": layers.CirculantConv2D.using(block=3, seed=1),
    "low-rank": layers.LowRankConv2D.using(rank=3),
    "cp": layers.CPConv2D.using(rank=4),
    "cp-share": layers.CPConv2D.using(rank=0.4),
    "cp-4": layers.CPConv2D.using(rank=4, ways=4),
    "spatial": layers.SpatialConv2D.using(rank=4),
    "tucker": layers.TuckerConv2D.using(rank=(3, 4)),
}


def case(ordinary, maker, *shape):
    def make():
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        layer = type(ordinary).from_config(ordinary.get_config())
        layer.build(shape)
        layer.bias.assign(np.linspace(-0.5, 0.5, layer.bias.shape[-1]))
        return layer, maker, x

    return make


def all_cases():
    dense, conv1d, conv2d = keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D
    cases = {
        f"dense-{key}": case(dense(12, activation="relu", name="fc"), maker, 6, 20)
        for key, maker in DENSE.items()
    }
    cases |= {
        f"conv1d-{key}": case(conv1d(8, 3, padding="causal", name="c"), maker, 4, 9, 6)
        for key, maker in CONV1D.items()
    }
    cases |= {
        f"conv2d-{key}": case(conv2d(8, 3, padding="same", name="c"), maker, 3, 8, 7, 6)
        for key, maker in CONV2D.items()
    }
    cases["dense-wide-circulant"] = case(dense(33, name="fc"), DENSE["circulant"], 5, 20)
    cases["dense-spectra-circulant"] = case(
        dense(160, name="fc"), layers.CirculantDense.using(block=33), 5, 200
    )
    cases["conv2d-grouped-circulant"] = case(
        conv2d(8, 3, groups=2), CONV2D["circulant-block"], 2, 8, 8, 6
    )
    cases["dense-3d-circulant"] = case(dense(7, name="fc"), DENSE["circulant-block"], 2, 3, 17)
    cases["dense-3d-hashed"] = case(dense(7, name="fc"), DENSE["hashed-runs"], 2, 3, 16)
    cases["conv2d-grouped-hashed"] = case(conv2d(8, 3, groups=2), CONV2D["hashed"], 2, 8, 8, 6)
    cases["dense-3d-low-rank"] = case(dense(7, name="fc"), DENSE["low-rank"], 2, 3, 16)
    cases["conv2d-strided-cp"] = case(conv2d(8, (2, 5), strides=2), CONV2D["cp"], 2, 9, 10, 6)
    cases["conv2d-dilated-cp"] = case(conv2d(8, 4, dilation_rate=2), CONV2D["cp"], 2, 9, 10, 6)
    cases["conv2d-1x1-low-rank"] = case(conv2d(8, 1, strides=2), CONV2D["low-rank"], 2, 8, 8, 6)
    cases["conv2d-strided-cp-4"] = case(conv2d(8, 3, strides=2), CONV2D["cp-4"], 2, 9, 10, 6)
    cases["conv2d-strided-spatial"] = case(
        conv2d(8, (5, 2), strides=(2, 3), padding="same"), CONV2D["spatial"], 2, 9, 10, 6
    )
    cases["conv2d-grouped"] = case(conv2d(8, 3, groups=2), CONV2D["binary"], 2, 8, 8, 6)
    return cases


def other_cases():
    depthwise, einsum = keras.layers.DepthwiseConv2D, keras.layers.EinsumDense
    heads = einsum("abc,cde->abde", (7, 3, 5), bias_axes="e", name="heads")
    joined = einsum("abcd,cde->abe", (7, 5), bias_axes="e", activation="relu", name="joined")
    turned = einsum("...x,yx->...y", 7, bias_axes="y", name="turned")
    strided = depthwise(3, strides=2, depth_multiplier=2, padding="same", name="d")
    dilated = depthwise(3, dilation_rate=2, activation="relu", name="d")
    channels, products = layers.QuantizedDepthwiseConv2D, layers.QuantizedEinsumDense
    four = products.using(bits=4)
    return {
        "depthwise-quantized-8": case(strided, channels.using(), 3, 8, 7, 6),
        "depthwise-quantized-4": case(dilated, channels.using(bits=4), 3, 8, 7, 6),
        "depthwise-float16": case(dilated, layers.Float16DepthwiseConv2D.using(), 3, 8, 7, 6),
        "einsum-heads-quantized-8": case(heads, products.using(), 3, 7, 6),
        "einsum-heads-float16": case(heads, layers.Float16EinsumDense.using(), 3, 7, 6),
        "einsum-joined-quantized-4": case(joined, four, 3, 7, 6, 4),
        "einsum-turned-quantized-4": case(turned, four, 3, 4, 6),
    }


OTHER_CONVOLUTIONS = {
    "Conv3D": (keras.layers.Conv3D(4, 3, padding="same", strides=2), (2, 5, 6, 4, 3)),
    "DepthwiseConv1D": (keras.layers.DepthwiseConv1D(3, depth_multiplier=2), (2, 9, 6)),
    "DepthwiseConv2D": (keras.layers.DepthwiseConv2D(3, strides=2), (2, 9, 8, 6)),
    "Conv1DTranspose": (
        keras.layers.Conv1DTranspose(6, 4, strides=2, output_padding=1),
        (2, 7, 5),
    ),
    "Conv2DTranspose": (
        keras.layers.Conv2DTranspose(6, (2, 3), strides=2, padding="same", activation="relu"),
        (2, 7, 6, 5),
    ),
    "Conv3DTranspose": (keras.layers.Conv3DTranspose(4, 2, strides=2), (2, 3, 4, 3, 3)),
}
METHODS = {
    "Binary": {},
    "Ternary": {},
    "Quantized": {"bits": 4},
    "Float16": {},
    "Codebook": {"size": 7},
}


def other_convolutions():
    return {
        f"{form}-{method}": case(plain, getattr(layers, method + form).using(**options), *shape)
        for form, (plain, shape) in OTHER_CONVOLUTIONS.items()
        for method, options in (METHODS | {"LowRank": {"rank": 2}}).items()
        if hasattr(layers, method + form)  # a depthwise kernel has no low rank that saves
    }


def embedding(maker, kind=keras.layers.Embedding, **options):
    def make():
        layer = kind(11, 8, name="words", **options)
        layer.build((4, 5))
        return layer, maker, np.random.default_rng(0).integers(0, 11, (4, 5))

    return make


CASES = all_cases() | other_cases()
CASES |= {
    "embedding-quantized-8": embedding(layers.QuantizedEmbedding.using()),
    "embedding-quantized-4": embedding(layers.QuantizedEmbedding.using(bits=4), mask_zero=True),
    "embedding-float16": embedding(layers.Float16Embedding.using()),
    "embedding-codebook": embedding(layers.CodebookEmbedding.using(size=7), mask_zero=True),
    "embedding-hashed": embedding(layers.HashedEmbedding.using(ratio=4)),
    "embedding-hashed-runs": embedding(layers.HashedEmbedding.using(ratio=4, blocks=3)),
    "embedding-low-rank": embedding(layers.LowRankEmbedding.using(rank=2), mask_zero=True),
    "einsum-codebook": case(
        keras.layers.EinsumDense("abc,cde->abde", (7, 3, 5), bias_axes="e", name="heads"),
        layers.CodebookEinsumDense.using(),
        *(3, 7, 6),
    ),
}
REVERSIBLE = {
    f"reversible-{method}": embedding(
        getattr(layers, f"{method}ReversibleEmbedding").using(**options),
        keras.layers.ReversibleEmbedding,
        logit_soft_cap=3.0,
    )
    for method, options in {
        "Quantized": {},
        "Float16": {},
        "Codebook": {},
        "Hashed": {"ratio": 4, "blocks": 2},
        "LowRank": {"rank": 3},
    }.items()
}
CASES |= REVERSIBLE | other_convolutions()


# Training takes more than all other checks together: a third of the forms here, all in the matrix.
TRAINED = random.Random(0).sample(sorted(CASES), len(CASES) // 3)


def contract(name, check):
    rare = check is checks.check_training and name not in TRAINED
    marks = [pytest.mark.matrix] if rare else []
    return pytest.param(name, check, marks=marks, id=f"{name}-{check.__name__}")


@pytest.mark.parametrize(
    ("name", "check"), [contract(*each) for each in itertools.product(CASES, checks.LAYER_CHECKS)]
)
def test_contract(name, check):
    check(*CASES[name]())


def test_reload_in_a_fresh_process():
    checks.check_reload([make() for make in CASES.values()])


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="LiteRT converts from TensorFlow"
)
@pytest.mark.parametrize("name", CASES)
def test_export(name):
    checks.check_export(*CASES[name]())


CONVOLUTIONS = [name for name in CASES if name.startswith("conv") or "Conv" in name]


@pytest.mark.parametrize("name", random.Random(0).sample(CONVOLUTIONS, 12))
def test_channels_are_last_whatever_the_default_is(name):
    plain, maker, x = CASES[name]()
    layer = maker(plain)
    expected, given = layer(x), keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        again = keras.Sequential(layer.to_ordinary())(x)
        assert layer.compute_output_shape(x.shape) == again.shape
    finally:
        keras.config.set_image_data_format(given)
    np.testing.assert_allclose(again, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_the_way_back_of_a_reversible_embedding(name):
    plain, maker, _ = REVERSIBLE[name]()
    layer, x = maker(plain), np.random.default_rng(0).standard_normal((4, 5, 8)).astype("float32")
    plain.set_weights([keras.ops.convert_to_numpy(layer.embeddings)])
    np.testing.assert_allclose(layer(x, reverse=True), plain(x, reverse=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_hashed_table_looks_up_only_the_rows_asked_for(blocks, monkeypatch):
    layer = layers.HashedEmbedding(11, 8, ratio=4, blocks=blocks, seed=5)
    ids = np.array([[3, 0], [10, 3]])
    layer.build((None, 2))
    table = np.array(layer.kernel)

    def whole(*_):
        raise AssertionError("the whole table was made")

    monkeypatch.setattr(layers.HashedEmbedding, "rows", whole)
    np.testing.assert_array_equal(layer(ids), table[ids])


@pytest.mark.parametrize("method", ["Binary", "Ternary", "Quantized"])
@pytest.mark.parametrize("zeros", [slice(None), slice(0, 1)], ids=["all", "one output"])
def test_zeros_train(method, zeros):
    dense = keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(0))
    dense.build((None, 6))
    kernel = np.copy(dense.kernel)
    kernel[:, zeros] = 0
    dense.kernel.assign(kernel)
    layer = getattr(layers, f"{method}Dense").from_layer(dense)
    assert np.abs(layer.kernel)[:, zeros].max() < 1e-5
    x = np.random.default_rng(0).standard_normal((64, 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    target = x @ np.random.default_rng(1).standard_normal((6, 4)).astype("float32")
    model.fit(x, target, epochs=40, verbose=0)
    assert np.abs(layer.kernel)[:, 0].max() > 0.1


def test_a_check_sees_a_broken_layer():
    class Forgetful(layers.LowRankDense):
        def stored(self):
            return {name: array.round(2) for name, array in super().stored().items()}

    ordinary, _, x = CASES["dense-low-rank"]()
    with pytest.raises(checks.ContractError, match="restore"):
        checks.check_stored(ordinary, Forgetful.using(rank=3), x)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.LowRankDense(4, rank=0), "rank"),
        (lambda: layers.LowRankDense(4, rank=1.5), "rank"),
        (lambda: layers.LowRankDense(4, rank="auto").build((None, 8)), "trained kernel"),
        (lambda: layers.LowRankDense(4, rank=5).build((None, 8)), "full rank"),
        (lambda: layers.CPConv2D(4, 3, rank=0), "rank"),
        (lambda: layers.CPConv2D(4, 3, rank=99).build((None, 8, 8, 2)), "at most 8"),
        (lambda: layers.CPConv2D(4, 1, rank=2), "1x1"),
        (lambda: layers.CPConv2D(4, 3, strides=(1, 2), rank=2), "equal strides"),
        (lambda: layers.CPConv2D(4, 3, groups=2, rank=2), "grouped"),
        (lambda: layers.HashedDense(4, ratio=0.5), "ratio"),
        (lambda: layers.HashedDense(4, buckets=10, blocks=4), "whole runs"),
        (lambda: layers.HashedDense(4, blocks=0), "blocks"),
        (lambda: layers.HashedDense(4, buckets=33).build((None, 8)), "buckets"),
        (lambda: layers.HashedDense(2**15).build((None, 2**15)), "virtual weights"),
        (lambda: layers.TileHashedDense(4, tile=8).build((None, 8)), "tiles"),
        (lambda: layers.CirculantDense(4, block=9).build((None, 8)), "block"),
        (lambda: layers.CirculantConv2D(4, 3, block=9).build((None, 9, 9, 8)), "block"),
        (lambda: layers.QuantizedDense(4, bits=1), "bits"),
        (lambda: layers.BinaryDense(0), "units"),
        (lambda: layers.BinaryDense(4).build((None, None)), "known size"),
        (lambda: layers.BinaryConv2D(4, 3, padding="causal"), "padding"),
        (lambda: layers.BinaryConv2D(4, 3, strides=2, dilation_rate=2), "dilation"),
        (lambda: layers.BinaryConv2D(4, (3, 3, 3)), "kernel_size"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_option_of_using():
    with pytest.raises(TypeError, match="ratoi"):
        layers.HashedDense.using(ratoi=3)


def test_refused_layers():
    def build(layer, *shape):
        layer.build(shape)
        return layer

    class Mine(keras.layers.Dense):
        pass

    refused = [
        (build(keras.layers.Dense(4, kernel_constraint="non_neg"), 2, 8), "kernel_constraint"),
        (build(Mine(4), 2, 8), "subclass"),
        (build(keras.layers.EinsumDense("ab,bc->ac", 4), 2, 8), "EinsumDense"),
    ]
    for layer, message in refused:
        with pytest.raises(ValueError, match=message):
            layers.BinaryDense.from_layer(layer)
    broken = build(keras.layers.Dense(4), 2, 8)
    broken.kernel.assign(np.full((8, 4), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        layers.BinaryDense.from_layer(broken)
    grouped = build(keras.layers.Conv2D(4, 3, groups=2), 2, 8, 8, 4)
    with pytest.raises(ValueError, match="grouped"):
        layers.CPConv2D.from_layer(grouped, rank=2)


def test_regularizers_are_carried():
    """The losses of the ordinary layer with the same kernel."""
    dense = keras.layers.Dense(
        4, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l2"
    )
    x = np.ones((2, 8), "float32")
    keras.Sequential([keras.Input((8,)), dense])
    dense.bias.assign(np.ones(4))
    layer = layers.BinaryDense.from_layer(dense)
    dense.kernel.assign(layer.kernel)
    models = [keras.Sequential([keras.Input((8,)), one]) for one in (layer, dense)]
    for model in models:
        model(x)
    losses, expected = (sorted(map(float, model.losses)) for model in models)
    assert len(expected) == 3 and min(expected) > 0
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("maker", [*DENSE.values()], ids=[*DENSE])
def test_a_metric_of_another_layer_is_refused(maker):
    dense = keras.layers.Dense(12)
    dense.build((None, 20))
    if isinstance(maker.layer_class, type) and issubclass(maker.layer_class, layers.Float16Dense):
        pytest.skip("it rounds each weight by itself, whatever the metric")
    for metric in (tfc.metric.Kronecker(np.eye(10)), tfc.metric.Diagonal(np.ones((20, 1)))):
        with pytest.raises(ValueError, match=r"does not fit a kernel|like the kernel"):
            maker(dense, metric)


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        *("dense-binary", "dense-ternary", "dense-quantized-8", "dense-quantized-log"),
        *("dense-codebook", "dense-hashed", "dense-circulant", "dense-low-rank"),
        *("conv2d-cp", "embedding-quantized-8", "einsum-heads-quantized-8"),
        "depthwise-quantized-4",
    ],
)
def test_whole_models_in_another_precision(name, policy, tmp_path):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is started for it")
    ordinary, maker, x = CASES[name]()
    plain = type(ordinary).from_config(ordinary.get_config() | {"dtype": policy})
    plain.build(x.shape)
    plain.set_weights([np.asarray(w) for w in ordinary.get_weights()])
    layer = maker(plain)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    assert kernel.dtype.name == policy
    other = type(layer).from_config(layer.get_config())
    other.build(x.shape)
    other.restore(tfc.unpack(layer.pack()))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(other.kernel), kernel)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile("sgd", "mse")
    model.fit(x, np.zeros(model(x).shape), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("bits", [2, 4, 5, 6, 8])
@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64"])
def test_logarithmic_levels_in_other_precisions(policy, bits):
    """They are those of float32, as far as the precision has them."""
    kernels = []
    for dtype in ("float32", policy):
        dense = keras.layers.Dense(5, dtype=dtype)
        dense.build((None, 16))
        dense.kernel.assign(np.random.default_rng(0).standard_normal((16, 5)))
        layer = layers.QuantizedDense.from_layer(dense, bits=bits, levels="log")
        kernels.append(keras.ops.convert_to_numpy(layer.kernel).astype("float64"))
    step = {"float16": 2**-10, "bfloat16": 2**-7, "float64": 1e-6}[policy]
    np.testing.assert_allclose(kernels[1], kernels[0], rtol=2 * step, atol=step * 2**-8)
