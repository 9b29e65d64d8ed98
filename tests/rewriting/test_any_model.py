"""Layers replaced in models of every kind: what stays as it was, and what Keras reads back."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.addresses import addresses
from tfcompress.graph.chain import Chain

L = keras.layers
BITS = tfc.layers.rounding(4)
CHAIN = tfc.layers.LowRankDense.using(rank=2).then(tfc.layers.QuantizedDense.using(bits=8))


@keras.saving.register_keras_serializable("test_any_model")
class Block(L.Layer):
    """Parts in a list, in a dict and in a composite layer."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.sequence = [L.Dense(units, activation="relu"), L.Dense(16)]
        self.others = {"norm": L.LayerNormalization(), "dense": L.Dense(16)}
        self.attention = L.MultiHeadAttention(2, 8)

    def build(self, shape):
        self.sequence[0].build(shape)
        self.sequence[1].build((*shape[:-1], self.units))
        self.others["norm"].build(shape)
        self.others["dense"].build(shape)
        self.attention.build(shape, shape)
        self.built = True

    def call(self, x):
        x = x + self.attention(query=x, value=x)
        for layer in self.sequence:
            x = layer(x)
        return self.others["norm"](x + self.others["dense"](x))

    def get_config(self):
        return super().get_config() | {"units": self.units}


@keras.saving.register_keras_serializable("test_any_model")
class WithGraph(L.Layer):
    """A Sequential model inside; Keras makes the config from the arguments."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.Sequential([L.Dense(units, activation="relu"), L.Dense(16)])

    def build(self, shape):
        self.inner.build(shape)
        self.built = True

    def call(self, x):
        return x + self.inner(x)


@keras.saving.register_keras_serializable("test_any_model")
class Net(keras.Model):
    """A subclassed model with a step of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(24), Block(20)]
        self.inner = WithGraph(24)
        self.head = L.Dense(3)
        self.steps = 0

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.inner(x))

    def train_step(self, *args):
        self.steps += 1
        return super().train_step(*args)

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable("test_any_model")
class Doubled(keras.Model):
    """A Functional model whose class has a `call` of its own."""

    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


@keras.saving.register_keras_serializable("test_any_model")
class Backbone(keras.Model):
    """A Functional model that its class makes from arguments, as KerasHub's backbones are."""

    def __init__(self, width=16, **kwargs):
        x = keras.Input((6, 16))
        self.first = L.Dense(width, name="first")
        super().__init__(x, L.Dense(3)(Block(24)(L.Dense(16)(self.first(x)))), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width}


@keras.saving.register_keras_serializable("test_any_model")
class TiedHead(L.Layer):
    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.table.kernel))

    def get_config(self):
        return super().get_config() | {"table": keras.saving.serialize_keras_object(self.table)}


def data():
    return np.random.default_rng(0).normal(size=(4, 6, 16)).astype("float32")


def functional():
    x = keras.Input((6, 16))
    h = WithGraph(20)(L.Dense(16, name="plain")(Block(24, name="b")(Block(24)(x))))
    return keras.Model(x, L.Dense(3)(h))


def subclassed():
    model = Net()
    model(data())
    return model


def doubled():
    x = keras.Input((6, 16))
    return Doubled(x, L.Dense(3, name="fc")(L.Dense(12)(x)))


def wrapped():
    x = keras.Input((6, 16))
    return keras.Model(x, L.TimeDistributed(L.Dense(8), name="wrapper")(x))


MODELS = {f.__name__: f for f in (functional, subclassed, doubled, Backbone, wrapped)}


@pytest.fixture(params=sorted(MODELS))
def model(request):
    return MODELS[request.param]()


def unchanged(model, before):
    after = model.get_weights()
    return all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("maker", ["bits", "chain"])
