"""Archives: what comes back, how large they are, and what is refused."""

import hashlib
import json
import os
import zlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers.test_layers import all_cases

import tfcompress as tfc
from tfcompress.archive import files as archive
from tfcompress.archive.files import ArchiveError
from tfcompress.utils.arrays import to_numpy

pytest.importorskip("constriction")
CASES = all_cases()


def net():
    """Nested and shared layers, a norm, a bare operation, an embedding, an untouched layer."""
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    block = [keras.Input((8, 8, 8)), keras.layers.Conv2D(8, 3, padding="same", name="inner")]
    block = keras.Sequential(block, name="block")
    x = keras.layers.Flatten()(block(x) + x)
    shared = keras.layers.Dense(512, activation="relu", name="shared")
    x = keras.layers.Dense(5, name="out")(shared(shared(x)))
    return keras.Model(inputs, x, name="net")


def small_net():
    rules = {
        "conv": tfc.layers.BinaryConv2D,
        "inner": tfc.layers.CPConv2D.using(rank=4),
        "shared": tfc.layers.CodebookDense.using(size=5),
    }
    model = tfc.swap(net(), rules)
    rng = np.random.default_rng(0)
    for variable in model.get_layer("norm").weights:
        variable.assign(rng.uniform(0.5, 2, variable.shape))
    return model


def same(one, other):
    """Whether two models hold the same arrays and compute the same, bit for bit."""
    layers = tfc.walk(other)
    for path, (layer, _) in tfc.walk(one).items():
        mine, theirs = arrays(layer), arrays(layers[path][0])
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name].dtype == theirs[name].dtype
            assert mine[name].tobytes() == theirs[name].tobytes(), (path, name)
    x = np.random.default_rng(1).random((2, *one.input_shape[1:]), "float32")
    assert to_numpy(one(x)).tobytes() == to_numpy(other(x)).tobytes()


def arrays(layer):
    compressed = isinstance(layer, tfc.layers.CompressedLayer)
    stored = layer.stored() if compressed else {}
    parts = {id(v) for v in layer.parts.values()} if compressed else set()
    return stored | {v.name: to_numpy(v) for v in layer.weights if id(v) not in parts}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "net.tfc"
    model = keras.Sequential([keras.Input((6,)), tfc.layers.TernaryDense(4, name="fc")])
    archive.save(model, path)
    return path


def test_a_whole_model_comes_back_bit_for_bit(tmp_path):
    model = small_net()
    model.compile("adam", "mse")
    size = archive.save(model, tmp_path / "net.tfc")
    assert size == (tmp_path / "net.tfc").stat().st_size
    back = archive.load(tmp_path / "net.tfc")
    same(model, back)
    assert not back.compiled
    assert [v.path for v in back.weights] == [v.path for v in model.weights]
    assert os.listdir(tmp_path) == ["net.tfc"]


@pytest.mark.parametrize("key", CASES)
def test_every_layer_comes_back_bit_for_bit(key, tmp_path):
    layer, maker, x = CASES[key]()
    model = keras.Sequential([keras.Input(x.shape[1:]), maker(layer)])
    archive.save(model, tmp_path / "a.tfc")
    same(model, archive.load(tmp_path / "a.tfc"))


def test_a_stochastic_binary_layer_in_both_its_forms(tmp_path):
    layer = tfc.layers.BinaryDense(4, stochastic=True)
    model = keras.Sequential([keras.Input((6,)), layer])
    for change in (lambda: None, layer.binarize):
        change()
        archive.save(model, tmp_path / "a.tfc")
        same(model, archive.load(tmp_path / "a.tfc"))


def test_ordinary_layers_of_other_dtypes(tmp_path):
    x = inputs = keras.Input((7,), dtype="int32")
    x = keras.layers.Embedding(20, 6, mask_zero=True)(x)
    x = keras.layers.LSTM(5, dtype="mixed_float16")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="bfloat16")(x))
    model.layers[-1].trainable = False
    archive.save(model, tmp_path / "a.tfc")
    back = archive.load(tmp_path / "a.tfc")
    for one, other in zip(model.weights, back.weights, strict=True):
        assert one.dtype == other.dtype
        assert one.trainable == other.trainable
        assert to_numpy(one).tobytes() == to_numpy(other).tobytes()


