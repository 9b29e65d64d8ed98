"""Faults that only the .tflite file has."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.tflite.reader import constant, operator_name, read
from tfcompress.tflite.taps import Taps, real_constant
from tfcompress.tflite.writer import write

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="files are made with TensorFlow"
)
COPIES = ("RESHAPE", "EXPAND_DIMS", "TRANSPOSE", "MAX_POOL_2D")
X = np.random.default_rng(0).standard_normal((64, 6, 8)).astype("float32")


def residual():
    x = keras.Input((6, 8))
    h = keras.layers.Dense(16, "relu", name="embed")(x)
    y = keras.layers.Conv1D(16, 3, padding="same", name="conv")(h)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(y))
    h = keras.layers.Add(name="sum")([h, y])
    y = keras.layers.LayerNormalization(name="ln")(h)
    h = keras.layers.MultiHeadAttention(2, 8, name="attention")(y, y)
    h = keras.layers.GlobalAveragePooling1D()(h)
    return keras.Model(x, keras.layers.Dense(5, name="out")(h))


def recurrent():
    x = keras.Input((6, 8))
    h = keras.layers.GRU(12, name="gru")(x)
    return keras.Model(x, keras.layers.Dense(5, name="out")(h))


def net(make):
    keras.utils.set_random_seed(0)
    model = make()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(np.linspace(0.5, 2, 16))
            tfc.recalibrate_batch_norm(model, X)
    return model


def kernel_of_file(file, path):
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            if tensor.name.decode() in (f"{path}/kernel", path):
                return tensor
    raise AssertionError(f"no constant of {path}")


def changed(blob, path, change):
    file = read(blob)
    tensor = kernel_of_file(file, path)
    values = np.ascontiguousarray(change(constant(file, tensor).copy()))
    file.buffers[tensor.buffer].data = values.reshape(-1).view(np.uint8)
    return write(file)


def transpose(w):
    return w.reshape(len(w), -1).T.reshape(w.shape)


def without_a_row(w):
    w[3] = 0
    return w


CASES = [
    (residual, "embed", transpose, "weights moved"),
    (residual, "conv", transpose, "weights moved"),
    (residual, "conv", lambda w: w[::-1], "weights moved"),
    (residual, "attention/value", without_a_row, "dead channels"),
    (residual, "attention/attention_output", lambda w: (w * 0.5).astype(w.dtype), "scale off"),
    (residual, "out", without_a_row, "dead channels"),
    (recurrent, "gru/gru_cell/recurrent_kernel", transpose, "weights moved"),
    (recurrent, "out", lambda w: (-w).astype(w.dtype), "scale off"),
]


@pytest.mark.parametrize(("make", "path", "change", "cause"), CASES)
@pytest.mark.parametrize("rounded", [False, True])
def test_a_changed_kernel_is_named(make, path, change, cause, rounded):
    model = net(make)
    small = tfc.swap(model, tfc.layers.rounding(8)) if rounded else model
    blob = changed(tfc.to_tflite(small, activations="float32"), path, change)
    found = tfc.explain(model, small, X, tflite=blob)
    row = found.layers[0]
    assert (row.path, row.cause.name) == (path, cause)
    assert row.cause.evidence.startswith("in the file, ")
    assert str(row.cure) == "tfc.to_tflite(small, path, check=x)"


def test_a_sound_file_adds_nothing():
    model = net(residual)
    small = tfc.swap(model, tfc.layers.rounding(4))
    alone = tfc.explain(model, small, X)
    found = tfc.explain(model, small, X, tflite=tfc.to_tflite(small, activations="float32"))
    assert found.rise == pytest.approx(alone.rise, rel=1e-3)
    assert all(row.file_error is None for row in found.layers)


def test_shares_add_up_to_the_rise_of_the_file():
    model = net(residual)
    small = tfc.swap(model, tfc.layers.rounding(4))
    blob = tfc.to_tflite(small, activations="static_int8", check=X)
    found = tfc.explain(model, small, X, tflite=blob)
    z0, z = np.array(model(X)), Taps(blob).run([X])[0][0]
    assert found.after == pytest.approx(np.mean((z - z0) ** 2) / z0.var(), rel=1e-3)
    assert sum(row.share for row in found.layers) == pytest.approx(found.rise, rel=1e-3)


@pytest.mark.parametrize("path", ["embed", "conv", "attention/query", "out"])
def test_a_range_that_clips_is_named(path):
    model = net(residual)
    file = read(tfc.to_tflite(model, activations="static_int8", check=X))
    graph, tensor = file.subgraphs[0], kernel_of_file(file, path)
    place = graph.tensors.index(tensor)
    operator = next(o for o in graph.operators if place in list(o.inputs))
    outputs = [operator.outputs[0]]
    for other in graph.operators:  # that only copy the integers
        if other.inputs[0] in outputs and operator_name(file, other) in COPIES:
            outputs.append(other.outputs[0])
    for index in outputs:
        table = graph.tensors[index].quantization
        table.scale = np.asarray(table.scale) * np.float32(0.2)
    row = tfc.explain(model, model, X, tflite=write(file)).layers[0]
    assert (row.path, row.cause.name) == (path, "activation range clipped")


def test_ranges_of_too_small_samples_are_named():
    model = net(recurrent)
    blob = tfc.to_tflite(model, activations="static_int8", check=X / 5)
    found = tfc.explain(model, model, X, tflite=blob)
    assert found.layers[0].cause.name == "activation range clipped"


def test_constants_are_the_numbers_that_they_stand_for():
    model = net(recurrent)
    small = tfc.swap(model, tfc.layers.rounding(8))
    taps = Taps(tfc.to_tflite(small))
    names = [t.name.decode() for t in taps.graph.tensors]
    kernel = real_constant(taps.graph, names.index("out/kernel"))
    np.testing.assert_allclose(kernel.T, np.array(small.get_layer("out").kernel), atol=1e-6)


def test_the_metric_is_that_of_the_file():
    model = net(recurrent)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    y = np.argmax(model(X), -1)
    blob = changed(tfc.to_tflite(model), "out", lambda w: (-w).astype(w.dtype))
    found = tfc.explain(model, model, (X, y), tflite=blob)
    right = np.mean(np.argmax(Taps(blob).run([X])[0][0], -1) == y)
    assert found.metric == ("accuracy", 1.0, pytest.approx(right))
    assert found.after > found.before


@pytest.mark.parametrize(("inputs", "outputs", "of"), [(6, 3, "inputs"), (5, 2, "outputs")])
def test_the_file_of_another_model_is_refused(inputs, outputs, of):
    models = []
    for sizes in ((5, 3), (inputs, outputs)):
        x = keras.Input((sizes[0],))
        models.append(keras.Model(x, keras.layers.Dense(sizes[1], name="out")(x)))
    with pytest.raises(ValueError, match=f"Expected `tflite` to be the file of `small`, with {of}"):
        tfc.explain(models[0], models[0], np.ones((8, 5)), tflite=tfc.to_tflite(models[1]))
