"""Full-integer files: loops, odd samples, kernels of zeros, columns of very different sizes."""

import os

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import operators, run

from tfcompress.export import ExportError, to_tflite
from tfcompress.export.convert import integer_activations
from tfcompress.tflite.reader import read, type_name
from tfcompress.tflite.runner import Runner
from tfcompress.tflite.stored_tensors import stored_tensors


def rms(y, expected):
    expected = np.asarray(expected, np.float64)
    return float(np.sqrt(np.mean((y - expected) ** 2) / np.mean(expected**2)))


def static(model, x, **options):
    return to_tflite(model, check=x, activations="static_int8", **options)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_a_recurrent_layer_is_exported_with_its_loop_in_hybrid_arithmetic(kind):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 40), batch_size=1)
    x = layers.Bidirectional(getattr(layers, kind)(32))(inputs)
    model = keras.Model(inputs, layers.Dense(40)(x))
    x = normal(3, 12, 40)
    blob = static(model, x)
    for sample in x:
        for delegates in (True, False):
            assert rms(run(blob, [sample[None]], delegates)[0], model(sample[None])) < 0.05
    kernels = [r for r in stored_tensors(blob) if "kernel" in r.layer]
    assert len(kernels) == 5 and {r.encoding for r in kernels} == {"INT8"}


def mixed_columns(rows=128):
    small, large = normal(rows, 3), 50_000 + 800 * normal(rows, 3, seed=1)
    return np.concatenate([small, large], axis=1)


def test_columns_of_very_different_sizes_are_quantized_behind_their_normalization():
    x = mixed_columns()
    norm = layers.Normalization()
    norm.adapt(x)
    model = keras.Sequential([keras.Input((6,)), norm, layers.Dense(64, "relu"), layers.Dense(4)])
    blob = static(model, x)
    codes = operators(blob)
    assert codes[:3] == ["SUB", "MUL", "QUANTIZE"]
    assert rms(run(blob, [x])[0], model(x)) < 0.03
    with pytest.raises(ExportError, match="normalized has columns of too different sizes"):
        static(model, x, io="int8")


def test_columns_of_one_size_are_quantized_at_the_input():
    x = normal(64, 6) * 10 + 3
    norm = layers.Normalization()
    norm.adapt(x)
    model = keras.Sequential([keras.Input((6,)), norm, layers.Dense(64, "relu")])
    assert operators(static(model, x))[0] == "QUANTIZE"


def test_columns_that_nothing_normalizes_are_refused():
    x = mixed_columns()
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, use_bias=False, name="fc")])
    kernel = normal(6, 8)
    kernel[3:] = 0  # all information lies in the small columns
    model.get_layer("fc").kernel.assign(kernel)
    with pytest.raises(ExportError, match=r"Output 'fc' .* root mean square"):
        static(model, x)


class AddedMask(layers.Layer):
    """Scores with one mask added that is computed, and then one that is constant."""

    def call(self, x):
        unseen = keras.ops.cast(x[:, None, :, 0] > 0.5, x.dtype) * (1 - np.eye(7, dtype="float32"))
        later = np.triu(np.ones((7, 7), "float32"), 1)
        scores = keras.ops.matmul(x / 6, keras.ops.transpose(x, (0, 2, 1)))
        scores = scores + unseen * -1e9 + keras.ops.convert_to_tensor(later * -1e9)
        return keras.ops.matmul(keras.ops.softmax(scores), x)


def masked_attention(kind):
    x, ids = normal(40, 7, 32), np.tile(np.arange(7), (40, 1)) % np.arange(2, 42)[:, None]
    if kind == "padding":
        start = keras.Input((7,), dtype="int32")
        table = layers.Embedding(50, 32, mask_zero=True, embeddings_initializer="normal")
        y = table(start)
        return keras.Model(start, layers.MultiHeadAttention(4, 8)(y, y)), ids.astype("int32")
    start = keras.Input((7, 32))
    if kind == "added":
        return keras.Model(start, AddedMask()(start)), x
    grouped = kind == "grouped"
    layer = layers.GroupQueryAttention(8, 4, 2) if grouped else layers.MultiHeadAttention(4, 8)
    return keras.Model(start, layer(start, start, use_causal_mask=True)), x


@pytest.mark.parametrize("kind", ["causal", "padding", "grouped", "added"])
def test_masked_scores_do_not_take_the_range_of_the_others(kind):
    keras.utils.set_random_seed(0)
    model, x = masked_attention(kind)
    for weight in model.weights:
        weight.assign(2 * weight)  # so that attention is not near to a mean
    blob = static(model, x)
    expected = model(x).numpy()
    for delegates in (True, False):
        y = run(blob, [x], delegates)[0]
        assert np.square(y - expected).mean() < 0.1**2 * np.square(expected).mean()