def test_half_rounds_what_is_left_in_float32(tmp_path):
    model = small_net()
    whole = archive.save(model, tmp_path / "whole.tfc")
    assert archive.save(model, tmp_path / "half.tfc", half=True) < whole - 2000
    back = archive.load(tmp_path / "half.tfc")
    for path, (layer, _) in tfc.walk(model).items():
        mine, theirs = arrays(layer), arrays(tfc.walk(back)[path][0])
        for name, array in mine.items():
            kept = "moving" in name or array.dtype != "float32"
            rounded = array if kept else array.astype("float16").astype("float32")
            assert rounded.tobytes() == theirs[name].tobytes(), name
    archive.save(back, tmp_path / "again.tfc", half=True)
    same(back, archive.load(tmp_path / "again.tfc"))


def test_half_keeps_statistics_and_channels_below_its_normal_numbers(tmp_path):
    x = np.random.default_rng(0).normal([1000.3, 0.0], [0.05, 1e-4], (500, 2)).astype("float32")
    norm = keras.layers.Normalization()
    norm.adapt(x)
    fc = keras.layers.Dense(300)
    model = keras.Sequential([keras.Input((2,)), norm, fc])
    fc.kernel.assign(fc.kernel * [[1.0], [1e-7]])
    archive.save(model, tmp_path / "a.tfc", half=True)
    np.testing.assert_array_equal(archive.load(tmp_path / "a.tfc")(x), model(x))


def test_a_pruned_ordinary_model_takes_the_entropy_of_what_is_left(tmp_path):
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(200)])
    pruned = tfc.prune(model, 0.9)
    size = archive.save(pruned, tmp_path / "a.tfc")
    same(pruned, archive.load(tmp_path / "a.tfc"))
    mask = 60_000 * (-0.1 * np.log2(0.1) - 0.9 * np.log2(0.9)) / 8
    assert size < 1.06 * (mask + 4 * 6_000) + 1024


def test_an_old_file_stays_whole_if_writing_fails(path, tmp_path, monkeypatch):
    (tmp_path / "a.tfc").write_bytes(b"old")

    def fail(array):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(archive.entropy, "encode", fail)
    with pytest.raises(RuntimeError):
        archive.save(archive.load(path), tmp_path / "a.tfc")
    assert os.listdir(tmp_path) == ["a.tfc"]
    assert (tmp_path / "a.tfc").read_bytes() == b"old"


def test_what_cannot_be_made_again_is_not_saved(tmp_path):
    class Own(keras.Model):
        pass

    words = keras.layers.StringLookup(vocabulary=["a", "b"])
    code = keras.layers.Lambda(lambda x: x)
    for model, message in (
        (Own(), "not built"),
        (keras.Sequential([keras.layers.Dense(2)]), "not built"),
        (keras.Sequential([keras.Input((2,)), code]), "Lambda is refused"),
        (keras.Sequential([keras.Input((2,), dtype="string"), words]), "StringLookup is refused"),
    ):
        with pytest.raises(ValueError, match=message):
            archive.save(model, tmp_path / "a.tfc")
    assert not list(tmp_path.iterdir())


def parts_of(blob):
    """Streams and header of an archive, by its format's description alone."""
    length = int.from_bytes(blob[-20:-16], "little")
    return blob[9 : -20 - length], json.loads(zlib.decompress(blob[-20 - length : -20]))


def sealed(streams, header, version=1):
    text = header if isinstance(header, bytes) else zlib.compress(json.dumps(header).encode())
    blob = b"TFCARCHV" + bytes([version]) + streams + text + len(text).to_bytes(4, "little")
    return blob + hashlib.blake2b(blob, digest_size=16).digest()