def test_a_swap_trains_saves_and_loads(model, maker, tmp_path):
    before, x = model.get_weights(), data()
    rules = BITS if maker == "bits" else {L.Dense: CHAIN}
    new = tfc.swap(model, rules)
    kernels = [layer for layer, _ in tfc.walk(model).values() if type(layer) is L.Dense]
    compressed = [p for p, _ in tfc.walk(new).values() if isinstance(p, tfc.layers.CompressedLayer)]
    assert len(compressed) >= len(kernels) * (1 if maker == "bits" else 2)
    assert isinstance(new, type(model)) and type(new).__name__ == type(model).__name__
    assert new.name == model.name
    new.compile("adam", "mse")
    new.fit(x, np.zeros_like(new.predict(x, verbose=0)), verbose=0)
    assert unchanged(model, before)
    y = new.predict(x, verbose=0)
    new.save(tmp_path / "new.keras")
    again = keras.models.load_model(tmp_path / "new.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), y)
    assert isinstance(again, type(model))
    tfc.swap(again, {}).save(tmp_path / "again.keras")  # a copy of what was read is saved as well
    last = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(last.predict(x, verbose=0), y)


def test_a_composite_key_concerns_the_parts_that_the_maker_takes():
    new = tfc.swap(functional(), {L.MultiHeadAttention: tfc.layers.QuantizedEinsumDense})
    kinds = {path: type(layer) for path, (layer, _) in tfc.walk(new).items()}
    assert sum(kind is tfc.layers.QuantizedEinsumDense for kind in kinds.values()) == 8
    one = tfc.swap(functional(), {"b": tfc.layers.QuantizedDense})
    made = [p for p, (x, _) in tfc.walk(one).items() if type(x) is tfc.layers.QuantizedDense]
    assert len(made) == 3 and all(path.startswith("b/") for path in made)
    kept = tfc.swap(functional(), {"b": None, L.Dense: tfc.layers.QuantizedDense})
    made = [p for p, (x, _) in tfc.walk(kept).items() if type(x) is tfc.layers.QuantizedDense]
    assert made and not any(path.startswith("b/") for path in made)


def test_in_place_keeps_every_reference(model):
    x = data()
    parts = {id(layer) for layer, _ in tfc.walk(model).values()}
    expected = tfc.swap(model, BITS).predict(x, verbose=0)
    model.compile("adam", "mse")
    same = tfc.swap(model, BITS, inplace=True)
    assert same is model and not model.compiled
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    left = [layer for layer, _ in tfc.walk(model).values()]
    new = [layer for layer in left if id(layer) not in parts]
    assert new and all(isinstance(layer, tfc.layers.CompressedLayer) for layer in new)
    model.compile("adam", "mse")
    model.fit(x, np.zeros_like(expected), verbose=0)


def test_a_chain_is_layers_in_a_graph_and_one_layer_in_a_composite():
    new = tfc.swap(functional(), {L.Dense: CHAIN})
    kinds = {path: type(layer) for path, (layer, _) in tfc.walk(new).items()}
    assert kinds["plain"] is tfc.layers.QuantizedDense and "plain_in" in kinds
    assert sum(kind is Chain for kind in kinds.values()) == 8
    back = tfc.to_ordinary(new)
    assert not any(isinstance(x, tfc.layers.CompressedLayer) for x, _ in tfc.walk(back).values())
    np.testing.assert_allclose(back(data()), new(data()), atol=1e-5)


def test_a_step_of_its_own_a_tie_and_frozen_layers_stay():
    net = subclassed()
    net.blocks[0].trainable = False
    new = tfc.swap(net, BITS)
    new.compile("sgd", "mse")
    new.fit(data(), np.zeros((4, 6, 3)), batch_size=2, verbose=0)
    assert (net.steps, new.steps) == (0, 1)  # traced once
    assert not new.blocks[0].trainable and new.blocks[1].trainable
    assert not new.blocks[0].trainable_variables

    x = keras.Input((6, 16))
    shared = L.Dense(16, name="shared", use_bias=False)
    tied = keras.Model(x, TiedHead(shared)(shared(x)))
    new = tfc.swap(tied, {"shared": tfc.layers.BinaryDense})
    assert new.layers[-1].table is new.get_layer("shared")
    assert len(new.weights) == len(new.get_layer("shared").weights)


def test_another_width_is_known_to_the_graph():
    model = keras.Sequential([keras.Input((4,)), L.Dense(8, name="fc"), L.Dense(3, name="out")])
    new = tfc.swap(model, {"out": lambda layer: L.Dense(5, name=layer.name)})
    assert new.output_shape == (None, 5)
    assert new.predict(np.ones((2, 4)), verbose=0).shape == (2, 5)


def test_addresses_are_attributes_indices_and_keys():
    found = [address for address, _ in addresses(Block(24))]
    assert found[:2] == ["attention", "others/norm"]
    assert {"others/dense", "sequence/0", "sequence/1"} < set(found)


OTHER_PROCESS = """
    import sys, keras, numpy as np, tfcompress
    sys.path.insert(0, {folder!r})
    import test_any_model
    model = keras.models.load_model({path!r})
    np.save({path!r} + ".npy", model.predict(test_any_model.data(), verbose=0))
"""


@pytest.mark.slow
def test_a_fresh_process_reads_it(tmp_path):
    new, path = tfc.swap(subclassed(), BITS), str(tmp_path / "new.keras")
    new.save(path)
    code = textwrap.dedent(OTHER_PROCESS.format(folder=__file__.rpartition("/")[0], path=path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    np.testing.assert_array_equal(np.load(path + ".npy"), new.predict(data(), verbose=0))


def test_a_class_that_makes_other_parts_now_is_told(tmp_path, monkeypatch):
    new = tfc.swap(subclassed(), BITS)
    new.save(tmp_path / "new.keras")
    monkeypatch.setattr(Net, "__init__", lambda self, **_: keras.Model.__init__(self))
    with pytest.raises(Exception, match="Its class makes other parts"):
        keras.models.load_model(tmp_path / "new.keras")
