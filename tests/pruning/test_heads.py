"""Removal of whole heads: the smaller model equals the one whose output projection ignores them."""

import keras
import numpy as np
import pytest
from model_families import FAMILIES

import tfcompress as tfc
from tfcompress.graph.copy import copied
from tfcompress.measure.attention import projections

L = keras.layers
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seed():
    global RNG
    RNG = np.random.default_rng(0)
    keras.utils.set_random_seed(0)


def attention(**options):
    start = keras.Input((7, 12))
    x = L.MultiHeadAttention(4, 5, value_dim=3, name="attention", **options)(start, start)
    return keras.Model(start, L.Dense(2, name="out")(x))


def grouped(**options):
    start = keras.Input((7, 12))
    x = L.GroupQueryAttention(5, 6, 3, name="attention", **options)(start, start)
    return keras.Model(start, L.Dense(2, name="out")(x))


def crossed():
    a, b = keras.Input((7, 12)), keras.Input((5, 6))
    x = L.MultiHeadAttention(4, 5, output_shape=(3, 2), name="attention")(
        a, b, use_causal_mask=True
    )
    return keras.Model([a, b], L.Flatten()(x))


def pictures():
    start = keras.Input((4, 3, 12))
    x = L.MultiHeadAttention(4, 5, attention_axes=(1, 2), name="attention")(start, start)
    return keras.Model(start, x)


def subclassed():
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.blocks = [L.MultiHeadAttention(4, 3, name=f"attention{i}") for i in range(2)]
            self.head = L.Dense(2)

        def call(self, x):
            for block in self.blocks:
                x = x + block(x, x)
            return self.head(x)

    model = Own()
    model(np.zeros((1, 7, 12), "float32"))
    return model


MODELS = {
    "plain": attention,
    "no bias, gate, dropout": lambda: attention(use_bias=False, use_gate=True, dropout=0.1),
    "grouped": grouped,
    "grouped with gate": lambda: grouped(use_gate=True, use_bias=False),
    "crossed": crossed,
    "pictures": pictures,
    "subclassed": subclassed,
    "transformer": lambda: FAMILIES["transformer"]()[0],
    "blocks": lambda: FAMILIES["text_blocks"]()[0],
}


def randomize(model):
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(RNG.normal(size=variable.shape) / 2)
    return model


def inputs(model, count=6):
    if not getattr(model, "inputs", None):
        return RNG.normal(size=(count, 7, 12)).astype("float32")
    shapes = [(count, *one.shape[1:]) for one in model.inputs]
    if model.inputs[0].dtype == "int32":
        return RNG.integers(0, 50, shapes[0]).astype("int32")
    arrays = [RNG.normal(size=shape).astype("float32") for shape in shapes]
    return arrays if len(arrays) > 1 else arrays[0]


def layers_of(model):
    kinds = (L.MultiHeadAttention, L.GroupQueryAttention)
    return {p: one for p, (one, _) in tfc.walk(model).items() if isinstance(one, kinds)}