def test_the_format_is_as_described(path, tmp_path):
    streams, header = parts_of(path.read_bytes())
    (tmp_path / "a.tfc").write_bytes(sealed(streams, header))
    same(archive.load(path), archive.load(tmp_path / "a.tfc"))
    assert list(header["stored"]) == ["fc"]
    assert [record[:2] for record in header["weights"]] == [["float32", [4]]]


def test_a_missing_file_is_no_archive_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        archive.load(tmp_path / "nowhere.tfc")


def test_truncated_and_newer_files_and_others_are_refused(path, tmp_path):
    blob, file = path.read_bytes(), tmp_path / "a.tfc"
    for cut in (*range(0, len(blob), 7), len(blob) - 1):
        file.write_bytes(blob[:cut])
        with pytest.raises(ArchiveError):
            archive.load(file)
    for other, message in (
        (blob + b"\0", "checksum does not match"),
        (b"PK\3\4" + blob, "no archive"),
        (sealed(*parts_of(blob), version=2), "newer than 1"),
        (sealed(b"", zlib.compress(b" " * (1 << 23))), "header is too large"),
        (sealed(b"", zlib.compress(b"[" * 100_000)), "does not hold a sound model"),
    ):
        file.write_bytes(other)
        with pytest.raises(ArchiveError, match=message):
            archive.load(file)


def layer_config(header):
    return header["config"]["config"]["layers"][1]


def make_lambda(header):
    layer_config(header).update(class_name="Lambda", registered_name=None, module="keras.layers")


def make_unknown(header):
    layer_config(header).update(class_name="Popen", registered_name=None, module="subprocess")


def make_large(header):
    layer_config(header)["config"]["units"] = 10**9


def make_large_ordinary(header):
    config = {"units": 10**10, "name": "fc"}
    layer_config(header).update(
        class_name="Dense", registered_name=None, module="keras.layers", config=config
    )


def make_large_record(header):
    header["weights"][0][1] = [10**12]


def make_negative(header):
    header["weights"][0][2][0][0] = -4


def make_other_shape(header):
    header["weights"][0][1] = [2, 2]


def make_broadcast(header):
    header["stored"]["fc"]["scale"][1] = [4, 1]


def make_other_layer(header):
    header["stored"]["gc"] = header["stored"].pop("fc")


def make_short(header):
    del header["weights"][0]


@pytest.mark.parametrize(
    "change, message",
    [
        (make_lambda, "Lambda is refused"),
        (make_unknown, "subprocess.Popen is refused"),
        (make_large, "at most 2147483648 are allowed"),
        (make_large_ordinary, "at most 2147483648 are allowed"),
        (make_large_record, "at most 2147483648 are allowed"),
        (make_negative, "do not add up"),
        (make_other_shape, "has shape"),
        (make_broadcast, "do not have shapes"),
        (make_other_layer, "not those of its layers"),
        (make_short, "do not add up"),
    ],
)
def test_hostile_headers_are_refused(change, message, path, tmp_path):
    streams, header = parts_of(path.read_bytes())
    change(header)
    (tmp_path / "a.tfc").write_bytes(sealed(streams, header))
    with pytest.raises(ArchiveError, match=message):
        archive.load(tmp_path / "a.tfc")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])  # nothing is left behind
    assert all(v.numpy() is not None for v in model.weights)


def test_the_bound_is_the_callers(path):
    with pytest.raises(ArchiveError, match="at most 100 are allowed"):
        archive.load(path, max_bytes=100)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_archives_are_refused_or_sound(path, data):
    """Bytes changed anywhere; half of them sealed again, so that the checksum holds."""
    blob = bytearray(path.read_bytes())
    again = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    if again:
        blob[-16:] = hashlib.blake2b(blob[:-16], digest_size=16).digest()
    (path.parent / "mutated.tfc").write_bytes(blob)
    try:
        model = archive.load(path.parent / "mutated.tfc", max_bytes=1 << 20)
    except ArchiveError:
        return
    assert again or bytes(blob) == path.read_bytes()
    assert sum(v.value.numpy().nbytes for v in model.weights) <= 1 << 20


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_json_is_refused_or_sound(path, data):
    """The header's own numbers and names changed, which bytes of a zipped text seldom are."""
    streams, header = parts_of(path.read_bytes())
    text = json.dumps(header)
    place = data.draw(st.integers(0, len(text) - 1))
    piece = data.draw(st.sampled_from(["", "0", "9", "-1", "99999999", '"', "[", "null", "1e9"]))
    text = text[:place] + piece + text[place + data.draw(st.integers(0, 3)) :]
    (path.parent / "mutated.tfc").write_bytes(sealed(streams, zlib.compress(text.encode())))
    try:
        archive.load(path.parent / "mutated.tfc", max_bytes=1 << 20)
    except ArchiveError:
        return


