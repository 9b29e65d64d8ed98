"""Models that are no plain graphs: subclassed, composites with replaced parts, own `call`s."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from oracles_export import encodings, error, run

from tfcompress.export import ExportError, to_tflite
from tfcompress.layers import LowRankDense, QuantizedDense, QuantizedEinsumDense, rounding
from tfcompress.reporting.model_report import report
from tfcompress.rewriting.swap import swap
from tfcompress.tflite.reader import read, type_name
from tfcompress.tflite.stored_tensors import stored_tensors


class Block(layers.Layer):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 16, name="attention")
        self.norm = layers.LayerNormalization()
        self.wide = [layers.Dense(2 * width, "relu", name="up"), layers.Dense(width, name="down")]

    def call(self, x):
        x = self.norm(x + self.attention(x, x))
        y = x
        for layer in self.wide:
            y = layer(y)
        return x + y


class Network(keras.Model):
    """Lists of blocks, a part whose graph has a normalization, and a dict of outputs."""

    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(50, 32, name="embedding")
        self.blocks = [Block(32, name=f"block{i}") for i in range(2)]
        conv = layers.Conv1D(24, 3, use_bias=False, name="conv")
        self.head = keras.Sequential(
            [conv, layers.BatchNormalization(), layers.ReLU()], name="head"
        )
        self.out = layers.Dense(64, name="out")

    def call(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return {"scores": self.out(x), "features": self.head(x)}


IDS = np.random.default_rng(0).integers(0, 50, (4, 9)).astype("int32")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    model = Network()
    model(IDS)
    norm = model.head.layers[1]
    random = np.random.default_rng(1)
    norm.set_weights([random.uniform(0.5, 1.5, w.shape) for w in norm.get_weights()])
    return model


def names(blob):
    (signature,) = read(blob).signatureDefs
    return [[entry.name.decode() for entry in e] for e in (signature.inputs, signature.outputs)]


def test_a_subclassed_model_is_exported_with_its_names(network):
    blob = to_tflite(network, check=IDS)
    assert names(blob) == [["ids"], ["features", "scores"]]
    for batch in (IDS, IDS[:1]):
        expected = network(batch, training=False)
        for delegates in (True, False):
            for y, name in zip(run(blob, [batch], delegates), names(blob)[1], strict=True):
                assert error(y, expected[name]) < 2e-5


@pytest.mark.parametrize("bits, encoding", [(2, "INT2"), (4, "INT4"), (8, "INT8")])
def test_kernels_inside_composites_are_packed_and_found_by_path(network, bits, encoding):
    small = swap(network, rounding(bits))
    blob = to_tflite(small, check=IDS)
    parts = [f"attention/{part}" for part in ("query", "key", "value", "attention_output")]
    paths = [f"block{i}/{part}" for i in range(2) for part in (*parts, "up", "down")]
    assert encodings(blob) == dict.fromkeys([*paths, "out"], encoding) | {"head/conv": "INT8"}
    rows = {row.path: row for row in report(small, tflite=blob).rows}
    assert {rows[path].encodings for path in paths} == {(encoding,)}
    scales = () if bits == 8 else ("FLOAT32",)  # tables in 8 bits have one, as stock ones have
    assert rows["embedding"].encodings == (encoding, *scales)
    assert not any(row.full_size for row in rows.values())


def test_chains_in_composites_keep_the_path_of_the_layer(network):
    small = swap(network, {"block0/up": LowRankDense.using(rank=3)})
    blob = to_tflite(small, check=IDS)
    shapes = {row.layer: row.shape for row in stored_tensors(blob) if "block0/up" in row.layer}
    assert sorted(shapes.values()) == [(3, 32), (64, 3)]
    row = next(r for r in report(small, tflite=blob).rows if r.path == "block0/up")
    assert row.file_bytes == 4 * 3 * (32 + 64)


class OwnCall(keras.Model):
    """A Functional model whose `call` is not its graph."""

    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs, training=training) + 1.0


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_functional_subclass_exports_what_its_call_computes(large):
    width = 1024 if large else 32  # a kernel of 2**20 entries bypasses the converter
    inputs = keras.Input((width,), name="x")
    model = OwnCall(inputs, layers.Dense(width, name="fc")(inputs))
    (x,) = [np.random.default_rng(0).standard_normal((3, width)).astype("float32")]
    blob = to_tflite(model)
    assert error(run(blob, [x])[0], model(x)) < 2e-5
    assert error(run(blob, [x])[0], model.get_layer("fc")(x)) > 0.5
    assert names(blob) == [["x"], ["output"]]


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(8), layers.Dense(8)

    def call(self, left, right, training=None):
        return self.first(left) - self.second(right)


def test_inputs_come_from_the_build_from_samples_or_from_a_signature():
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 3, 6)).astype("float32")
    model = TwoInputs()
    model(left, right)
    check = {"left": left, "right": right}
    spec = keras.InputSpec(shape=(2, 6), dtype="float32")
    signature = {"left": spec, "right": spec}
    with pytest.raises(ValueError, match="`TwoInputs` are not known"):
        to_tflite(model)
    for given in ({"check": check}, {"input_signature": signature}):
        blob = to_tflite(model, **given)
        assert names(blob) == [["left", "right"], ["output"]]
    assert list(read(blob).subgraphs[0].tensors[0].shape) == [2, 6]
    y = run(blob, [left[:2], right[:2]])[0]
    assert error(y, model(left[:2], right[:2])) < 2e-5


def test_inputs_of_the_build():
    model = OneInput()
    x = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    model(x)
    blob = to_tflite(model)
    assert names(blob) == [["inputs"], ["output_0", "output_1"]]
    for y, expected in zip(run(blob, [x]), model(x), strict=True):
        assert error(y, expected) < 2e-5


def test_half_precision_takes_float32_with_and_without_samples():
    model = OneInput(dtype="mixed_float16")
    model(np.ones((3, 6), "float32"))
    kinds = [read(to_tflite(model, check=check)) for check in (None, np.ones((3, 6), "float32"))]
    assert [type_name(file.subgraphs[0].tensors[0]) for file in kinds] == ["FLOAT32"] * 2


def test_inputs_without_names_have_those_of_their_layers():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(5, name="fc")(inputs))
    own = inputs._keras_history.operation.name
    for spec in (None, tf.TensorSpec((1, 6)), keras.InputSpec(shape=(1, 6), dtype="float32")):
        assert names(to_tflite(model, input_signature=spec)) == [[own], ["fc"]]
    named = to_tflite(model, input_signature=tf.TensorSpec((1, 6), name="picture"))
    assert names(named) == [["picture"], ["fc"]]
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    assert to_tflite(model) == to_tflite(again)


def test_no_two_outputs_have_one_name():
    x = keras.Input((5, 3), name="x")
    first = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(x)
    second = layers.LSTM(4, return_state=True, name="lstm_1")(first[0])
    (_, given) = names(to_tflite(keras.Model(x, [*first, *second])))
    assert len(given) == len(set(given)) == 6 and {"lstm", "lstm_1"} <= set(given)


class OneInput(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fc = layers.Dense(5)

    def call(self, inputs):
        return self.fc(inputs), 2.0 * inputs


def test_what_is_not_known_is_asked_for():
    with pytest.raises(ValueError, match=r"not called yet.*Give samples as `check`"):
        to_tflite(Network())
    with pytest.raises(ValueError, match=r"InputSpec.*Received: 3"):
        to_tflite(Network(), input_signature=3)


class Svd(layers.Layer):
    def call(self, x):
        return tf.linalg.svd(x, compute_uv=False)


class Branch(layers.Layer):
    def call(self, x):
        return x if float(tf.reduce_sum(x)) > 0 else -x


class Around(layers.Layer):
    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner(x)


class OwnLoop(layers.LSTM):
    """A layer whose loop the exporter does not know."""

    def inner_loop(self, *args, **kwargs):
        return super().inner_loop(*args, **kwargs)


@pytest.mark.parametrize(
    "inner, message",
    [
        (Svd(name="bad"), "tf.Svd of layer 'block/bad'"),
        (OwnLoop(4, name="bad"), "of layer 'block/bad'. A loop that a layer writes itself needs a"),
        (Branch(name="bad"), r"cannot be traced into a graph: [^\x1b]*Branch.call"),
    ],
    ids=["operator", "loop", "Python"],
)
def test_what_cannot_be_converted_is_named(inner, message):
    block, x = Around(inner, name="block"), np.ones((2, 5, 5), "float32")

    class Whole(keras.Model):
        def call(self, x):
            return block(x)

    model = Whole()
    model.block = block
    model(x)
    with pytest.raises(ExportError, match=message):
        to_tflite(model, check=x)


def test_a_signature_fixes_the_batch_of_a_graph():
    model = keras.Sequential([keras.Input((5, 3)), OwnLoop(4)])
    with pytest.raises(ExportError, match="known batch size"):
        to_tflite(model)
    blob = to_tflite(model, input_signature=keras.InputSpec(shape=(1, 5, 3)))
    x = np.random.default_rng(0).standard_normal((1, 5, 3)).astype("float32")
    assert error(run(blob, [x])[0], model(x)) < 2e-5


def test_arguments_by_keyword_in_a_graph():
    inputs = keras.Input((8, 32))
    x = layers.Dense(32, name="fc")(inputs)
    x = layers.MultiHeadAttention(4, 8, name="mha")(query=x, value=x, key=x)
    model = keras.Model(inputs, layers.Dense(32, name="out")(x))
    small = swap(
        model, {"mha/*": QuantizedEinsumDense.using(bits=4), "fc": QuantizedDense.using(bits=2)}
    )
    blob = to_tflite(small)
    rows = {row.path: row for row in report(small, tflite=blob).rows}
    assert rows["fc"].macs == 8 * 32 * 32 and rows["fc"].encodings == ("INT2",)
    kinds = encodings(blob)
    assert kinds.pop("fc") == "INT2" and kinds.pop("out") == "FLOAT32"
    assert set(kinds.values()) == {"INT4"} and len(kinds) == 4


class Counter(layers.Layer):
    def build(self, shape):
        self.calls = self.add_weight(trainable=False)

    def call(self, x):
        self.calls.assign(self.calls + 1.0)
        return x * self.calls


def test_a_state_that_a_file_cannot_have_is_named():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Counter(name="counter")])
    with pytest.raises(ExportError, match=r"layer 'counter' sets a variable in its `call`"):
        to_tflite(model)


def test_a_layer_that_keras_has_quantized_is_named():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8, name="fc")])
    model.quantize("int8")
    with pytest.raises(ExportError, match=r"Keras has quantized layer 'fc' \(int8\)\. Take the"):
        to_tflite(model)
