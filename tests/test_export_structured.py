"""Layers that the exporter writes in their structured form."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import encodings, error, operators, run

import tfcompress as tfc
from tfcompress import flatbuffer
from tfcompress.export import ExportError, shared, to_tflite, unpacked
from tfcompress.export.circulant import CirculantOperations
from tfcompress.reports import report


def samples(shape, count=3, seed=1):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")


def same(blob, model, limit):
    """The file computes what the model does, for one sample and for three, in both resolvers."""
    x = samples(model.input_shape[1:])
    for count in (1, 3):
        expected = model(x[:count], training=False)
        for delegates in (True, False):
            assert error(run(blob, [x[:count]], delegates)[0], expected) < limit
    assert not [name for name in operators(blob) if "Flex" in name or name == "CUSTOM"]


def circulant(inputs, units, **options):
    layer = tfc.layers.CirculantDense(units, name="fc", **options)
    model = keras.Sequential([keras.Input((inputs,)), layer])
    if layer.bias is not None:
        layer.bias.assign(np.linspace(-1, 1, units))
    return model


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
        assert sum(tensor.bytes for tensor in flatbuffer.stored_tensors(blob)) == len(blob)


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


def hashed(units=64, inputs=96, **options):
    model = keras.Sequential(
        [keras.Input((inputs,)), tfc.layers.HashedDense(units, name="fc", **options)]
    )
    model.get_layer("fc").bias.assign(np.linspace(-1, 1, units))
    return model


@pytest.mark.parametrize("seed", [0, 7])
def test_the_file_hashes_the_places_itself(seed):
    model = hashed(512, 256, ratio=64, seed=seed, activation="relu")
    for activations, limit in (("int8", 0.1), ("float32", 1e-5)):
        blob = to_tflite(model, store="small", activations=activations)
        same(blob, model, limit)
        file = flatbuffer.read(blob)
        assert len(file.subgraphs) == 2 and "CALL_ONCE" in operators(blob)
        bank = 2048 if activations == "int8" else 4 * 2048
        assert len(blob) < bank + 4 * 512 + 6000  # no index, no sign for each weight
        row = report(model, tflite=blob).rows[0]
        assert row.file_bytes == bank and not row.full_size


def test_every_weight_of_a_file_that_hashes():
    """Each column of the identity shows a row of the kernel, to the step of the int8 bank."""
    model = hashed(128, 96, buckets=300, seed=3)
    layer = model.get_layer("fc")
    blob = to_tflite(model, store="small")
    assert "CALL_ONCE" in operators(blob)
    kernel = run(blob, [np.eye(96, dtype="float32")])[0] - layer.bias.numpy()
    step = np.abs(layer.stored()["bank"]).max() / 127
    assert np.abs(kernel - np.asarray(layer.kernel)).max() < 0.51 * step + 0.02 * kernel.max()


def test_a_normalization_behind_a_hashed_layer_scales_its_rows():
    x = keras.Input((512,))
    y = tfc.layers.HashedDense(512, ratio=64, name="fc")(x)
    y = layers.BatchNormalization(name="norm")(y)
    model = keras.Model(x, y)
    random = np.random.default_rng(0)
    for low, once in ((0.5, True), (-1.5, False)):  # a negative factor would turn signs
        model.get_layer("norm").set_weights([random.uniform(low, 1.5, 512), *np.ones((3, 512))])
        blob = to_tflite(model, store="small")
        same(blob, model, 0.1)
        assert ("CALL_ONCE" in operators(blob)) == once


def test_fast_files_hold_the_rounded_kernel_of_a_hashed_layer():
    model = hashed(256, 256, ratio=16)
    blob = to_tflite(model)
    assert operators(blob) == ["FULLY_CONNECTED"] and len(blob) < 256 * 256 + 6000
    same(blob, model, 0.1)
    exact = to_tflite(model, activations="float32")
    assert len(exact) > 4 * 256 * 256
    same(exact, model, 1e-5)


def test_one_hashed_layer_used_twice_is_hashed_once():
    x = keras.Input((512,))
    layer = tfc.layers.HashedDense(512, ratio=64, name="fc")
    model = keras.Model(x, layer(layer(x)))
    blob = to_tflite(model, store="small")
    assert operators(blob).count("CALL_ONCE") == 1
    same(blob, model, 0.15)


def codebook(kind, shape, size, *arguments, **options):
    layer = kind(*arguments, size=size, name="fc", **options)
    model = keras.Sequential([keras.Input(shape), layer])
    random, stored = np.random.default_rng(0), layer.stored()
    entries = np.concatenate([[0], random.standard_normal(size - 1)]).astype("float32")
    layer.restore(stored | {"codebook": 0.05 * entries})
    return model


@pytest.mark.parametrize("size, bits", [(2, 1), (4, 2), (5, 3), (8, 3), (16, 4), (32, 5)])
def test_codes_of_a_codebook(size, bits):
    model = codebook(tfc.layers.CodebookDense, (509,), size, 307)
    blob = to_tflite(model, store="small")
    same(blob, model, 0.1)
    count = 15 // bits
    assert "GATHER" in operators(blob)
    assert len(blob) < 2 * 509 * 307 / count + 12 * 307 + 4 * 307 + 2500 + 400 * count
    row = report(model, tflite=blob).rows[0]
    assert row.encodings == ("INT16", "INT8")[: len(row.encodings)] and not row.full_size
    assert operators(to_tflite(model)) == ["FULLY_CONNECTED"]


def test_a_codebook_is_exact_in_float32_arithmetic():
    model = codebook(tfc.layers.CodebookDense, (256,), 8, 128)
    for store in ("fast", "small"):
        same(to_tflite(model, store=store, activations="float32"), model, 1e-5)


@pytest.mark.parametrize("kind", ["codebook", "binary"])
def test_codes_of_a_convolution(kind):
    image = (9, 9, 64)
    if kind == "codebook":
        model = codebook(tfc.layers.CodebookConv2D, image, 8, 128, 3, strides=2, padding="same")
    else:
        layer = tfc.layers.BinaryConv2D(128, 3, name="fc", padding="same", activation="relu")
        model = keras.Sequential([keras.Input(image), layer])
    blob = to_tflite(model, store="small")
    same(blob, model, 0.1)
    assert "GATHER" in operators(blob) and "CONV_2D" in operators(blob)
    bits = 3 if kind == "codebook" else 1
    assert len(blob) < 1.05 * 64 * 9 * 128 * bits / 7.5 + 10_000


def test_a_grouped_binary_convolution():
    layer = tfc.layers.BinaryConv2D(128, 3, groups=2, name="fc")
    model = keras.Sequential([keras.Input((9, 9, 128)), layer])
    for store in ("fast", "small"):
        same(to_tflite(model, store=store), model, 0.1)


def test_a_codebook_with_negative_factors_of_a_normalization():
    inner = codebook(tfc.layers.CodebookDense, (256,), 8, 256)
    y = layers.BatchNormalization(name="norm")(inner.outputs[0])
    model = keras.Model(inner.inputs, y)
    factors = np.linspace(-1, 1, 256)
    model.get_layer("norm").set_weights([factors, *np.ones((3, 256))])
    for store in ("fast", "small"):
        blob = to_tflite(model, store=store)
        same(blob, model, 0.1)
        assert len(blob) < 256 * 256 * 1.2


def test_the_rounding_of_a_codebook_is_part_of_the_limit_and_no_more(monkeypatch):
    model = codebook(tfc.layers.CodebookDense, (512,), 8, 512)
    monkeypatch.setattr(shared, "LARGEST", 3)  # a table of 7 levels: a large but known rounding
    to_tflite(model, store="small")

    monkeypatch.setattr(unpacked, "_table", _shifted(unpacked._table))
    with pytest.raises(ExportError, match="differs"):
        to_tflite(model, store="small")


def _shifted(table):
    def wrong(write, levels, bits, per_index):
        return table(write, np.roll(levels, 1), bits, per_index)

    return wrong


def pruned(shape, block, share, integers=True, seed=0, kind=layers.Dense, arguments=(64,)):
    """A layer whose kernel has a share of nonzero blocks along its inputs."""
    layer = kind(*arguments, name="fc")
    model = keras.Sequential([keras.Input(shape), layer])
    random, size = np.random.default_rng(seed), layer.kernel.shape
    rows = np.prod(size[:-1])
    mask = np.repeat(random.random((rows // block, size[-1])) < share, block, axis=0)
    if integers:
        values = random.integers(-127, 128, (rows, size[-1])) * random.uniform(0.5, 1.5, size[-1])
        values[:, 0] = 127 * np.sign(values[:, 0])
    else:
        values = random.standard_normal((rows, size[-1]))
    layer.kernel.assign((values * mask).reshape(size) / 127)
    layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    return model


@pytest.mark.parametrize("store", ["fast", "small"])
@pytest.mark.parametrize("inputs", [16, 256, 4096, 4112])
def test_blocks_of_sixteen_integers(inputs, store):
    model = pruned((inputs,), 16, 0.1)
    blob = to_tflite(model, store=store)
    same(blob, model, 0.1)
    if inputs <= 4096:  # the builtin kernel has 8 bits for the number of a block
        assert operators(blob) == ["FULLY_CONNECTED"] and encodings(blob) == {"fc": "SPARSE INT8"}
        assert len(blob) < inputs * 64 * 0.15 + 3000
    else:
        assert encodings(blob)["fc"] != "SPARSE INT8" or "DENSIFY" in operators(blob)


def test_a_full_row_of_blocks_is_too_long():
    model = pruned((4096,), 16, 0.05)
    kernel = model.get_layer("fc").kernel
    dense = kernel.numpy()
    dense[:, 3] = 1.0
    kernel.assign(dense)
    same(to_tflite(model), model, 0.1)


@pytest.mark.parametrize("store", ["fast", "small"])
def test_blocks_of_four_floats(store):
    model = pruned((512,), 4, 0.1, integers=False, arguments=(128, "relu"))
    blob = to_tflite(model, store=store)
    same(blob, model, 1e-5)
    assert operators(blob) == ["FULLY_CONNECTED"]
    assert len(blob) < 4 * 512 * 128 * 0.13 + 2500


@pytest.mark.parametrize("store", ["fast", "small"])
def test_any_zeros_of_a_float32_kernel(store):
    model = pruned((511,), 1, 0.2, integers=False)
    blob = to_tflite(model, store=store)
    same(blob, model, 1e-5)
    assert operators(blob) == ["DENSIFY", "FULLY_CONNECTED"]
    assert len(blob) < 6 * 511 * 64 * 0.21 + 2500
    row = report(model, tflite=blob).rows[0]
    assert row.encodings[0] == "SPARSE FLOAT32" and not row.full_size
    assert sum(tensor.bytes for tensor in flatbuffer.stored_tensors(blob)) == len(blob)


@pytest.mark.parametrize("activations, limit", [("int8", 0.1), ("float32", 1e-5)])
def test_any_zeros_of_an_integer_kernel(activations, limit):
    model = pruned((500,), 1, 0.1, arguments=(128,))
    blob = to_tflite(model, store="small", activations=activations)
    same(blob, model, limit)
    assert "DENSIFY" in operators(blob) and len(blob) < 3 * 500 * 128 * 0.11 + 4000
    assert "DENSIFY" not in operators(to_tflite(model))


@pytest.mark.parametrize("integers, limit", [(True, 0.1), (False, 1e-5)])
@pytest.mark.parametrize("store", ["fast", "small"])
def test_zeros_of_a_convolution(store, integers, limit):
    model = pruned((8, 8, 64), 1, 0.1, integers, kind=layers.Conv2D, arguments=(64, 3))
    blob = to_tflite(model, store=store)
    same(blob, model, limit)
    expected = ["CONV_2D"] if integers and store == "fast" else ["DENSIFY"]
    assert operators(blob)[:1] == expected


def test_dense_low_bit_forms_win_over_few_zeros():
    ternary = pruned((512,), 1, 0.5)
    kernel = ternary.get_layer("fc").kernel
    kernel.assign(np.sign(kernel.numpy()) * 0.1)
    assert encodings(to_tflite(ternary)) == {"fc": "INT2"}


def test_a_kernel_of_zeros():
    model = pruned((512,), 1, 0.0)
    for store in ("fast", "small"):
        x = samples((512,))
        blob = to_tflite(model, store=store)
        np.testing.assert_allclose(run(blob, [x])[0], model(x), atol=1e-6)