@keras.saving.register_keras_serializable("test_files")
class Pair(keras.layers.Layer):
    """A composite layer, whose parts Keras names anew each time."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.parts_of_it = [keras.layers.Dense(units), keras.layers.Dense(4)]
        self.inner = keras.layers.MultiHeadAttention(2, 4)
        self.sum = keras.layers.Add()  # which `build` leaves unbuilt

    def build(self, shape):
        self.parts_of_it[0].build(shape)
        self.parts_of_it[1].build((*shape[:-1], self.units))
        self.inner.build(shape, shape)
        self.built = True

    def call(self, x):
        x = self.sum([x, self.inner(x, x)])
        return self.parts_of_it[1](self.parts_of_it[0](x))

    def get_config(self):
        return super().get_config() | {"units": self.units}


def test_parts_of_composite_layers_come_back(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    model = keras.Sequential([keras.Input((3, 4)), Pair(6), Pair(5)])
    small = tfc.swap(model, tfc.layers.rounding(4))
    archive.save(small, tmp_path / "a.tfc")
    again = archive.load(tmp_path / "a.tfc", allow=["test_files>Pair"])
    np.testing.assert_array_equal(again(x), small(x))
    with pytest.raises(ArchiveError, match="Pair"):
        archive.load(tmp_path / "a.tfc")


@keras.saving.register_keras_serializable("test_files")
class Twins(keras.layers.Layer):
    """A composite layer with two parts of one name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.twins = {
            "a": keras.layers.Dense(4, name="same"),
            "b": keras.layers.Dense(4, name="same"),
        }

    def build(self, shape):
        for part in self.twins.values():
            part.build(shape)
        self.built = True

    def call(self, x):
        return self.twins["b"](self.twins["a"](x))


def test_parts_of_one_name_come_back(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    small = tfc.swap(keras.Sequential([keras.Input((4,)), Twins()]), tfc.layers.rounding(4))
    archive.save(small, tmp_path / "a.tfc")
    again = archive.load(tmp_path / "a.tfc", allow=["test_files>Twins"])
    np.testing.assert_array_equal(again(x), small(x))


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    class Forgetful(Pair):
        def get_config(self):
            return super().get_config() | {"units": 3}

    keras.saving.register_keras_serializable("test_files")(Forgetful)
    model = keras.Sequential([keras.Input((3, 4)), Forgetful(6)])
    with pytest.raises(ValueError, match="its config makes other layers or weights"):
        archive.save(model, tmp_path / "a.tfc")
    assert not os.listdir(tmp_path)


def test_state_that_is_no_weight_is_made_again(tmp_path):
    x = np.random.default_rng(0).normal(50, 20, (64, 3)).astype("float32")
    norm = keras.layers.Normalization()
    norm.adapt(x)
    model = keras.Sequential([keras.Input((3,)), norm, keras.layers.Dense(2)])
    archive.save(model, tmp_path / "a.tfc")
    np.testing.assert_array_equal(archive.load(tmp_path / "a.tfc")(x), model(x))
    bins = keras.layers.Discretization(num_bins=5)
    bins.adapt(x)
    model = keras.Sequential([keras.Input((3,)), bins])
    archive.save(model, tmp_path / "b.tfc")
    loaded = archive.load(tmp_path / "b.tfc")
    assert loaded.layers[0].bin_boundaries == bins.bin_boundaries
    np.testing.assert_array_equal(loaded(x), model(x))
