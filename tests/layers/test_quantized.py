import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.layers.discrete.rounding import rounded_to


def fitted(w, bits, metric=None):
    layer = tfc.layers.QuantizedDense(w.shape[1], bits=bits)
    layer.build((None, w.shape[0]))
    layer.fit_kernel(w, metric)
    return layer


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_levels_are_exact_and_nearly_idempotent(bits, seed):
    w = np.random.default_rng(seed).standard_normal((10, 3)).astype("float32")
    layer = fitted(w, bits)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    stored = layer.stored()
    n = 2 ** (bits - 1) - 1
    assert np.max(np.abs(stored["codes"])) <= n
    np.testing.assert_array_equal(kernel, stored["scale"] * stored["codes"].astype("float32"))
    assert layer.pack()["codes"].bits <= 8 * -(-bits * w.size // 8)
    again = np.asarray(fitted(kernel, bits).kernel)
    assert np.linalg.norm(again - kernel) <= 0.02 * np.linalg.norm(kernel)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_scale_comes_near_brute_force(bits):
    rng = np.random.default_rng(0)
    w, n = rng.standard_normal((20, 4)), 2 ** (bits - 1) - 1
    layer = fitted(w, bits)
    error = np.sum((np.asarray(layer.kernel) - w) ** 2, 0)
    scales = np.linspace(0.01, 1.2, 2000)[:, None, None] * np.max(np.abs(w), 0) / n
    best = np.min(np.sum((scales * np.clip(np.round(w / scales), -n, n) - w) ** 2, 1), 0)
    assert np.all(error <= 1.03 * best)


def test_eight_bits_are_near_exact():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((50, 8)).astype("float32")
    error = np.sqrt(np.mean((np.asarray(fitted(w, 8).kernel) - w) ** 2, 0))
    assert np.all(error <= 1.1 * np.max(np.abs(w), 0) / 127 / np.sqrt(12))


def test_ternary_is_two_bits():
    layer = tfc.layers.TernaryDense(4)
    layer.build((None, 8))
    assert layer.count == 1 and "bits" not in layer.get_config()
    assert layer.bits == 8 * 4 * 2 + 32 * 4


def log_levels(bits):
    return 2.0 ** np.arange(2 - 2 ** (bits - 1), 1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_log_levels(bits):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((300, 2)).astype("float32")
    layer = tfc.layers.QuantizedDense(2, bits=bits, levels="log")
    layer.build((None, 300))
    layer.fit_kernel(w)
    kernel, scale = np.asarray(layer.kernel), np.asarray(layer.scale)
    table = np.concatenate([-log_levels(bits), [0], log_levels(bits)])
    distance = np.abs(w[..., None] / scale[:, None] - table)
    nearest = table[np.argmin(distance, -1)].astype("float32")
    tie = np.partition(distance, 1)[..., 1] - np.min(distance, -1) < 1e-5
    assert np.all(tie | (kernel == scale * nearest))
    codes = layer.stored()["codes"]
    assert np.max(np.abs(codes)) <= 2 ** (bits - 1) - 1
    np.testing.assert_array_equal(layer.decode(codes) * scale, kernel)
    assert layer.bits <= bits * 600 + 64


def test_log_levels_by_hand():
    layer = tfc.layers.QuantizedDense(1, bits=3, levels="log")
    layer.build((None, 8))
    layer.scale.assign([2.0])
    layer.latent.assign(np.array([[3.0, 1.51, 1.49, 0.76, 0.74, 0.26, 0.24, -1.2]]).T)
    np.testing.assert_array_equal(np.ravel(layer.kernel), [2, 2, 1, 1, 0.5, 0.5, 0, -1])
    np.testing.assert_array_equal(np.ravel(layer.stored()["codes"]), [3, 3, 2, 2, 1, 1, 0, -2])


def test_log_is_ternary_at_two_bits_and_worse_than_linear_at_eight():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((200, 3)).astype("float32")
    error = {}
    for bits in (2, 8):
        for levels in ("linear", "log"):
            layer = tfc.layers.QuantizedDense(3, bits=bits, levels=levels)
            layer.build((None, 200))
            layer.fit_kernel(w)
            error[bits, levels] = np.sum((np.asarray(layer.kernel) - w) ** 2)
    assert error[2, "log"] == pytest.approx(error[2, "linear"], rel=0.01)
    assert error[8, "log"] > 10 * error[8, "linear"]


@pytest.mark.parametrize(
    "ordinary, shape, axes",
    [
        (keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (2, 6, 6, 4), (0, 1)),
        (keras.layers.EinsumDense("abc,cde->abde", (7, 3, 5)), (2, 7, 6), (0,)),
        (keras.layers.EinsumDense("abcd,cde->abe", (6, 5)), (2, 6, 4, 3), (0, 1)),
        (keras.layers.EinsumDense("...x,yx->...y", 7), (2, 3, 6), (1,)),
        (keras.layers.Embedding(9, 6), (2, 5), (0, 1)),  # rows of one scale, as stock
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_scale_for_each_output(ordinary, shape, axes):
    rng = np.random.default_rng(0)
    ordinary.build(shape)
    layer = rounded_to(8)(ordinary)
    w = kernel_of(ordinary)
    w = keras.ops.convert_to_numpy(w)
    peak = np.max(np.abs(w), axes, keepdims=True)
    scale = np.broadcast_to(np.asarray(layer.scale), np.broadcast_shapes(peak.shape, w.shape))
    np.testing.assert_array_equal(np.max(scale, axes), np.min(scale, axes))
    error = np.abs(np.asarray(layer.kernel) - w)
    assert np.all(error <= 0.6 * peak / 127)
    rows = len(w) if isinstance(ordinary, keras.layers.Embedding) else np.size(peak)
    assert np.size(layer.scale) == rows
    d = rng.random(w.shape)
    layer.fit_kernel(w, d)  # a metric of the kernel's shape
    np.testing.assert_array_equal(layer.from_rows(layer.to_rows(w), w.shape), w)


def test_an_embedding_keeps_its_mask_and_rows_that_no_metric_sees():
    words = keras.layers.Embedding(9, 6, mask_zero=True)
    words.build((2, 5))
    layer = tfc.layers.QuantizedEmbedding.from_layer(words, metric=np.zeros((9, 6)))
    ids = np.array([[0, 3, 8, 0, 1]])
    np.testing.assert_array_equal(layer.compute_mask(ids), [[False, True, True, False, True]])
    np.testing.assert_allclose(layer(ids), words(ids), atol=0.05 / 100)
    words = keras.layers.Embedding(4, 3)
    words.build()
    layer = tfc.layers.QuantizedEmbedding.from_layer(words)
    np.testing.assert_array_equal(layer.to_ordinary()[0](np.arange(4)), layer(np.arange(4)))


NAMES = {8: "Quantized", 16: "Float16"}


@pytest.mark.parametrize("bits", [8, 16])
def test_rounding_a_whole_network(bits):
    rng = np.random.default_rng(0)
    ids = keras.Input((6,), dtype="int32")
    y = keras.layers.Embedding(80, 64, name="words")(ids)
    y = keras.layers.EinsumDense("abc,cde->abde", (6, 4, 8), name="heads")(y)
    y = keras.layers.DepthwiseConv2D(3, name="depthwise")(y)
    y = keras.layers.Conv2D(12, 1, name="conv")(y)
    y = keras.layers.LayerNormalization()(y)
    y = keras.layers.Dense(40, name="fc")(keras.layers.Flatten()(y))
    y = keras.layers.Dense(7, name="out")(y)
    model = keras.Model(ids, y)
    x = rng.integers(0, 50, (40, 6)).astype("int32")
    exact = model.predict(x, verbose=0)
    for small in (
        tfc.swap(model, tfc.layers.rounding(bits)),
        tfc.swap(model, tfc.layers.rounding(bits), data=x),
    ):
        error = np.sqrt(np.mean((small.predict(x, verbose=0) - exact) ** 2) / np.mean(exact**2))
        assert 0 < error < (0.03 if bits == 8 else 2e-3)
        for name in ("words", "heads", "depthwise", "conv", "fc", "out"):
            layer = small.get_layer(name)
            scales = np.size(getattr(layer, "scale", ()))
            small_kernel = name in ("depthwise", "conv", "out")  # of fewer than 1,024 weights
            width = 16 if small_kernel else bits
            assert layer.bits <= width * np.size(layer.kernel) + 32 * scales
            assert type(layer).__name__.startswith("Float16" if small_kernel else NAMES[bits])
    kept = tfc.swap(model, {"conv": None, **tfc.layers.rounding(bits)})
    assert type(kept.get_layer("conv")) is keras.layers.Conv2D


def test_rounding_gives_8_bits_where_a_file_saves_nothing_with_fewer():
    x = inputs = keras.Input((8, 8, 8))
    x = keras.layers.Conv2DTranspose(16, 3, name="transposed")(x)  # 1152 weights
    x = keras.layers.Conv2D(16, 3, name="conv")(x)  # 2304
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(33, name="large")(x)  # 528
    model = keras.Model(inputs, keras.layers.Dense(15, name="small")(x))  # 495
    expected = {"transposed": 8, "conv": 4, "large": 4, "small": 8}
    for rules, bits in (
        (tfc.layers.rounding(4), expected),
        (
            {"small": tfc.layers.QuantizedDense.using(bits=4), **tfc.layers.rounding(4)},
            expected | {"small": 4},
        ),
    ):
        small = tfc.swap(model, rules)
        assert {name: small.get_layer(name).level_bits for name in bits} == bits


def test_bad_rounding():
    for bits in (1, 9, 32, True, 8.5):
        with pytest.raises(ValueError, match="bits"):
            tfc.layers.rounding(bits)
    with pytest.raises(ValueError, match="levels"):
        tfc.layers.QuantizedDense(4, levels="cubic")
    with pytest.raises(ValueError, match="equal strides"):
        tfc.layers.QuantizedDepthwiseConv2D(3, strides=(1, 2))