@pytest.mark.parametrize("zeros", ["dense", "conv", "one channel"])
def test_kernels_of_zeros(zeros):
    keras.utils.set_random_seed(0)
    zero = {"kernel_initializer": "zeros"}
    if zeros == "conv":
        depthwise = layers.DepthwiseConv2D(3, depthwise_initializer="zeros")
        parts = [layers.Conv2D(24, 3, activation="relu", **zero), depthwise, layers.Flatten()]
        model = keras.Sequential([keras.Input((8, 8, 3)), *parts, layers.Dense(4)])
        x = normal(20, 8, 8, 3)
    else:
        first = layers.Dense(24, "relu", **(zero if zeros == "dense" else {}))
        model = keras.Sequential([keras.Input((16,)), first, layers.Dense(4)])
        x = normal(20, 16)
        if zeros == "one channel":
            first.kernel.assign(first.kernel.numpy() * (np.arange(24) != 3))
    blob = static(model, x)
    expected = model(x).numpy()
    for delegates in (True, False):
        y = run(blob, [x], delegates)[0]
        assert np.abs(y - expected).max() <= 0.05 * np.abs(expected).max()


def test_a_channel_that_is_nearly_dead_keeps_its_bias():
    keras.utils.set_random_seed(0)
    conv, norm = layers.Conv2D(32, 3, name="conv"), layers.BatchNormalization()
    parts = [conv, norm, layers.ReLU(), layers.Flatten(), layers.Dense(10)]
    model = keras.Sequential([keras.Input((5, 5, 32)), *parts])
    conv.kernel.assign(np.sign(conv.kernel))
    dead = np.arange(32) == 3
    norm.gamma.assign(np.where(dead, 1e-14, 0.1))
    norm.beta.assign(np.where(dead, 3.0, 0.0))
    x = normal(40, 5, 5, 32)
    blob = static(model, x)
    assert "INT" in next(r.encoding for r in stored_tensors(blob) if "conv/kernel" in r.layer)
    for delegates in (True, False):
        assert rms(run(blob, [x], delegates)[0], model(x)) < 0.05


SAMPLES = {
    "float64": lambda x: x.astype("float64"),
    "float16": lambda x: x.astype("float16"),
    "integers": lambda x: np.rint(4 * x).astype("int32"),
    "bytes": lambda x: np.rint(40 + x).astype("uint8"),
    "other byte order": lambda x: x.astype(">f4"),
    "other byte order of integers": lambda x: np.rint(4 * x).astype(">i2"),
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "tiny": lambda x: np.full_like(x, 1e-45),
    "huge": lambda x: x * np.float32(1e30),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_of_every_type(kind):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(24, "relu"), layers.Dense(4)])
    x = SAMPLES[kind](normal(20, 16))
    blob = static(model, x)
    assert (
        type_name(read(blob).subgraphs[0].tensors[read(blob).subgraphs[0].inputs[0]]) == "FLOAT32"
    )
    plain = np.asarray(x, np.float32)
    expected = model(plain).numpy()
    assert np.abs(run(blob, [plain])[0] - expected).max() <= 0.1 * np.abs(expected).max() + 1e-6


def test_bfloat16_samples():
    import ml_dtypes

    model = keras.Sequential([keras.Input((16,)), layers.Dense(4)])
    x = normal(20, 16).astype(ml_dtypes.bfloat16)
    assert rms(run(static(model, x), [x.astype("float32")])[0], model(x.astype("float32"))) < 0.03


@pytest.mark.parametrize("activations", ["int8", "float32", "static_int8"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300])
def test_samples_that_are_not_finite_are_refused(activations, value):
    model = keras.Sequential([keras.Input((16,), name="x"), layers.Dense(4)])
    x = normal(20, 16).astype("float64")
    x[13, 2] = value
    with pytest.raises(ValueError, match=r"`check` hold NaN or infinite .* sample 13 of input 'x'"):
        to_tflite(model, check=x, activations=activations)


def test_samples_that_an_input_cannot_hold_are_refused():
    model = keras.Sequential([keras.Input((3,), dtype="int32", name="ids"), layers.Embedding(9, 4)])
    for x in (np.full((2, 3), 0.5), np.full((2, 3), 2**40), np.full((2, 3), "a")):
        with pytest.raises(ValueError, match="of type int32 for input 'ids'"):
            to_tflite(model, check=x)
    whole = np.full((2, 3), 4.0)
    assert to_tflite(model, check=whole).samples == 2


def wide(model, x, **options):
    return to_tflite(model, check=x, activations="static_int16", **options)


def images():
    parts = [layers.Conv2D(24, 3, activation="relu"), layers.DepthwiseConv2D(3), layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 3)), *parts, layers.Dense(4, "softmax")])


