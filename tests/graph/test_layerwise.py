import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph import layerwise as follow
from tfcompress.graph.copy import copied
from tfcompress.graph.paths import walk
from tfcompress.graph.suffix import watching

L = keras.layers


def net():
    keras.utils.set_random_seed(0)
    shared = L.Dense(6, activation="tanh", name="shared")
    block = keras.Sequential([keras.Input((6,)), L.Dense(6, "relu", name="inner")], name="block")
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    h = shared(a) + block(shared(b))
    h = L.LayerNormalization()(h)
    h = L.Concatenate()([h, L.Dense(4, name="side")(h)])
    return keras.Model([a, b], L.Dense(3, name="out")(h))


def layer_of(model, name):
    return model.get_layer("block").get_layer(name) if name == "inner" else model.get_layer(name)


def inputs_of(model, name, x):
    """All inputs of a layer, by a model that ends there (a shared one has two)."""
    seen = []
    watching(model, [layer_of(model, name)], lambda _, array: seen.append(array))(x)
    return np.concatenate(seen)


@pytest.mark.parametrize("as_dict", [False, True])
def test_each_layer_sees_what_it_gets_before_and_after(as_dict):
    rng = np.random.default_rng(0)
    model, changed = net(), net()
    x = [rng.normal(size=(300, 6)).astype("float32") for _ in range(2)]
    data = dict(zip("ab", x, strict=True)) if as_dict else x
    order = []

    def change(layer, pairs):
        before, now = (np.concatenate(part) for part in zip(*pairs, strict=True))
        name = layer.name
        order.append(name)
        if name != "shared":
            np.testing.assert_allclose(before, inputs_of(model, name, x), atol=1e-5)
            np.testing.assert_allclose(now, inputs_of(changed, name, x), atol=1e-5)
        else:
            assert len(before) == 600  # both calls
            np.testing.assert_array_equal(before, now)
        if name == "side":
            return None
        new = layer_of(changed, name)
        new.kernel.assign(new.kernel.numpy() * 1.5)
        return [new]

    wanted = [layer_of(model, name) for name in ("shared", "inner", "side", "out")]
    follow.follow(model, data, wanted, change)
    assert order == ["shared", "inner", "side", "out"]


def test_a_layer_that_is_not_wanted_runs_once_where_nothing_changed():
    model = net()
    counted = []
    layer = model.get_layer("side")
    call = layer.call
    layer.call = lambda x, **kwargs: counted.append(1) or call(x, **kwargs)
    x = [np.ones((10, 6), "float32")] * 2
    follow.follow(model, x, [model.get_layer("out")], lambda layer, pairs: None)
    assert len(counted) == 1


def test_unbuilt_models_are_refused():
    with pytest.raises(ValueError, match="not built"):
        follow.follow(keras.Sequential([L.Dense(2)]), np.ones((2, 2)), [], None)


def test_chains_run_in_the_place_of_a_layer():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, name="a"), L.Dense(2, name="b")])
    x = rng.normal(size=(8, 4)).astype("float32")
    chain = [layer for layer in copied(model).layers[:1]] * 2
    seen = []

    def change(layer, pairs):
        seen.extend(pairs)
        return chain if layer.name == "a" else None

    follow.follow(model, x, model.layers, change)
    (first, same), (before, now) = seen
    np.testing.assert_array_equal(first, same)
    np.testing.assert_allclose(now, chain[0](chain[0](x)), atol=1e-6)
    np.testing.assert_allclose(before, model.layers[0](x), atol=1e-6)