def grouped_rows(layer, array):
    """One row for each head that can go; queries of a group together."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_heads
    return array.reshape(heads, -1)


def masked(model, gone):
    """A copy whose output projections ignore some heads."""
    new = copied(model)
    for path, layer in layers_of(new).items():
        kernel = np.array(projections(layer)["attention_output"].kernel)
        grouped_rows(layer, kernel)[gone[path]] = 0  # a view
        projections(layer)["attention_output"].kernel.assign(kernel)
    return new


def lowest_by_magnitude(model, count):
    """The heads of each layer with the lowest mean share of |w|, computed head by head."""
    gone = {}
    for path, layer in layers_of(model).items():
        shares = []
        for name, part in projections(layer).items():
            w = np.abs(np.array(part.kernel))
            w = w if name == "attention_output" else w.swapaxes(0, 1)
            sums = grouped_rows(layer, np.ascontiguousarray(w)).sum(1)
            shares.append(sums / sums.sum())
        gone[path] = np.argsort(np.mean(shares, 0))[: count(len(sums))]
    return gone


@pytest.mark.parametrize("name", MODELS)
def test_the_smaller_model_equals_the_masked_one(name):
    model = randomize(MODELS[name]())
    paths = list(layers_of(model))
    small = tfc.prune_channels(model, 0.5, layers=paths)
    gone = lowest_by_magnitude(model, lambda heads: round(0.5 * heads))
    x = inputs(model)
    np.testing.assert_allclose(small(x), masked(model, gone)(x), rtol=1e-4, atol=1e-4)
    assert type(small).__name__ == type(model).__name__
    assert small.count_params() < model.count_params()


def test_sizes():
    small = tfc.prune_channels(attention(), 0.5).get_layer("attention")
    assert (small.num_heads, small.key_dim, small.value_dim) == (2, 5, 3)
    assert small.query_dense.kernel.shape == (12, 2, 5)
    assert small.output_dense.kernel.shape == (2, 3, 12)
    small = tfc.prune_channels(grouped(), 0.5).get_layer("attention")
    assert (small.num_query_heads, small.num_key_value_heads) == (2, 1)  # round(1.5) is 2


@pytest.mark.parametrize("name", ["plain", "grouped", "subclassed", "blocks"])
def test_saved_read_and_trained(name, tmp_path):
    model = randomize(MODELS[name]())
    small = tfc.prune_channels(model, 0.5, layers=list(layers_of(model)))
    x = inputs(model)
    if name != "subclassed":  # a class inside a function cannot be found again
        small.save(tmp_path / "small.keras")
        again = keras.saving.load_model(tmp_path / "small.keras")
        np.testing.assert_array_equal(again(x), small(x))
        tfc.archive.save(small, tmp_path / "small.tfca")
        own = ["families>Positions", "families>TransformerBlock"]
        again = tfc.archive.load(tmp_path / "small.tfca", allow=own)
        np.testing.assert_array_equal(again(x), small(x))
    before = np.array(small(x))
    small.compile("sgd", "mse")
    small.fit(x, np.zeros_like(before), verbose=0)
    assert np.abs(np.array(small(x)) - before).max() > 1e-3


def test_exported():
    small = tfc.prune_channels(randomize(attention()), 0.5, layers="attention")
    assert tfc.to_tflite(small, check=inputs(small))  # which compares the outputs


@pytest.mark.parametrize("name", ["plain", "grouped", "subclassed"])
def test_remaining_heads_compensate(name):
    """Heads that are copies of others: without one of each pair, the other does its work too."""
    model = randomize(MODELS[name]())
    for layer in layers_of(model).values():
        heads = {}
        for part_name, part in projections(layer).items():
            axis = 0 if part_name == "attention_output" else 1
            kernel = np.moveaxis(np.array(part.kernel), axis, 0)
            heads[part_name] = len(kernel)
            if part_name != "attention_output":
                kernel = np.repeat(kernel[:1], len(kernel), 0)
            part.kernel.assign(np.moveaxis(kernel, 0, axis))
            if part.bias is not None and part_name != "attention_output":
                part.bias.assign(np.zeros(part.bias.shape))
    x = inputs(model, 40)

    def error(*how):
        small = tfc.prune_channels(model, 0.5, *how, layers=list(layers_of(model)))
        return np.square(small(x) - model(x)).mean()

    for score in ("magnitude", "obs"):
        assert error(score, x) < 0.01 * error()


def test_obs_removes_the_head_that_is_worth_least():
    model = randomize(attention())
    kernel = np.array(model.get_layer("attention").output_dense.kernel)
    kernel[2] *= 1e-3
    model.get_layer("attention").output_dense.kernel.assign(kernel)
    x = inputs(model, 40)
    small = tfc.prune_channels(model, 0.25, "obs", x, layers="attention")
    left = np.array(small.get_layer("attention").query_dense.kernel)
    query = np.array(model.get_layer("attention").query_dense.kernel)
    np.testing.assert_array_equal(left, np.delete(query, 2, 1))


def test_curvature_ranks_heads():
    model = randomize(attention())
    value = np.array(model.get_layer("attention").value_dense.kernel)
    value[:, 1] = 0
    output = np.array(model.get_layer("attention").output_dense.kernel)
    output[1] = 0  # a head that says nothing, and which nobody hears
    model.get_layer("attention").value_dense.kernel.assign(value)
    model.get_layer("attention").output_dense.kernel.assign(output)
    model.compile("sgd", "mse")
    data = (inputs(model, 20), RNG.normal(size=(20, 7, 2)))
    small = tfc.prune_channels(model, 0.25, "obd", data, layers="attention")
    query = np.array(model.get_layer("attention").query_dense.kernel)
    left = np.array(small.get_layer("attention").query_dense.kernel)
    np.testing.assert_array_equal(left, np.delete(query, 1, 1))


def test_channels_and_heads_go_in_one_call():
    model, x = FAMILIES["transformer"]()
    small = tfc.prune_channels(model, 0.5)
    assert small.get_layer("attention0").num_heads == 1
    assert small.get_layer("up0").units == 16
    assert tfc.prune_channels(model, 0.5, multiple=8).get_layer("attention0").num_heads == 1
    assert small(x).shape == model(x).shape


def test_a_shared_layer_shrinks_once():
    start = keras.Input((7, 12))
    shared = L.MultiHeadAttention(4, 3, name="attention")
    model = randomize(keras.Model(start, shared(shared(start, start), start)))
    small = tfc.prune_channels(model, 0.5)
    x = inputs(model)
    expected = masked(model, lowest_by_magnitude(model, lambda heads: 2))(x)
    np.testing.assert_allclose(small(x), expected, rtol=1e-4, atol=1e-4)
    assert len(layers_of(small)) == 1


def test_the_last_head_stays():
    assert tfc.prune_channels(attention(), 0.99).get_layer("attention").num_heads == 1


def test_what_keeps_its_heads_is_named():
    start = keras.Input((7, 12))
    x, scores = L.MultiHeadAttention(4, 3, name="attention")(
        start, start, return_attention_scores=True
    )
    model = keras.Model(start, [L.Dense(3, name="out")(L.Dense(8, name="fc")(x)), scores])
    with pytest.raises(
        ValueError, match=r"'attention' cannot be removed: the model uses its scores"
    ):
        tfc.prune_channels(model, 0.5, layers="attention")
    with pytest.warns(UserWarning, match="attention: the model uses its scores"):
        small = tfc.prune_channels(model, 0.5)
    assert small.get_layer("fc").units == 4
    swapped = tfc.swap(attention(), {"query": tfc.layers.QuantizedEinsumDense})
    with pytest.raises(ValueError, match="projection 'query' is not an ordinary EinsumDense"):
        tfc.prune_channels(swapped, 0.5, layers="attention")

    class Own(L.MultiHeadAttention):
        pass

    own = keras.Sequential([keras.Input((7, 12)), L.Dense(12, name="fc")])
    x = Own(4, 3, name="own")(own.outputs[0], own.outputs[0])
    with pytest.raises(ValueError, match="Own is a class of its own"):
        tfc.prune_channels(keras.Model(own.inputs, x), 0.5, layers="own")
    frozen = attention()
    frozen.get_layer("attention").trainable = False
    with pytest.raises(ValueError, match="frozen"):
        tfc.prune_channels(frozen, 0.5, layers="attention")
    frozen = attention()
    frozen.get_layer("attention")._value_dense.kernel.trainable = False
    with pytest.raises(ValueError, match="frozen"):
        tfc.prune_channels(frozen, 0.5, layers="attention")


def test_blocks_of_keras_hub(tmp_path):
    hub = pytest.importorskip("keras_hub")
    start = keras.Input((6, 8))
    x = hub.layers.TransformerEncoder(16, 4, name="encoder")(start)
    x = hub.layers.TransformerDecoder(16, 4, name="decoder")(x, x)
    model = randomize(keras.Model(start, x))
    paths = list(layers_of(model))
    assert len(paths) == 3
    small = tfc.prune_channels(model, 0.5, layers=paths)
    x = RNG.normal(size=(3, 6, 8)).astype("float32")
    gone = lowest_by_magnitude(model, lambda heads: 2)
    np.testing.assert_allclose(small(x), masked(model, gone)(x), rtol=1e-4, atol=1e-4)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(x), small(x))
