import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import (
    BINARY,
    EIGHT_BITS,
    FOUR_BITS,
    TERNARY,
    encodings,
    error,
    on_grid,
    operators,
    run,
)

from tfcompress.export import ExportError, to_tflite, verify
from tfcompress.export.convert import float32, stock
from tfcompress.export.kernels.kernel import Kernel
from tfcompress.export.lower import large_kernels as large
from tfcompress.layers import (
    BinaryConv2D,
    BinaryDense,
    CodebookDense,
    HashedDense,
    LowRankDense,
    QuantizedConv2D,
    QuantizedDense,
    TuckerConv2D,
)
from tfcompress.reporting.model_report import report
from tfcompress.rewriting.swap import swap, to_ordinary
from tfcompress.tflite import reader as flatbuffer
from tfcompress.tflite.stored_tensors import stored_tensors

WAYS = [("int8", "fast"), ("int8", "small"), ("float32", "fast"), ("float32", "small")]


def dense(inputs=256, units=128, levels=TERNARY, **kwargs):
    return on_grid(
        keras.Sequential([keras.Input((inputs,)), layers.Dense(units, name="fc", **kwargs)]), levels
    )


def samples(model, count, seed=1):
    random = np.random.default_rng(seed)
    return [
        random.standard_normal((count, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    ]


def zoo():
    image, sequence, flat = keras.Input((12, 10, 64)), keras.Input((9, 64)), keras.Input((64,))
    conv = layers.Conv2D
    yield "strides", image, conv(64, 3, strides=(2, 1), padding="same", activation="relu")(image)
    yield "even taps", image, conv(64, (2, 4), strides=2, padding="same")(image)
    yield "valid", image, conv(64, (3, 2), activation="relu6", use_bias=False)(image)
    yield "dilated", image, conv(64, 3, dilation_rate=2, padding="same")(image)
    yield "grouped", image, conv(64, 3, groups=4)(image)
    yield "pointwise", image, conv(80, 1, activation="relu")(image)
    yield "pointwise strides", image, conv(80, 1, strides=2)(image)
    yield "depthwise", image, layers.DepthwiseConv2D(5, depth_multiplier=2)(image)
    yield "separable", image, layers.SeparableConv2D(96, 3)(image)
    yield "transposed", image, layers.Conv2DTranspose(32, 3, strides=2)(image)
    yield "conv1d", sequence, layers.Conv1D(96, 3, strides=2)(sequence)
    yield "causal", sequence, layers.Conv1D(96, 3, padding="causal", dilation_rate=2)(sequence)
    yield "dense over a sequence", sequence, layers.Dense(96, activation="relu")(sequence)
    yield "attention", sequence, layers.MultiHeadAttention(4, 16)(sequence, sequence)
    yield "swish", flat, layers.Dense(64, activation="swish")(flat)
    x = layers.Conv2D(64, 3, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(x))
    x = layers.Flatten()(layers.MaxPooling2D()(x) + 1.0)
    yield "normalized", image, layers.BatchNormalization()(layers.Dense(64)(x))


ZOO = {name: (inputs, outputs) for name, inputs, outputs in zoo()}


@pytest.mark.parametrize("levels", [TERNARY, EIGHT_BITS], ids=["ternary", "eight bits"])
@pytest.mark.parametrize("name", ZOO)
def test_every_operator_in_every_way(name, levels):
    model = on_grid(keras.Model(*ZOO[name]), levels)
    (x,) = samples(model, 5)
    expected = model(x, training=False)
    for activations, store in WAYS if levels == TERNARY else WAYS[::2]:
        blob = to_tflite(model, activations=activations, store=store)
        assert len(blob) < 4 * model.count_params() + 8000
        for delegates in (True, False):
            (y,) = run(blob, [x], delegates)
            assert error(y, expected) < (0.12 if activations == "int8" else 2e-5)


@pytest.mark.parametrize(
    "levels, encoding",
    [(BINARY, "INT2"), (TERNARY, "INT2"), (FOUR_BITS, "INT4"), (EIGHT_BITS, "INT8")],
)
def test_a_kernel_takes_the_fewest_bits_and_is_stored_exactly(levels, encoding):
    model = dense(levels=levels)
    blob = to_tflite(model)
    assert encodings(blob) == {"fc": encoding}
    file = flatbuffer.read(blob)
    tensor = next(t for t in file.subgraphs[0].tensors if t.name == b"fc/kernel")
    stored = flatbuffer.constant(file, tensor) * tensor.quantization.scale[:, None]
    kernel = model.get_layer("fc").kernel.numpy().T
    np.testing.assert_allclose(stored, kernel, rtol=3e-7)
    assert list(tensor.quantization.zeroPoint) == [0] * 128


def test_binary_dense_2048():
    model = keras.Sequential([keras.Input((2048,)), layers.Dense(2048, name="fc")])
    model = swap(model, {"fc": BinaryDense})
    kernel = model.get_layer("fc").kernel.numpy()
    for activations, limit in (("int8", 0.08), ("float32", 1e-5)):
        blob = to_tflite(model, activations=activations)
        assert len(blob) <= 1_100_000
        assert encodings(blob) == {"fc": "INT2"}
        for batch in (1, 8):
            (x,) = samples(model, batch)
            for delegates in (True, False):
                (y,) = run(blob, [x], delegates)
                assert error(y, x.astype(np.float64) @ kernel) < limit


def test_digits_are_exact_at_every_magnitude():
    model = dense(512, 512, FOUR_BITS, activation="relu")
    blob = to_tflite(model, activations="float32")
    assert encodings(blob) == {"fc": "INT8"} and "DEQUANTIZE" not in operators(blob)
    (x,) = samples(model, 4)
    x = np.concatenate([x, x * 1e-4, x * 1e4, np.abs(x), 0 * x, np.eye(4, 512, dtype="float32")])
    kernel, bias = (w.astype(np.float64) for w in model.get_layer("fc").get_weights())
    exact = np.maximum(x @ kernel + bias, 0)
    for delegates in (True, False):
        (y,) = run(blob, [x.astype("float32")], delegates)
        unit = np.abs(x).max(1, keepdims=True) * np.abs(kernel).sum(0) + np.abs(bias)
        assert (np.abs(y - exact) / unit).max() < 2e-7


def test_a_float32_layer_is_left_to_the_converter():
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(64, name="a"), layers.Dense(20, name="b")]
    )
    on_grid(keras.Model(model.inputs, model.get_layer("a").output))
    blob = to_tflite(model)
    assert encodings(blob) == {"a": "INT2", "b": "FLOAT32"}
    assert operators(blob) == ["FULLY_CONNECTED", "FULLY_CONNECTED"]