class Composite(L.Layer):
    """Two products of one input, and one of their sum."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = L.Dense(6, name="one"), L.Dense(6, name="two")
        self.last = [L.Dense(6, name="last"), L.Dense(6, name="idle")]

    def call(self, x):
        return self.last[0](inputs=keras.ops.tanh(self.one(x) + self.two(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [Composite(), Composite()]
        self.out = L.Dense(2, name="out")

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return self.out(x)


def graph_of_composites():
    x = keras.Input((6,))
    return keras.Model(
        x, L.Dense(2, name="out")(Composite()(L.Dense(6, name="in")(Composite()(x))))
    )


def called():
    model = Subclassed()
    model(np.ones((1, 6), "float32"))
    return model


@pytest.mark.parametrize("make", [graph_of_composites, called])
def test_parts_of_composites_change_in_the_order_of_their_calls(make):
    rng = np.random.default_rng(0)
    model = make()
    changed = copied(model)
    x = rng.normal(size=(300, 6)).astype("float32")
    paths = {id(layer): path for path, (layer, _) in walk(model).items()}
    others = {path: layer for path, (layer, _) in walk(changed).items()}
    order = []

    def change(layer, pairs):
        path = paths[id(layer)]
        before, now = (np.concatenate(part) for part in zip(*pairs, strict=True))
        for net, one, array in ((model, layer, before), (changed, others[path], now)):
            seen = []
            watching(net, [one], lambda _, array, seen=seen: seen.append(array))(x)
            np.testing.assert_allclose(array, seen[0], atol=1e-5)
        order.append(path)
        others[path].kernel.assign(others[path].kernel.numpy() * 1.5)
        return [others[path]]

    wanted = [layer for layer, _ in walk(model).values() if type(layer) is L.Dense]
    follow.follow(model, x, wanted, change)
    names = [path.rpartition("/")[2] for path in order]
    inner = ["in"] if make is graph_of_composites else []
    assert names == ["one", "two", "last", *inner, "one", "two", "last", "out"]


def test_parts_with_one_input_are_measured_in_one_run():
    model, counted = called(), []
    call = model.parts[0].one.call
    model.parts[0].one.call = lambda x, **kwargs: counted.append(1) or call(x, **kwargs)
    wanted = [model.parts[0].one, model.parts[0].two]
    x = np.ones((10, 6), "float32")
    follow.follow(model, x, wanted, lambda layer, pairs: list(pairs) and None)
    assert len(counted) <= 3  # the order of the calls, and the outputs before and now


def test_masks_and_batches_of_any_length_go_through_stretches():
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int32")
    x = L.Embedding(9, 4, mask_zero=True, name="table")(ids)
    x = L.LSTM(4, return_sequences=True)(L.LayerNormalization()(x))
    pooled = L.GlobalAveragePooling1D()(x)  # by the mask
    model = keras.Model(ids, L.Dense(2, name="out")(L.Dense(3, name="first")(pooled)))
    x = np.random.default_rng(0).integers(0, 3, (257, 5))  # a batch of 256 and one of 1
    seen = {}

    def change(layer, pairs):
        seen[layer.name] = [np.concatenate(part) for part in zip(*pairs, strict=True)]
        return [copied(layer)] if layer.name == "table" else None

    follow.follow(model, x, [model.get_layer(name) for name in ("table", "first", "out")], change)
    for name in ("first", "out"):
        expected = inputs_of(model, name, x)
        for found in seen[name]:
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_model_that_runs_eagerly_runs_step_by_step():
    calls = []

    class Twice(L.Layer):
        def call(self, x):
            calls.append(x)
            return 2 * x

    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Dense(2, name="out")(Twice()(L.Dense(3, name="first")(inputs))))
    model.compile(run_eagerly=True)
    calls.clear()
    seen = []
    follow.follow(model, np.ones((4, 3)), model.layers, lambda layer, _: seen.append(layer.name))
    assert seen == ["first", "twice", "out"]
    assert calls and all(hasattr(x, "numpy") for x in calls)


def test_operations_may_count_on_a_fixed_batch():
    inputs = keras.Input((3, 2), batch_size=2)
    x = keras.ops.reshape(L.Dense(2, name="first")(inputs), (inputs.shape[0], -1))
    model = keras.Model(inputs, L.Dense(2, name="out")(x))
    seen = []
    wanted = [model.get_layer("first"), model.get_layer("out")]
    follow.follow(model, np.ones((4, 3, 2)), wanted, lambda layer, _: seen.append(layer.name))
    assert seen == ["first", "out"]


def test_later_layers_see_another_activation_of_a_changed_layer():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), L.Dense(5, "relu"), L.Dense(3)])
    first, second = model.layers
    x, seen = np.random.default_rng(0).normal(size=(20, 6)).astype("float32"), []
    part = tfc.layers.QuantizedDense.from_layer(first, bits=4)

    def change(layer, pairs):
        seen.append([np.array(now) for _, now in pairs])
        return [part] if layer is first else None

    for activation in (part.activation, keras.activations.tanh):
        part.activation = activation
        follow.follow(model, x, [first, second], change)
        np.testing.assert_allclose(np.concatenate(seen[-1]), part(x), atol=1e-6)


@pytest.mark.parametrize(
    "layer", [L.Dense(4), L.Conv2D(4, 3), L.DepthwiseConv2D(3, use_bias=False)]
)
def test_a_compressed_layer_runs_as_the_ordinary_one_with_other_weights(layer):
    layer.build((None, 5, 5, 2))
    part = getattr(tfc.layers, f"Quantized{type(layer).__name__}").from_layer(layer, bits=4)
    assert follow._same_but_for_weights(part, layer)
    assert not follow._same_but_for_weights(layer, layer)
