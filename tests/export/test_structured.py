"""Layers that become chains of operators: circulant and tile-hashed ones."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import error, operators, run
from oracles_structured import circulant, same, samples

import tfcompress as tfc
from tfcompress.export import to_tflite
from tfcompress.export.lower.circulant import CirculantOperations
from tfcompress.reporting.model_report import report
from tfcompress.tflite.stored_tensors import stored_tensors

SIZES = [(64, 64), (48, 20), (7, 5), (2, 1), (1, 4), (9, 31)]


@pytest.mark.parametrize("store", ["fast", "small"])
@pytest.mark.parametrize("inputs, units", SIZES)
@pytest.mark.parametrize("block", [None, 4, 5, 1])
def test_circulant_operations_equal_the_layer(inputs, units, block, store):
    if block is not None and block > max(inputs, units):
        return
    layer = circulant(inputs, units, block=block, activation="tanh").get_layer("fc")
    x = samples((2, inputs))
    operations = CirculantOperations(layer, store)
    np.testing.assert_allclose(operations(x), layer(x), atol=2e-6)


@pytest.mark.parametrize("store", ["fast", "small"])
@pytest.mark.parametrize(
    "inputs, units, options",
    [
        (512, 512, {"activation": "relu"}),
        (600, 300, {"signs": False}),
        (512, 512, {"block": 64}),
        (500, 300, {"block": 100, "use_bias": False}),
    ],
)
def test_circulant_files(inputs, units, options, store):
    model = circulant(inputs, units, **options)
    blob = to_tflite(model, store=store)
    same(blob, model, 1e-5)
    assert len(blob) < inputs * units
    assert ("RFFT2D" in operators(blob)) == (store == "small" and options.get("block") != 100)


def test_circulant_4096_takes_no_more_than_its_bytes():
    model = circulant(4096, 4096, use_bias=False)
    for store, most in (("small", 24_000), ("fast", 310_000)):
        blob = to_tflite(model, store=store)
        assert len(blob) <= most
        same(blob, model, 1e-5)


def test_constants_of_circulants_of_one_size_are_shared():
    one, two = keras.Input((512,)), keras.Input((512,))
    first = tfc.layers.CirculantDense(512, name="first", seed=1)
    second = tfc.layers.CirculantDense(512, name="second", seed=2)
    single = len(to_tflite(keras.Model(one, first(one)), store="fast"))
    blob = to_tflite(keras.Model(two, second(first(two))), store="fast")
    spectrum, signs, bias = 2 * 4 * 9 * 32, 512 // 2, 4 * 512
    assert len(blob) < single + spectrum + signs + bias + 8000


def test_a_circulant_layer_over_a_sequence_and_before_a_normalization():
    x = keras.Input((3, 512))
    y = tfc.layers.CirculantDense(512, name="fc", block=64)(x)
    y = layers.BatchNormalization(gamma_initializer="random_normal")(y)
    model = keras.Model(x, layers.Dense(8)(y))
    for store in ("fast", "small"):
        same(to_tflite(model, store=store), model, 1e-5)


def test_a_small_circulant_layer_keeps_its_whole_kernel():
    assert operators(to_tflite(circulant(128, 128))) == ["FULLY_CONNECTED"]
    assert operators(to_tflite(circulant(32, 32), store="small")) == ["FULLY_CONNECTED"]


def test_a_full_integer_file_holds_the_whole_kernel_of_a_circulant_layer():
    model = circulant(256, 256)
    x = samples((256,), 20)
    blob = to_tflite(model, activations="static_int8", check=x)
    assert error(run(blob, [x[:1]])[0], model(x[:1])) < 0.2


def test_the_report_finds_the_constants_of_a_circulant_layer():
    model = circulant(1024, 1024)
    for store in ("fast", "small"):
        blob = to_tflite(model, store=store)
        row = report(model, tflite=blob).rows[0]
        assert row.file_bytes > 4 * 1024 and not row.full_size
        assert sum(tensor.bytes for tensor in stored_tensors(blob)) == len(blob)


@pytest.mark.parametrize("block", [8, 7, None])
def test_circulant_convolutions_are_small_or_whole(block):
    layer = tfc.layers.CirculantConv2D(48, (3, 2), block=block, name="c")
    model = keras.Sequential([keras.Input((9, 8, 64)), layer])
    for options, limit in (({}, 0.1), ({"activations": "float32"}, 1e-5)):
        small, fast = (to_tflite(model, store=s, **options) for s in ("small", "fast"))
        for blob in (small, fast):
            same(blob, model, limit)
        assert "CALL_ONCE" in operators(small) and "CALL_ONCE" not in operators(fast)
        assert len(small) < layer.bits // 8 + 8000 < len(fast)
    row = report(model, tflite=small).rows[0]
    assert row.file_bytes == layer.bits // 8 and not row.full_size


def test_tiles_stay_two_products():
    layer = tfc.layers.TileHashedDense(512, tile=32, tiles=4, name="fc", activation="relu")
    model = keras.Sequential([keras.Input((500,)), layer])
    layer.bias.assign(np.linspace(-1, 1, 512))
    for activations, limit in (("int8", 0.1), ("float32", 1e-5)):
        blob = to_tflite(model, activations=activations)
        same(blob, model, limit)
        assert operators(blob).count("FULLY_CONNECTED") == 2 and len(blob) < 30_000
        row = report(model, tflite=blob).rows[0]
        assert row.file_bytes > 4 * 32 * 32 * 4 and not row.full_size
