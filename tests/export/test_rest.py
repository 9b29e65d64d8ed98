"""`rest`: what becomes of kernels that nobody compressed."""

import contextlib
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from oracles_export import encodings, error, operators, run

from tfcompress.export import to_tflite
from tfcompress.layers import QuantizedEmbedding, rounding
from tfcompress.rewriting.swap import swap
from tfcompress.tflite.reader import operator_name, read
from tfcompress.tflite.runner import Runner
from tfcompress.tflite.stored_tensors import stored_tensors


class Residual(layers.Layer):
    def __init__(self, filters):
        super().__init__()
        self.first = layers.Conv2D(filters, 3, padding="same")
        self.second = layers.Conv2D(filters, 3, padding="same")
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return ops.relu(x + self.norm(self.second(ops.relu(self.first(x)))))


def dense():
    x = inputs = keras.Input((96,))
    for width in (128, 64):
        x = layers.Dense(width, "relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def mobile():
    x = inputs = keras.Input((24, 24, 3))
    x = layers.Conv2D(16, 3, strides=2, use_bias=False)(x)
    for width in (48, 64):
        x = layers.ReLU(6)(layers.BatchNormalization()(x))
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.Conv2D(width, 1, use_bias=False)(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(20)(layers.GlobalAveragePooling2D()(x)))


def unet():
    inputs = keras.Input((16, 16, 3))
    a = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    b = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(a)
    c = layers.Conv2DTranspose(16, 3, strides=2, padding="same")(b)
    return keras.Model(inputs, layers.Conv2D(2, 1)(layers.Concatenate()([a, c])))


def attention():
    x = inputs = keras.Input((12, 32))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(32)(layers.Dense(96, "gelu")(x)))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def custom():
    x = inputs = keras.Input((8, 8, 16))
    for _ in range(2):
        x = Residual(16)(x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def separable():
    x = inputs = keras.Input((12, 12, 32))
    for _ in range(2):
        x = layers.SeparableConv2D(48, 3, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(12)(layers.GlobalAveragePooling2D()(x)))


def recurrent(kind):
    x = inputs = keras.Input((10, 16), batch_size=1)
    x = kind(32, return_sequences=True, name="first")(x)
    return keras.Model(inputs, layers.Dense(4)(kind(32, name="second")(x)))


def embedding():
    inputs = keras.Input((12,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(600, 32, name="table")(inputs))
    return keras.Model(inputs, layers.Dense(4)(layers.Dense(64, "relu")(x)))


FAMILIES = {
    **{f.__name__: f for f in (dense, mobile, unet, attention, custom, separable, embedding)},
    "lstm": lambda: recurrent(layers.LSTM),
    "gru": lambda: recurrent(layers.GRU),
}


def samples(model, batch=4):
    random, (tensor,) = np.random.default_rng(0), model.inputs
    shape = (tensor.shape[0] or batch, *tensor.shape[1:])
    if tensor.dtype == "int32":
        return random.integers(0, 600, shape).astype("int32")
    return random.standard_normal(shape).astype("float32")


def many(model, count):
    """Samples for a model of batch 1."""
    random = np.random.default_rng(0)
    shape = (count, *model.inputs[0].shape[1:])
    return random.standard_normal(shape).astype("float32")


def dynamic_range(model):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return converter.convert()


def rms(y, expected):
    expected = np.asarray(expected)
    return float(np.sqrt(np.mean((y - expected) ** 2) / np.mean(expected**2)))


def outputs(blob, x, batch, delegates):
    run = Runner(blob, delegates)
    return np.concatenate([run([x[i : i + batch]])[0] for i in range(0, len(x), batch)])


@pytest.mark.parametrize("name", FAMILIES)
def test_no_file_is_larger_or_further_off_than_the_stock_dynamic_range(name):
    keras.utils.set_random_seed(0)
    model = FAMILIES[name]()
    batch = model.inputs[0].shape[0] or 24
    x = samples(model, 24) if batch > 1 else many(model, 10)
    expected = np.concatenate([model(x[i : i + batch]) for i in range(0, len(x), batch)])
    stock = dynamic_range(model)
    rested = to_tflite(model, check=x, rest="int8")
    rounded = to_tflite(swap(model, rounding(8), data=x), check=x)
    half = to_tflite(model, check=x, rest="float16")
    assert len(rested) <= len(stock) and len(rounded) <= len(stock)
    assert len(rested) < len(half) < len(to_tflite(model, check=x))
    for delegates in (True, False):
        most = rms(outputs(stock, x, batch, delegates), expected)
        assert rms(outputs(rested, x, batch, delegates), expected) <= 1.02 * most
        assert rms(outputs(half, x, batch, delegates), expected) <= 2e-3
        assert rms(outputs(rounded, x, batch, delegates), expected) <= 1.02 * most
    large = [r for r in stored_tensors(rested) if r.encoding != "graph"]
    assert not any(r.encoding == "FLOAT32" and np.prod(r.shape) >= 1024 for r in large)


def test_kernels_in_the_bodies_of_loops_are_named_and_rounded():
    model = recurrent(layers.LSTM)
    blob = to_tflite(model, rest="int8")
    found = {r.layer: r.encoding for r in stored_tensors(blob) if "kernel" in r.layer}
    loops = [
        f"{layer}/lstm_cell/{name}"
        for layer in ("first", "second")
        for name in ("kernel", "recurrent_kernel")
    ]
    assert [found[name] for name in loops] == ["INT8"] * 4
    file = read(blob)
    inner = {operator_name(file, o) for graph in file.subgraphs[1:] for o in graph.operators}
    assert "FULLY_CONNECTED" in inner


def test_a_rounded_kernel_is_the_nearest_on_the_grid_of_its_rows():
    model = dense()
    blob = to_tflite(model, rest="int8", activations="float32")
    file = read(blob)
    name = f"{model.layers[1].name}/kernel"
    tensor = next(t for t in file.subgraphs[0].tensors if t.name.decode() == name)
    stored = np.frombuffer(file.buffers[tensor.buffer].data, np.int8).reshape(128, 96)
    kernel = model.layers[1].kernel.numpy().T
    np.testing.assert_allclose(tensor.quantization.scale, np.abs(kernel).max(1) / 127, rtol=1e-6)
    step = tensor.quantization.scale[:, None]
    assert np.abs(stored * step - kernel).max() <= 0.501 * step.max()
    assert "DEQUANTIZE" in operators(blob)
    x = samples(model)
    assert error(run(blob, [x])[0], model(x)) < 0.02


def test_what_was_compressed_keeps_its_bits():
    model = embedding()
    small = swap(model, {"table": QuantizedEmbedding.using(bits=4)})
    x = samples(model)
    blob = to_tflite(small, check=x, rest="int8")
    found = {r.layer: r.encoding for r in stored_tensors(blob)}
    assert found["table/embeddings"] == "INT4" and set(encodings(blob).values()) == {
        "INT8",
        "FLOAT32",
    }


def test_small_kernels_stay_in_float32():
    model = keras.Sequential([keras.Input((31,)), layers.Dense(33, name="small")])
    assert encodings(to_tflite(model, rest="int8")) == {"small": "FLOAT32"}


def test_rest_is_checked():
    with pytest.raises(ValueError, match=r"`rest` must be one of .*Received: 'int4'"):
        to_tflite(dense(), rest="int4")


@pytest.mark.parametrize("store", ["fast", "small"])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_int8_never_makes_a_pruned_file_larger(sparsity, store):
    from tfcompress.pruning.one_shot import prune

    keras.utils.set_random_seed(0)
    small = prune(dense(), sparsity)
    whole, eight = (len(to_tflite(small, store=store, rest=rest)) for rest in ("float32", "int8"))
    assert eight <= whole
