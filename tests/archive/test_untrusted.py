"""Crafted archives: nothing that they name is run, and no memory is taken before it is counted."""

import importlib
import inspect
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from archive import crafted

import tfcompress as tfc
from tfcompress.archive import allowed
from tfcompress.archive.untrusted import Checker

pytest.importorskip("constriction")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came of each crafted file, in a child under a limit of memory."""
    folder = tmp_path_factory.mktemp("crafted")
    tfc.archive.save(sound(), folder / "sound")
    for name, blob in crafted.files((folder / "sound").read_bytes()).items():
        (folder / f"{name}.tfc").write_bytes(blob)
    command = [sys.executable, crafted.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert not done.returncode, done.stderr[-3000:]
    assert not [path for path in folder.iterdir() if path.suffix != ".tfc" and path.stem != "sound"]
    return json.loads(done.stdout.splitlines()[-1])


def sound():
    i = keras.Input((4,), name="i")
    return keras.Model(i, keras.layers.Dense(2, name="o")(i))


def test_every_crafted_archive_is_refused(found):
    assert len(found) > 50
    wrong = {name: end for name, (end, _) in found.items() if not end.startswith("ArchiveError: ")}
    assert not wrong


def test_no_crafted_archive_takes_memory(found):
    assert {name: kilobytes for name, (_, kilobytes) in found.items() if kilobytes > 64 << 10} == {}


@pytest.mark.parametrize(
    "name, message",
    [
        ("tile", "a node of Tile has no symbolic argument"),
        ("cond", "Cond is refused"),
        ("activation of utils", "keras.utils.get_file is refused"),
        ("layer below an operation", "ReLU is refused below an operation"),
        ("no module", "'HashedDense' is refused, as it does not name its module"),
        ("name of another", "'tfcompress>obd', stands for a value"),
        ("ignored", "unknown keys: ['ignored']"),
        ("hashed", "at most 1048576 are allowed"),
        ("normalization", "at most 1048576 are allowed"),
        ("constants", "at most 1048576 are allowed"),
        ("not built", "Normalization must tell for which shape"),
        ("negative build", "no whole number >= 0. Received: -4"),
        ("hashed, not needed", "no output needs its layer 'x'"),
        ("activation hashed", "its layer 'h' is not built"),
        ("initializer hashed", "its layer 'h' is not built"),
        ("streams", "cannot have 104 streams"),
    ],
)
def test_the_reason_is_told(found, name, message):
    assert message in found[name][0]


def operations():
    for name in sorted(allowed.OPERATIONS):
        for cls in vars(importlib.import_module(name)).values():
            if isinstance(cls, type) and issubclass(cls, keras.Operation):
                yield cls


def test_every_operation_that_calls_a_function_is_known():
    calls = set()
    for cls in operations():
        methods = map(inspect.signature, (cls.__init__, cls.call))
        names = {name for method in methods for name in method.parameters}
        if names & {"f", "body", "body_fun", "branches", "function", "true_fn"}:
            calls.add(cls.__name__)
    assert calls == allowed.CALLING
    assert len(list(operations())) > 300


def test_no_allowed_layer_holds_code_or_files():
    for name in allowed.CLASSES["keras.layers"]:
        layer = getattr(keras.layers, name)
        assert not hasattr(layer, "save_assets"), name
        assert not hasattr(layer, "load_assets"), name


@keras.saving.register_keras_serializable("strangers")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable("strangers")
def shifted(x):
    return x + 1


def strange():
    i = keras.Input((4,))
    return keras.Model(i, keras.layers.Dense(2, activation=shifted)(Doubled()(i)))


def test_registered_objects_need_the_callers_word(tmp_path):
    model = strange()
    tfc.archive.save(model, tmp_path / "a.tfc")
    both = ["strangers>Doubled", "strangers>shifted"]
    for allow in ((), both[:1], both[1:]):
        with pytest.raises(tfc.archive.ArchiveError, match="may name it only if you say so"):
            tfc.archive.load(tmp_path / "a.tfc", allow=allow)
    back = tfc.archive.load(tmp_path / "a.tfc", allow=both)
    x = np.random.default_rng(0).random((3, 4), "float32")
    np.testing.assert_array_equal(back(x), model(x))
    with pytest.raises(TypeError, match="list of names"):
        tfc.archive.load(tmp_path / "a.tfc", allow=both[0])


def test_custom_objects_are_the_callers_word(tmp_path):
    class Tripled(keras.layers.Layer):
        def call(self, x):
            return 3 * x

    i = keras.Input((4,))
    model = keras.Model(i, Tripled()(i))
    with keras.saving.custom_object_scope({"Tripled": Tripled}):
        tfc.archive.save(model, tmp_path / "a.tfc")
        with pytest.raises(tfc.archive.ArchiveError, match="'Tripled' is registered here"):
            tfc.archive.load(tmp_path / "a.tfc")
        tfc.archive.load(tmp_path / "a.tfc", allow=["Tripled"])
    with pytest.raises(tfc.archive.ArchiveError, match="Tripled is refused"):
        tfc.archive.load(tmp_path / "a.tfc")
    back = tfc.archive.load(tmp_path / "a.tfc", custom_objects={"Tripled": Tripled})
    assert type(back.layers[-1]) is Tripled


def test_a_config_with_parts_is_checked_as_any_other():
    inner = crafted.keras_layer("LSTM", {"units": 3})
    parts = {"cell/kernel": crafted.ours("TernaryDense", {"units": 12})}
    config = {"composite": inner, "parts": parts}
    Checker().check(config)
    parts["cell/kernel"]["config"]["activation"] = crafted.function("keras.utils", "get_file")
    with pytest.raises(ValueError, match="get_file is refused"):
        Checker().check(config)


def test_models_that_call_one_another_twice_are_refused_before_they_are_made():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Identity()], name="inner")
    x = keras.Input((4,))
    whole = keras.saving.serialize_keras_object(keras.Model(x, inner(inner(x))))
    config = whole
    for depth in range(30):
        outer = json.loads(json.dumps(whole))
        (place,) = (e for e in outer["config"]["layers"] if e["name"] == "inner")
        place |= {"class_name": config["class_name"], "module": config["module"]}
        place |= {"config": config["config"], "registered_name": config["registered_name"]}
        config = outer
        if depth == 3:
            Checker().check(json.loads(json.dumps(config)))
    with pytest.raises(ValueError, match="more than 100000 calls"):
        Checker().check(json.loads(json.dumps(config)))


def test_models_of_many_kinds_come_back(tmp_path):
    layers, i = keras.layers, keras.Input((6, 4))
    compiled = keras.Sequential([keras.Input((6, 4)), layers.Dense(3)])
    compiled.compile("adam", "mse")
    for number, y in enumerate(
        [
            layers.Bidirectional(layers.LSTM(3))(i),
            layers.TimeDistributed(layers.Dense(3))(i),
            layers.MultiHeadAttention(2, 3)(i, i),
            layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])(i),
            layers.SpectralNormalization(layers.Conv1D(3, 3))(i),
            keras.ops.split(keras.ops.softmax(i[:, ::2] * 2.0), 2, axis=-1)[0],
            keras.ops.unstack(i, num=6, axis=1)[2],
            layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 1, 1, 2])(i),
            layers.Rescaling(np.arange(4.0) + 1)(i),
            layers.Dense(3, activation=layers.LeakyReLU())(i),
            layers.Dropout(0.3, seed=3)(layers.Dense(3, kernel_regularizer="l2")(i)),
            compiled(i),
        ]
    ):
        model = keras.Model(i, y)
        tfc.archive.save(model, tmp_path / "a.tfc")
        back = tfc.archive.load(tmp_path / "a.tfc")
        x = np.random.default_rng(0).random((2, 6, 4), "float32")
        np.testing.assert_array_equal(back(x), model(x), err_msg=str(number))


def test_the_memory_of_a_sound_file_stays_below_its_bound(tmp_path):
    """By the operating system's count, of a kernel of 64 MB and an index of 64 MB."""
    i = keras.Input((4096,), name="i")
    dense = keras.layers.Dense(4096, use_bias=False, kernel_initializer="zeros", name="d")
    hashed = tfc.layers.HashedDense(4096, buckets=64, use_bias=False, name="h")
    tfc.archive.save(keras.Model(i, hashed(dense(i))), tmp_path / "a.tfc")
    path = pathlib.Path(tmp_path / "a.tfc")
    with pytest.raises(tfc.archive.ArchiveError, match="declares 134217984 bytes"):
        tfc.archive.load(path, max_bytes=(128 << 20) + 255)
    tfc.archive.load(path, max_bytes=(128 << 20) + 256)


@keras.saving.register_keras_serializable("strangers")
class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(8, name="first")
        self.last = keras.layers.Dense(2, name="last")

    def call(self, x):
        return self.last(self.first(x))


def test_replaced_parts_come_back_and_a_strangers_class_needs_the_callers_word(tmp_path):
    i = keras.Input((6, 4))
    recurrent = keras.Model(i, keras.layers.LSTM(8, name="l")(i))
    own = Net()
    own(np.ones((1, 4), "float32"))
    for model, rules, shape, allow in (
        (recurrent, {"l": tfc.layers.TernaryDense}, (2, 6, 4), ()),
        (own, {"first": tfc.layers.TernaryDense}, (2, 4), ["strangers>Net"]),
    ):
        small = tfc.swap(model, rules)
        tfc.archive.save(small, tmp_path / "a.tfc")
        back = tfc.archive.load(tmp_path / "a.tfc", allow=allow)
        x = np.random.default_rng(0).random(shape, "float32")
        np.testing.assert_array_equal(back(x), small(x))
    with pytest.raises(tfc.archive.ArchiveError, match="'strangers>Net' is registered here"):
        tfc.archive.load(tmp_path / "a.tfc")
