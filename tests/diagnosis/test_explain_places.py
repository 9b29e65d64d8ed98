"""What stands in whose place: chains, folded norms, new layers, in branches, under any name."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.diagnosis.switchboard import Switchboard
from tfcompress.rewriting.pairs import pairs_of

L = keras.layers
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((200, 16)).astype("float32")
CHAIN = tfc.layers.LowRankDense.using(rank=2).then(tfc.layers.QuantizedDense.using(bits=8))


def branches(names, norms=False, width=24):
    keras.utils.set_random_seed(0)
    x = keras.Input((16,))
    ends = [L.Dense(width, name=name)(x) for name in names]
    if norms:
        ends = [L.BatchNormalization(name=f"norm_{i}")(end) for i, end in enumerate(ends)]
    return keras.Model(x, L.Dense(3, name="head")(L.Add(name="add")(ends)))


def sequential(*new):
    """A model, and the same with layers between its first two."""
    keras.utils.set_random_seed(0)
    parts = [L.Dense(24, "relu", name="a"), L.Dense(24, "relu", name="b"), L.Dense(3, name="c")]
    model = keras.Sequential([keras.Input((16,)), *parts])
    return model, keras.Sequential([keras.Input((16,)), parts[0], *new, *parts[1:]])


def restored(model, small, x):
    """The outputs of the compressed model with all float layers put back."""
    pairs = pairs_of(model, small)
    return Switchboard(small, pairs)(x, {pair: pair.before for pair in pairs})[0]


@pytest.mark.parametrize("names", [("left", "right"), ("dense", "dense_1"), ("d_1", "d")])
@pytest.mark.parametrize("changed", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("width", [16, 24])
def test_chains_in_branches_belong_to_their_own_layers(names, changed, width):
    model = branches(names, width=width)
    small = tfc.swap(model, {names[i]: CHAIN for i in changed})
    found = tfc.explain(model, small, X)
    assert {row.path for row in found.layers} == {names[i] for i in changed}
    for pair in pairs_of(model, small):
        assert [layer.name for layer in pair.now] == [f"{pair.path}_in", pair.path]
    assert {row.cause.name for row in found.layers} == {"rank below the knee"}
    np.testing.assert_allclose(restored(model, small, X), model(X), atol=1e-5)
    assert found.rest == pytest.approx(0, abs=1e-6)


def test_chains_of_convolutions_in_branches():
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 8))
    names = ["conv2d", "conv2d_1"]
    model = keras.Model(x, L.Add()([L.Conv2D(8, 3, name=name)(x) for name in names]))
    maker = tfc.layers.TuckerConv2D.using(rank=0.25).then(tfc.layers.QuantizedConv2D.using(bits=8))
    small = tfc.swap(model, dict.fromkeys(names, maker))
    for pair in pairs_of(model, small):
        links = [f"{pair.path}_in", f"{pair.path}_core", pair.path]
        assert [layer.name for layer in pair.now] == links
    images = RANDOM.standard_normal((4, 6, 6, 8)).astype("float32")
    np.testing.assert_allclose(restored(model, small, images), model(images), atol=1e-5)


def test_calls_of_a_shared_chain_keep_their_inputs():
    """The first layer runs for all inputs before the last one does, in an order of its own."""
    keras.utils.set_random_seed(0)
    inputs, shared = [keras.Input((16,)) for _ in range(3)], L.Dense(16, name="shared")
    ends = [L.Dense(4, name=f"end_{i}")(shared(x)) for i, x in enumerate(inputs)]
    x = [X, 2 * X[::-1], X + 1]
    for outputs in (ends, ends[::-1], [L.Concatenate()(ends[1:]), ends[0]]):
        model = keras.Model(inputs, outputs)
        small = tfc.swap(model, {"shared": CHAIN})
        pairs = pairs_of(model, small)
        found = Switchboard(small, pairs)(x, {pair: pair.before for pair in pairs})
        for one, other in zip(found, model(x), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def folded(norms):
    """A model with norms in its branches, and one in which they are folded."""
    names = ["left", "right"]
    model, small = branches(names, norms=True), branches(names)
    for name, norm in zip(names, norms, strict=True):
        scale, shift, mean, variance = RANDOM.uniform(0.5, 2, (4, 24))
        model.get_layer(norm).set_weights([scale, shift, mean, variance])
        kernel, bias = model.get_layer(name).get_weights()
        scale = scale / np.sqrt(variance + model.get_layer(norm).epsilon)
        small.get_layer(name).set_weights([kernel * scale, (bias - mean) * scale + shift])
    small.get_layer("head").set_weights(model.get_layer("head").get_weights())
    return model, small


def test_folded_norms_in_branches_belong_to_the_layers_before_them():
    model, small = folded(["norm_0", "norm_1"])
    kernel, bias = small.get_layer("right").get_weights()
    small.get_layer("right").set_weights([np.round(kernel), bias])
    found = tfc.explain(model, small, X)
    assert found["right"].share == pytest.approx(found.rise, rel=1e-3)
    assert found["left"].share == pytest.approx(0, abs=1e-6)
    assert found["left"].output_error < 1e-5
    before = [[layer.name for layer in pair.before] for pair in pairs_of(model, small)]
    assert sorted(before) == [["left", "norm_0"], ["right", "norm_1"]]


def test_without_a_graph_the_order_of_layers_counts():
    class Net(keras.Model):
        def __init__(self, layers):
            super().__init__()
            self.stack = layers

        def call(self, x):
            for layer in self.stack:
                x = layer(x)
            return x

    def made(*layers):
        model = Net([*layers, L.Dense(3, name="out")])
        model(X)
        return model

    model = made(L.Dense(8, name="dense"), L.BatchNormalization(name="norm"))
    small = made(L.Dense(2, name="dense_in"), L.Dense(8, name="dense"))
    first = pairs_of(model, small)[0]
    assert [layer.name for layer in first.before] == ["dense", "norm"]
    assert [layer.name for layer in first.now] == ["dense_in", "dense"]


def extra_layers():
    dense = L.Dense(24, kernel_initializer="identity", name="new")
    bad = L.Dense(24, kernel_initializer=keras.initializers.Constant(np.nan), name="new")
    return {
        "dense": (dense, "extra layer"),
        "nan": (bad, "not finite"),
        "quantized": (tfc.layers.QuantizedDense(24, bits=4, name="new"), "extra layer"),
        "range": (tfc.layers.FakeQuant(-50.0, 50.0, name="new"), "extra layer"),
        "dropout": (L.Dropout(0.1, name="new"), "extra layer"),
        "range by name": (tfc.layers.FakeQuant(-50.0, 50.0, name="a_range"), "extra layer"),
    }


@pytest.mark.parametrize("kind", extra_layers())
def test_a_layer_that_the_float_model_lacks_is_named(kind):
    new, cause = extra_layers()[kind]
    model, small = sequential(new)
    (row,) = tfc.explain(model, small, X, try_cures=True).layers
    assert (row.path, row.cause.name, row.cure) == (new.name, cause, None)
    assert row.kernel_error is None


def test_full_integer_training_leaves_a_model_that_is_explained():
    model, _ = sequential()
    y = np.argmax(model(X), -1)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made = tfc.compress(
        model, (X, y), budget=0.9, fine_tune=1, activations="static_int8", verbose=0
    )
    ranges = {x.name for x in made.model.layers if isinstance(x, tfc.layers.FakeQuant)}
    found = tfc.explain(model, made.model, (X, y), tflite=made.tflite)
    assert ranges and ranges <= {row.path for row in found.layers}