def test_a_kernel_that_float16_holds_is_stored_in_it():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, name="fc")])
    kernel = model.get_layer("fc").kernel
    kernel.assign(kernel.numpy().astype("float16"))
    blob = to_tflite(model)
    assert encodings(blob) == {"fc": "FLOAT16"} and len(blob) < 10_000
    (x,) = samples(model, 2)
    assert error(run(blob, [x])[0], model(x)) < 1e-6


def test_batch_normalization_is_folded_and_the_kernel_stays_binary():
    image = keras.Input((8, 8, 16))
    x = layers.Conv2D(32, 3, use_bias=False, name="conv")(image)
    model = on_grid(keras.Model(image, layers.BatchNormalization(name="norm")(x)))
    small = swap(model, {"conv": BinaryConv2D})
    blob = to_tflite(small)
    assert operators(blob) == ["CONV_2D"] and encodings(blob) == {"conv": "INT8"}
    file = flatbuffer.read(blob)
    tensor = next(t for t in file.subgraphs[0].tensors if t.name == b"conv/kernel")
    assert set(np.unique(flatbuffer.constant(file, tensor))) == {-1, 1}


def moved(model):
    """Each normalization in a model changes what it normalizes."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(np.linspace(-1, 1, 8))
            layer.gamma.assign(np.linspace(0.5, 2, 8))
    return model


def test_a_layer_that_a_composite_calls_too_is_not_folded():
    many, one = keras.Input((3, 6), name="many"), keras.Input((6,), name="one")
    shared = layers.Dense(8)
    outputs = [layers.TimeDistributed(shared)(many), layers.BatchNormalization()(shared(one))]
    model = moved(keras.Model([many, one], outputs))
    x = samples(model, 4)
    for y, expected in zip(run(to_tflite(model), x), model(x), strict=True):
        assert error(y, expected) < 1e-5


def test_a_kernel_with_a_lora_is_not_folded():
    fc = layers.Dense(8, lora_rank=2)
    model = moved(keras.Sequential([keras.Input((6,)), fc, layers.BatchNormalization()]))
    fc.lora_kernel_b.assign(np.ones(fc.lora_kernel_b.shape))
    x = samples(model, 4)
    assert error(run(to_tflite(model), x)[0], model(x[0])) < 1e-5


NORMS = [layers.BatchNormalization, layers.LayerNormalization]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "maker", [QuantizedDense.using(bits=4), HashedDense.using(ratio=8), CodebookDense.using(size=8)]
)
def test_what_a_normalization_multiplies_into_the_next_kernel_is_taken_back(norm, maker):
    keras.utils.set_random_seed(0)
    first, last = layers.Dense(64, "relu", name="first"), layers.Dense(64, "relu", name="last")
    model = keras.Sequential([keras.Input((32,)), first, norm(name="norm"), last])
    random = np.random.default_rng(0)
    model.get_layer("norm").set_weights(
        [random.uniform(0.5, 2, w.shape) for w in model.get_layer("norm").get_weights()]
    )
    small = swap(model, {"last": maker})
    x = samples(small, 8)
    for activations in ("int8", "float32"):
        blob = to_tflite(small, activations=activations, check=x)
        assert report(small, tflite=blob).rows[-1].full_size is (
            activations == "float32" and maker.layer_class is not QuantizedDense
        )


def test_a_low_rank_layer_stays_two_products():
    model = keras.Sequential([keras.Input((256,)), layers.Dense(256, name="fc")])
    blob = to_tflite(swap(model, {"fc": LowRankDense.using(rank=16)}))
    assert operators(blob) == ["FULLY_CONNECTED", "FULLY_CONNECTED"]
    assert len(blob) < 40_000


def test_a_low_rank_layer_whose_factors_have_four_bits():
    model = keras.Sequential([keras.Input((256,)), layers.Dense(256, name="fc")])
    chain = to_ordinary(swap(model, {"fc": LowRankDense.using(rank=16)}))
    small = swap(chain, {layers.Dense: QuantizedDense.using(bits=4)})
    blob = to_tflite(small)
    assert set(encodings(blob).values()) == {"INT4"} and len(encodings(blob)) == 2
    assert len(blob) < 10_000


def test_flatten_with_a_free_batch_size_stays_in_the_delegate():
    model = keras.Sequential([keras.Input((4, 4)), layers.Flatten(), layers.Dense(8)])
    blob = to_tflite(model)
    assert operators(blob) == ["RESHAPE", "FULLY_CONNECTED"]
    (x,) = samples(model, 7)
    assert error(run(blob, [x])[0], model(x)) < 1e-5


def several_inputs_and_outputs():
    shared = layers.Dense(64, name="shared")
    a, b = keras.Input((64,), name="a"), keras.Input((64,), name="b")
    inner = keras.Sequential([keras.Input((64,)), layers.Dense(64), layers.BatchNormalization()])
    outputs = {
        "sum": shared(a) + shared(b),
        "other": inner(shared(b)),
        "same": layers.Identity()(a),
    }
    return on_grid(keras.Model({"a": a, "b": b}, outputs))


@pytest.mark.parametrize("large", [2**26, 0], ids=["from memory", "by way of a folder"])
@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_signature_names_and_shared_layers(activations, large, monkeypatch):
    monkeypatch.setattr(stock, "LARGEST_IN_MEMORY", large)
    model = several_inputs_and_outputs()
    blob = to_tflite(model, activations=activations)
    assert [row.layer for row in stored_tensors(blob)].count("shared/kernel") == 1
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=blob).get_signature_runner("serving_default")
    assert sorted(runner.get_input_details()) == ["a", "b"]
    a, b = samples(model, 1)
    outputs, expected = runner(a=a, b=b), model({"a": a, "b": b})
    assert sorted(outputs) == ["other", "same", "sum"]
    for name, output in outputs.items():
        assert error(output, expected[name]) < 0.1


def test_a_fixed_batch_size_is_kept():
    model = on_grid(keras.Sequential([keras.Input((64,), batch_size=4), layers.Dense(64)]))
    (x,) = samples(model, 4)
    assert error(run(to_tflite(model), [x])[0], model(x)) < 0.1


def test_a_recurrent_layer_with_a_fixed_batch_size():
    model = keras.Sequential([keras.Input((5, 8), batch_size=1), layers.LSTM(4)])
    (x,) = samples(model, 1)
    assert error(run(to_tflite(model), [x])[0], model(x)) < 1e-4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_models_are_exported_in_float32(policy):
    x = keras.Input((64,))
    y = layers.BatchNormalization(dtype=policy)(layers.Dense(64, dtype=policy, name="fc")(x))
    model = on_grid(keras.Model(x, y))
    blob = to_tflite(model)
    assert encodings(blob) == {"fc": "INT2"}
    assert model.get_layer("fc").dtype_policy.name == policy


def test_the_model_is_untouched_and_the_bytes_are_the_same():
    model = several_inputs_and_outputs()
    before, config = model.get_weights(), model.get_config()
    blob = to_tflite(model)
    assert to_tflite(model) == blob
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.get_config() == config


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path):
    several_inputs_and_outputs().save(tmp_path / "m.keras")
    code = (
        "import sys, hashlib, keras; from tfcompress.export import to_tflite;"
        "m = keras.models.load_model(sys.argv[1]); print(hashlib.sha256(to_tflite(m)).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.keras")]
    digests = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1


def test_unknown_sizes_need_samples():
    image = keras.Input((None, None, 64))
    model = on_grid(
        keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3)(image)))
    )
    with pytest.raises(ValueError, match="`check`"):
        to_tflite(model)
    x = np.random.default_rng(0).standard_normal((2, 9, 11, 64)).astype("float32")
    for store in ("fast", "small"):
        blob = to_tflite(model, store=store, check=x)
        assert error(run(blob, [x])[0], model(x)) < 0.1
    with pytest.raises(ValueError, match="shapes"):
        to_tflite(model, check=x[..., :3])


def test_older_runtimes_get_no_two_bit_kernels():
    model = dense()
    assert encodings(to_tflite(model, min_runtime="1.4.0")) == {"fc": "INT4"}
    assert encodings(to_tflite(model, min_runtime="2.1.1")) == {"fc": "INT4"}
    for version in ("1.1", "new", None):
        with pytest.raises(ValueError, match="min_runtime"):
            to_tflite(model, min_runtime=version)


@pytest.mark.parametrize("io", ["float32", "int8"])
def test_static_int8_keeps_the_exact_integers(io):
    image = keras.Input((8, 8, 16))
    x = layers.Conv2D(64, 3, activation="relu", name="conv")(image)
    x = layers.DepthwiseConv2D(3, name="depth")(x)
    model = keras.Model(image, layers.Dense(32, name="fc")(layers.Flatten()(x)))
    on_grid(model, FOUR_BITS)
    (x,) = samples(model, 16)
    blob = to_tflite(model, activations="static_int8", check=x, io=io)
    assert encodings(blob) == {"conv": "INT8", "depth": "INT8", "fc": "INT4"}
    file = flatbuffer.read(blob)
    kernels = [t for t in file.subgraphs[0].tensors if t.name.endswith(b"/kernel")]
    assert all(np.abs(flatbuffer.constant(file, t)).max() == 7 for t in kernels)
    types = {flatbuffer.type_name(file.subgraphs[0].tensors[i]) for i in file.subgraphs[0].inputs}
    assert types == {io.upper()}
    if io == "float32":
        for delegates in (True, False):
            (y,) = run(blob, [x], delegates)
            assert error(y, model(x)) < 0.15


def test_a_wrong_file_is_never_handed_over(tmp_path, monkeypatch):
    model = on_grid(
        keras.Sequential(
            [keras.Input((64,)), layers.Dense(64, name="a"), layers.Dense(64, name="b")]
        )
    )
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    decode = Kernel.add_as_is

    def damaged(kernel, graph, bits):
        if kernel.layer == "b":
            kernel.grid.values[5] = 1
        return decode(kernel, graph, bits)

    monkeypatch.setattr(Kernel, "add_as_is", damaged)
    with pytest.raises(ExportError, match=r"differs .* by [0-9.]+, and [0-9.]+ is.*Layer 'b'"):
        to_tflite(model, path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.tflite"]


def test_a_small_error_above_float32_rounding_is_found(monkeypatch):
    model = dense(levels=FOUR_BITS)
    monkeypatch.setattr(verify, "FLOAT_TOLERANCE", {"float32": 1e-8})
    monkeypatch.setattr(verify, "INPUT_NOISE", 0.0)
    with pytest.raises(ExportError, match="the stock converter's own file"):
        to_tflite(model, activations="float32")


def test_writing(tmp_path, monkeypatch):
    model, path = dense(), tmp_path / "model.tflite"
    blob = to_tflite(model, path)
    assert path.read_bytes() == blob and os.listdir(tmp_path) == ["model.tflite"]
    with pytest.raises(ValueError, match="folder"):
        to_tflite(model, tmp_path / "missing" / "model.tflite")

    def full(*_):
        raise PermissionError(13, "Permission denied")

    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="Permission denied"):
        to_tflite(model, path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.tflite"]


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_bad_input():
    model = dense()
    for wrong in ({"activations": "int4"}, {"store": "best"}, {"io": "int8"}, {"io": "half"}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
            to_tflite(model, **wrong)
    with pytest.raises(ValueError, match="give `check`"):
        to_tflite(model, activations="static_int8")
    with pytest.raises(ValueError, match="subclassed"):
        to_tflite(Subclassed())
    with pytest.raises(ValueError, match="no inputs yet"):
        to_tflite(keras.Sequential([layers.Dense(3)]))
    model.get_layer("fc").bias.assign([np.nan] * 128)
    with pytest.raises(ValueError, match=r"layer 'fc' holds NaN"):
        to_tflite(model)


def test_operators_that_stock_litert_lacks_are_named():
    x = keras.Input((8,))
    with pytest.raises(ExportError, match=r"tf\.IRFFT"):
        to_tflite(keras.Model(x, keras.ops.irfft(keras.ops.rfft(x))))


def many_kinds():
    """Layers of all kinds that leave their kernels out, one used twice, norms in all places."""
    image = keras.Input((8, 8, 4))
    h = layers.Conv2D(16, 3, strides=2, use_bias=False, name="conv")(image)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.Conv2D(16, 3, dilation_rate=2, padding="same", name="dilated")(h)
    h = layers.BatchNormalization()(layers.Conv2D(16, 1, activation="relu", name="point")(h))
    h = layers.Dense(16, "relu", name="rows")(layers.Reshape((9, 16))(h))
    h = layers.BatchNormalization()(layers.Dense(32, "relu", name="a")(layers.Flatten()(h)))
    h, again = layers.Dense(32, "relu", name="b")(h), layers.Dense(32, "relu", name="c")
    model = keras.Model(image, layers.Dense(8, name="out")(again(again(h))))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(np.linspace(0.5, 2, layer.gamma.shape[0]))
            layer.moving_mean.assign(np.linspace(-0.1, 0.2, layer.gamma.shape[0]))
    return model


def two_bits(model):
    rules = {
        "conv": TuckerConv2D.using(rank=(3, 8)),
        "a": LowRankDense.using(rank=8),
        layers.Dense: BinaryDense,
        layers.Conv2D: QuantizedConv2D.using(bits=4),
    }
    return swap(model, rules)


LARGE = {"plain": lambda model: model, "compressed": two_bits}


@pytest.mark.parametrize(
    ("kind", "activations"),
    [
        ("compressed", "int8"),
        *(
            pytest.param(*each, marks=pytest.mark.matrix)
            for each in (("compressed", "float32"), ("plain", "int8"), ("plain", "float32"))
        ),
    ],
)
def test_large_kernels_are_put_into_the_file_after_its_conversion(kind, activations, monkeypatch):
    monkeypatch.setattr(large, "LEAST_LARGE_SIZE", 2**30)
    model = LARGE[kind](many_kinds())
    whole = to_tflite(model, activations=activations)
    monkeypatch.setattr(large, "LEAST_LARGE_SIZE", 1)
    converted = []
    convert = float32.convert
    monkeypatch.setattr(float32, "convert", lambda m: converted.append(m) or convert(m))
    blob = to_tflite(model, activations=activations)  # verified
    (lowered,) = (whole.model for whole in converted)
    assert sum(map(large.is_thin, lowered._flatten_layers())) == 8 + 3 * (kind == "compressed")
    assert max(weight.size for weight in map(np.asarray, lowered.weights)) <= 9 * 16
    kernels = [
        {row.layer: (row.encoding, row.shape) for row in stored_tensors(file)}
        for file in (whole, blob)
    ]
    names = [name for name in kernels[0] if name.endswith("/kernel")]
    assert len(names) >= 7
    assert [kernels[1][name] for name in names] == [kernels[0][name] for name in names]
    x = samples(model, 2)
    for one, other in zip(run(whole, x), run(blob, x), strict=True):
        assert error(one, other) < 1e-5


def test_a_layer_that_the_converter_changed_is_converted_whole(monkeypatch):
    """It multiplies the factors of the outputs into the kernel."""
    monkeypatch.setattr(large, "LEAST_LARGE_SIZE", 1)
    found = []
    monkeypatch.setattr(float32, "put_kernels", lambda *a: found.append(put(*a)) or found[-1])
    put, x = large.put_kernels, keras.Input((8,))
    y = layers.Dense(4)(x) * np.float32([1, 2, 3, 4])
    to_tflite(keras.Model(x, layers.Dense(40)(y)))  # verified
    assert found == [False, True]