def steps():
    cell = layers.LSTM(12, unroll=True)
    return keras.Sequential([keras.Input((6, 8), batch_size=1), cell, layers.Dense(4)])


@pytest.mark.parametrize("make", [images, steps])
def test_int16_activations_are_finer_than_int8_ones(make):
    keras.utils.set_random_seed(0)
    model = make()
    x = normal(8, *model.inputs[0].shape[1:])
    files, errors = [wide(model, x), static(model, x)], []
    for blob in files:
        for delegates in (True, False):
            found = [run(blob, [sample[None]], delegates)[0] for sample in x]
            expected = [np.asarray(model(sample[None])) for sample in x]
            errors.append(rms(np.concatenate(found), np.concatenate(expected)))
    assert max(errors[:2]) < 0.01 and max(errors[:2]) < 0.7 * min(errors[2:])
    kinds = {type_name(tensor) for tensor in read(files[0]).subgraphs[0].tensors}
    assert {"INT16", "INT8"} <= kinds
    assert {detail["dtype"] for detail in Runner(files[0]).interpreter.get_input_details()} == {
        np.float32
    }


def attention():
    x = inputs = keras.Input((6, 16))
    x = layers.LayerNormalization()(x + layers.Dense(16, name="fc")(x))
    return keras.Model(inputs, layers.Dense(4)(x))


def loop():
    cell = layers.LSTM(4, name="loop")
    return keras.Sequential([keras.Input((6, 8), batch_size=1), cell, layers.Dense(4)])


@pytest.mark.parametrize(
    "make, message",
    [
        (attention, "SQUARED_DIFFERENCE at layer 'fc' with int16"),
        (loop, r"inside loops, which layers \['loop/lstm_cell'\] are"),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2DTranspose(8, 3)]),
            "compute integers.*Received: .*PACK",
        ),
    ],
    ids=["operator", "loop", "sizes"],
)
def test_what_int16_activations_cannot_do_is_named(make, message):
    model = make()
    with pytest.raises(ExportError, match=message):
        wide(model, normal(8, *model.inputs[0].shape[1:]))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", r"it ends the process \(exit code -6\)"),
        ("raise RuntimeError('no such range')", "no such range"),
        ("", "it ends the process"),
    ],
)
def test_a_quantizer_that_ends_its_process_is_told(program, message, tmp_path, monkeypatch):
    path = tmp_path / "program.py"
    path.write_text(program)
    monkeypatch.setattr("tfcompress.export.convert.integer_activations.PROGRAM", str(path))
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ExportError, match=f"(?s)cannot quantize the model: .*{message}"):
        to_tflite(model, check=np.ones((2, 4), "float32"), activations="static_int16")


def test_int16_activations_need_samples_and_float32_ends():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(4)])
    with pytest.raises(ValueError, match=r"`activations='static_int16'` measures its ranges"):
        to_tflite(model, activations="static_int16")
    with pytest.raises(ValueError, match="Received: io='int8', activations='static_int16'"):
        wide(model, normal(4, 16), io="int8")


@pytest.mark.parametrize("seed", range(3))
def test_what_is_reversed_keeps_its_scale(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 8), batch_size=1)
    h = layers.Dense(8)(inputs)
    joined = keras.ops.concatenate([keras.ops.flip(h, 1), 3 * h], -1)
    both = layers.Bidirectional(layers.GRU(24, return_sequences=True))(inputs)
    model = keras.Model(inputs, [layers.Dense(4)(joined), layers.Dense(4)(both)])
    x = normal(16, 6, 8)
    blob = static(model, x)
    for sample in x[:4]:
        for y, expected in zip(run(blob, [sample[None]]), model(sample[None]), strict=True):
            assert rms(y, expected) < 0.09


def test_products_that_stay_in_float32_are_named():
    inputs = keras.Input((4, 4, 4, 3), batch_size=1)
    x = layers.Conv3D(8, 3, padding="same", activation="relu", name="cubes")(inputs)
    model = keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))
    with pytest.warns(UserWarning, match=r"products of layers \['cubes'\] stay in float32"):
        static(model, normal(8, 4, 4, 4, 3))


def test_the_quantizer_says_nothing_of_its_own(capfd):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(32, "relu"), layers.Dense(16)])
    with integer_activations._without_report():
        os.write(2, b"fully_quantize: 0\nwhat another thread says\n")
    assert capfd.readouterr().err.splitlines()[-1] == "what another thread says"
    static(model, normal(40, 64))
    assert "fully_quantize" not in capfd.readouterr().err


def test_the_quantizer_runs_where_nothing_can_be_written_to(monkeypatch):
    def missing(descriptor):
        raise OSError("no such descriptor")

    monkeypatch.setattr(integer_activations.os, "dup", missing)
    with integer_activations._without_report():
        ran = True
    assert ran
