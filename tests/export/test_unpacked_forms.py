"""Kernels that the runtime unpacks: hashes and codes; and all structured forms together."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import error, operators, run
from oracles_structured import circulant, codebook, hashed, pruned, same, samples

import tfcompress as tfc
from tfcompress.export import ExportError, to_tflite
from tfcompress.export.kernels import shared_values as shared
from tfcompress.export.kernels import unpacked_forms as unpacked
from tfcompress.reporting.model_report import report
from tfcompress.tflite import reader as flatbuffer


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


@pytest.mark.parametrize("inputs, blocks", [(96, 8), (97, 5), (96, 7)])
def test_every_weight_of_a_file_that_hashes_runs(inputs, blocks):
    model = hashed(128, inputs, ratio=16, blocks=blocks, seed=3)
    layer = model.get_layer("fc")
    blob = to_tflite(model, store="small", activations="float32")
    assert "CALL_ONCE" in operators(blob) and len(blob) < 4 * layer.buckets + 4 * 128 + 6000
    kernel = run(blob, [np.eye(inputs, dtype="float32")])[0] - layer.bias.numpy()
    np.testing.assert_allclose(kernel, layer.kernel, atol=1e-6)
    same(to_tflite(model, store="small"), model, 0.1)
    same(to_tflite(model), model, 0.1)


@pytest.mark.parametrize("blocks", [1, 9])
def test_hashed_convolutions(blocks):
    options = {"ratio": 16, "blocks": blocks, "padding": "same", "name": "c"}
    flat = [keras.Input((20, 48)), tfc.layers.HashedConv1D(80, 5, **options)]
    image = [keras.Input((9, 8, 32)), tfc.layers.HashedConv2D(72, 3, **options)]
    for parts in (flat, image):
        model = keras.Sequential(parts)
        for store, hashes in (("small", True), ("fast", False)):
            blob = to_tflite(model, store=store)
            same(blob, model, 0.1)
            assert ("CALL_ONCE" in operators(blob)) == hashes
        same(to_tflite(model, activations="float32"), model, 1e-5)


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


def test_kernels_of_the_same_levels_share_the_table_of_their_codes():
    random, sizes = np.random.default_rng(0), []
    for kinds in ((2, 2), (2, 3)):  # signs in both kernels, or levels of their own in the second
        model = keras.Sequential([keras.Input((240,)), layers.Dense(240), layers.Dense(240)])
        for layer, kind in zip(model.layers, kinds, strict=True):
            levels = [-1, 1] if kind == 2 else [-2, 3]
            layer.kernel.assign(random.choice(levels, (240, 240)) * random.random(240))
        blob = to_tflite(model, store="small")
        same(blob, model, 0.1)
        assert operators(blob).count("GATHER") == 2
        sizes.append(len(blob))
    assert sizes[0] < sizes[1] - 1000


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
    monkeypatch.setattr(
        shared, "LARGEST_INTEGER", 3
    )  # a table of 7 levels: a large but known rounding
    to_tflite(model, store="small")

    monkeypatch.setattr(unpacked, "_code_table", _shifted(unpacked._code_table))
    with pytest.raises(ExportError, match="differs"):
        to_tflite(model, store="small")


def _shifted(table):
    def wrong(write, levels, bits, per_index):
        return table(write, np.roll(levels, 1), bits, per_index)

    return wrong


def every_form():
    small = {"store": "small"}
    image = (8, 8, 64)
    conv = tfc.layers.BinaryConv2D(128, 3, name="fc")
    tiled = tfc.layers.TileHashedDense(512, name="fc")
    yield "rfft", circulant(512, 512), small
    yield "two stages", circulant(512, 512), {}
    yield "blocks by rfft", circulant(512, 512, block=64), small
    yield "blocks by products", circulant(512, 512, block=64), {}
    yield "codes", codebook(tfc.layers.CodebookDense, (512,), 8, 256), small
    yield "codes of a convolution", keras.Sequential([keras.Input(image), conv]), small
    yield "hash", hashed(512, 512, ratio=64), small
    yield "tiles", keras.Sequential([keras.Input((512,)), tiled]), {}
    yield "sparse blocks", pruned((512,), 16, 0.1), {}
    yield "sparse integers", pruned((500,), 1, 0.1), small
    yield "sparse floats", pruned((511,), 1, 0.2, integers=False), {}


FORMS = {name: rest for name, *rest in every_form()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMS)
def test_the_interpreter_of_tensorflow_reads_every_form(name):
    import tensorflow as tf

    model, options = FORMS[name]
    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 21):  # it knows no 2-bit kernels
        options = {**options, "min_runtime": "1.2"}
    blob = to_tflite(model, **options)
    assert blob == to_tflite(model, **options)
    runner = tf.lite.Interpreter(model_content=blob).get_signature_runner()
    x = samples(model.input_shape[1:])
    (key,) = runner.get_input_details()
    ((_, output),) = runner(**{key: x}).items()
    assert error(output, model(x)) < 0.1


@pytest.mark.parametrize("store", ["fast", "small"])
def test_a_network_of_many_kinds(store):
    x = keras.Input((12, 12, 32))
    y = tfc.layers.BinaryConv2D(64, 3, activation="relu", name="binary")(x)
    y = layers.BatchNormalization()(layers.Flatten()(layers.MaxPooling2D()(y)))
    y = tfc.layers.HashedDense(256, ratio=32, activation="relu", name="hashed")(y)
    y = tfc.layers.CirculantDense(256, activation="relu", name="circulant")(y)
    y = tfc.layers.TileHashedDense(256, activation="relu", name="tiles")(y)
    y = tfc.layers.CodebookDense(256, size=8, name="codebook")(y)
    model = keras.Model(x, layers.Dense(10, name="out")(y))
    blob = to_tflite(model, store=store)
    same(blob, model, 0.3)
    rows = report(model, tflite=blob).rows
    assert all(row.file_bytes for row in rows)
    if store == "small":
        assert len(blob) < 0.05 * 4 * sum(np.prod(row.kernel_shape) for row in rows)
