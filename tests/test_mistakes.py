"""Mistakes that people make: each gets one sentence that names the argument and what came."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc

L = keras.layers
T = tfc.layers.TernaryDense
X = np.random.default_rng(0).random((40, 8)).astype("float32")
Y = np.arange(40) % 3
ONE_HOT = np.eye(3)[Y]


def net(inputs=8):
    layers = [keras.Input((inputs,)), L.Dense(16, "relu", name="fc1"), L.Dense(3, name="fc2")]
    model = keras.Sequential(layers)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def maps():
    return keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.Flatten(), L.Dense(3)])


def generator():
    yield X[:4], Y[:4]


def distilled(student=8):
    distiller = tfc.Distiller(student=net(student), teacher=net())
    distiller.compile("adam")
    distiller.fit(X, verbose=0)


READERS = {
    "swap": lambda data: tfc.swap(net(), {"fc1": T}, data=data),
    "prune": lambda data: tfc.prune(net(), 0.5, data=data, score="obs"),
    "plan": lambda data: tfc.plan(net(), data, budget=0.5),
    "compress": lambda data: tfc.compress(net(), data, budget=0.5),
    "recalibrate": lambda data: tfc.recalibrate_batch_norm(net(), data),
    "kronecker": lambda data: tfc.curvature.kronecker(net(), data),
}
DATA = {
    "a path": ("data.npz", r"Load the file first, as by `np.load`. Received: 'data.npz'"),
    "a list of numbers": (X.tolist(), r"arrays whose first axis .* Received: 0\."),
    "texts": (np.array(["a.png"] * 8), r"hold numbers, as the model takes.*Received: array"),
    "a function": (generator, r"`data` is a function that makes them. Call it.*Received: <func"),
    "single examples": (tf.data.Dataset.from_tensor_slices(X), r"give `data.batch\(32\)`"),
    "another width": (X[:, :5], r"shapes \[\(None, 8\)\] in `data`.* Received: \[\(\d+, 5\)\]"),
    "NaN": (X * np.nan, r"inputs in `data` hold NaN or infinite"),
    "nothing": (X[:0], r"`data` holds no examples"),
    "a number": (3, r"`data` that `fit` takes: arrays, a dataset or a generator. Received: 3"),
}


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("what", DATA)
def test_data(verb, what):
    data, message = DATA[what]
    with pytest.raises(ValueError, match=message):
        READERS[verb](data)


RULES = {
    "a list": ([("fc1", T)], r"Expected rules as a dict .* Received: \[\('fc1'"),
    "none": (None, "Expected rules as a dict .* Received: None"),
    "a layer": ({"fc1": T(16)}, r"'fc1' is a layer, .*`tfc.layers.TernaryDense.using\(...\)`"),
    "a name for a maker": ({"fc1": "binary"}, r"maker of rule 'fc1' .* Received: 'binary'"),
    "a number": ({"fc1": 4}, "maker of rule 'fc1' .* Received: 4"),
    "a typo": ({"fc3": T}, r"'fc3' matches no layer. Near names: fc2, fc1"),
    "another kind": ({"fc1": tfc.layers.TernaryConv2D}, "takes Conv2D layers only, not Dense"),
    "a rank above the full one": (
        {"fc1": tfc.layers.LowRankDense.using(rank=100)},
        r"'fc1' .* `rank` must be at most 8.* Received: rank=100",
    ),
}


@pytest.mark.parametrize("what", RULES)
def test_rules(what):
    rules, message = RULES[what]
    with pytest.raises((TypeError, ValueError), match=message):
        tfc.swap(net(), rules)


@pytest.mark.parametrize(
    "read",
    [
        lambda data: tfc.compress(net(), data, budget=0.5),
        lambda data: tfc.plan(net(), data, budget=0.5),
        lambda data: tfc.curvature.gauss_newton(net(), data),
        lambda data: tfc.sensitivity(net(), data, candidates=[T.using()]),
    ],
)
def test_one_hot_labels_of_a_sparse_loss(read):
    message = r"SparseCategoricalCrossentropy takes them: one-hot labels .*Received: labels of"
    with pytest.raises(ValueError, match=message):
        read((X, ONE_HOT))


def others(folder):
    (folder / "garbage.keras").write_text("garbage")
    tfc.to_tflite(maps(), folder / "maps.tflite")
    return {
        "models in their order": (
            lambda: tfc.Distiller(net(), student=net(), teacher=net()),
            r"told by name: `Distiller\(student=..., teacher=...\)`",
        ),
        "no models": (lambda: tfc.Distiller(net(), net()), "keyword-only arguments: 'student' and"),
        "no projection": (
            lambda: tfc.optimizers.ProxNewton(1e-3),
            r"Expected `project`.*`ProxNewton\(1e-3, tfc.project.Ternary\(\)\)`",
        ),
        "a class for a projection": (
            lambda: tfc.optimizers.ProxNewton(1e-3, tfc.project.Ternary),
            r"such as `tfc.project.Ternary\(\)`.*Received: project=<class",
        ),
        "an option that is none": (lambda: T.using(bit=3), r"no option \['bit'\]"),
        "a garbage file": (lambda: tfc.report(folder / "garbage.keras"), "is no .keras file"),
        "the file of another model": (
            lambda: tfc.report(net(), tflite=folder / "maps.tflite"),
            r"not that of model .*\[\(None, 8\)\].*Received: .*\[\(None, 8, 8, 1\)\]",
        ),
        "bytes for a model": (
            lambda: tfc.report(b"0" * 10_000),
            r"Expected a `keras.Model`. Received: b'0{1,40}\.\.\.",
        ),
        "a path for a model": (
            lambda: tfc.swap("net.keras", {"fc1": T}),
            "load it with `keras.models.load_model`. Received: 'net.keras'",
        ),
        "a file that is not there": (
            lambda: tfc.compress("absent.keras", (X, Y), budget=0.5),
            "There is no such file: absent.keras",
        ),
        "no files": (lambda: tfc.bench({}), r"Expected `files` .* Received: \{\}"),
        "a score": (lambda: tfc.prune(net(), 0.5, score="magnitud"), "Received: 'magnitud'"),
        "a share in percent": (lambda: tfc.prune(net(), 80), r"in \[0, 1\).*sparsity=80"),
        "a share as text": (lambda: tfc.prune(net(), "0.5"), "to be a number. Received: '0.5'"),
        "a metric": (
            lambda: tfc.compress(net(), (X, Y), budget=0.5, metric="f1score"),
            "Expected `metric` .* Received: 'f1score'",
        ),
        "a drop in percent": (
            lambda: tfc.compress(net(), (X, Y), max_drop=5, metric="accuracy"),
            "Did you mean 5 points, which is 0.05.* Received: max_drop=5",
        ),
        "a target": (
            lambda: tfc.compress(net(), (X, Y), budget=0.5, target="size"),
            "Expected `target` .* Received: 'size'",
        ),
        "more examples than labels": (
            lambda: tfc.compress(net(), (X, Y[:10]), budget=0.5),
            r"inputs of \[40\] examples, labels of \[10\]",
        ),
        "bits as text": (lambda: tfc.layers.rounding("8"), "Received: bits='8'"),
        "ranges without samples": (
            lambda: tfc.to_tflite(net(), activations="static_int8"),
            "measures its ranges on samples: give `check`",
        ),
        "a path for samples": (
            lambda: tfc.to_tflite(net(), check="x.npy"),
            r"`check` .* Received:",
        ),
        "a layer for a candidate": (
            lambda: tfc.sensitivity(net(), (X, Y), candidates=[T(3)]),
            "Expected each candidate to be a maker",
        ),
        "other inputs of the student": (
            lambda: distilled(5),
            r"inputs of the student .*\[\(5,\)\] and \[\(8,\)\]",
        ),
    }


def test_other_mistakes(tmp_path):
    for name, (call, message) in others(tmp_path).items():
        with pytest.raises((TypeError, ValueError, OSError), match=message) as raised:
            call()
        assert str(raised.value).count("\n") < 2, name


TFLITE = "Expected `tflite` to be the bytes of a .tflite file or its path. Received: <Seq"
MORE = {
    "a tuple for a maker": (lambda m: tfc.swap(m, {"fc1": (T,)}), "rule 'fc1' must be .* Received"),
    "a number for a rule's key": (lambda m: tfc.swap(m, {0: T}), "rule's key .* Received: 0"),
    "memory as text": (
        lambda m: tfc.swap(m, {"fc1": T}, data=X, memory="1GB"),
        "`memory` to be a whole number.* Received: '1GB'",
    ),
    "bits that are none": (
        lambda m: tfc.layers.rounding(9),
        "integer from 2 to 8. Received: bits=9",
    ),
    "a scope": (lambda m: tfc.prune(m, 0.5, scope="all"), "'layer' or 'global'. .*scope='all'"),
    "a share below 0": (lambda m: tfc.prune(m, -0.1), r"in \[0, 1\)\. Received: sparsity=-0.1"),
    "surgery without data": (lambda m: tfc.prune(m, 0.5, score="obs"), 'score="obs" needs `data`'),
    "channels by name": (
        lambda m: tfc.prune_channels(m, {"fc1": 0.5}),
        "`sparsity` to be a number. Received: {'fc1'",
    ),
    "a budget as text": (
        lambda m: tfc.plan(m, (X, Y), "10%"),
        "`budget` to be a number, .* a text of time, .* Received: '10%'",
    ),
    "a path in no folder": (
        lambda m: tfc.compress(m, (X, Y), 0.5, path="absent/a.tflite"),
        "folder of `path` does not exist. Received: 'absent/a.tflite'",
    ),
    "a path of another format": (
        lambda m: tfc.compress(m, (X, Y), 0.5, path="a.onnx"),
        "`path` to end in .tflite. Received: 'a.onnx'",
    ),
    "a seed as text": (
        lambda m: tfc.compress(m, (X, Y), 0.5, seed="a"),
        "`seed` to be a whole number. Received: 'a'",
    ),
    "half an epoch": (
        lambda m: tfc.compress(m, (X, Y), 0.5, fine_tune=1.5),
        "`fine_tune` .* Received: 1.5",
    ),
    "activations": (
        lambda m: tfc.to_tflite(m, activations="int4"),
        "`activations` .*Received: 'int4'",
    ),
    "labels among samples": (
        lambda m: tfc.to_tflite(m, check=(X, Y)),
        r"`check` must hold .* Received: shapes \[\(40, 8\), \(40,\)\]",
    ),
    "a runtime as a number": (
        lambda m: tfc.to_tflite(m, min_runtime=2.1),
        "`min_runtime` must be .* Received: 2.1",
    ),
    "no threads": (lambda m: tfc.bench("a.tflite", threads=0), "`threads` .*least 1. Received: 0"),
    "no time": (lambda m: tfc.bench("a.tflite", seconds=-1), "`seconds` above 0. Received: -1"),
    "a file to time that is not there": (
        lambda m: tfc.bench("absent.tflite"),
        "There is no such file: absent.tflite",
    ),
    "a model for a file to time": (lambda m: tfc.bench({"a": m}), TFLITE),
    "a model for a file to report": (lambda m: tfc.report(m, tflite=m), TFLITE),
    "data for a baseline": (
        lambda m: tfc.report(m, X),
        "Expected a `keras.Model`. Received: array",
    ),
    "points without accuracies": (
        lambda m: tfc.report(m).to_html("a.html", points={"a": 3}),
        r"`points` as a dict `{name: \(bytes, accuracy\)}`. Received: 3 of 'a'",
    ),
    "accuracy in percent": (
        lambda m: tfc.report(m).to_html("a.html", accuracy=91),
        "`accuracy` .* Did you mean 91%, which is 0.91.* Received: 91",
    ),
    "a file to explain that is not there": (
        lambda m: tfc.explain(m, m, (X, Y), tflite="absent.tflite"),
        "There is no such file: absent.tflite",
    ),
    "an archive that is not there": (
        lambda m: tfc.archive.load("absent.tfc"),
        "There is no such file: absent.tfc",
    ),
    "no candidates": (
        lambda m: tfc.sensitivity(m, (X, Y), candidates=[]),
        "`candidates` to hold at least one maker",
    ),
    "a share for a schedule": (
        lambda m: tfc.callbacks.Prune(0.5),
        r"Expected a schedule: .*Constant\(0.8\)`. Received: 0.5",
    ),
    "a layer of Keras for a maker": (
        lambda m: tfc.swap(m, {"fc1": L.Dense(16)}),
        "rule 'fc1' is a layer, and .* Give a class of `tfc.layers`, .* Received: <Dense",
    ),
    "a class of Keras for a maker": (
        lambda m: tfc.swap(m, {"fc1": L.Dense}),
        "rule 'fc1' is a class that compresses nothing. Give a class .* Received: Dense",
    ),
    "a path for a callback's data": (
        lambda m: tfc.callbacks.RecalibrateBatchNorm("x.npz"),
        "Load the file first, .* Received: 'x.npz'",
    ),
    "a number for a folder": (
        lambda m: tfc.callbacks.Monitor(3),
        "Expected `log_dir` to be a path. Received: 3",
    ),
    "a part for a folder of data": (
        lambda m: tfc.datasets.fashion_mnist("train"),
        "Expected `folder` to be a folder. Received: 'train'",
    ),
    "half of an archive as a text": (
        lambda m: tfc.archive.save(m, "net.tfc", half="yes"),
        "`half` to be True or False. Received: 'yes'",
    ),
    "hints by name": (
        lambda m: tfc.Distiller(student=net(), teacher=m, hints="fc1"),
        "`hints` to be a list of `tfc.Hint`. Received: 'fc1'",
    ),
}


@pytest.fixture(scope="module")
def built():
    return net()


@pytest.mark.parametrize("what", MORE)
def test_more_mistakes(what, built):
    call, message = MORE[what]
    with pytest.raises((TypeError, ValueError, OSError), match=message) as raised:
        call(built)
    assert "\n" not in str(raised.value)


def test_paths_where_the_command_line_takes_them(tmp_path):
    model = net()
    model.save(tmp_path / "net.keras")
    tfc.to_tflite(model, tmp_path / "net.tflite")
    assert tfc.report(str(tmp_path / "net.keras")).rows == tfc.report(model).rows
    timed = tfc.bench(tmp_path / "net.tflite", rounds=7, seconds=0.1, memory=False)
    assert [t.name for t in timed.timings] == [str(tmp_path / "net.tflite")]
    made = tfc.compress(tmp_path / "net.keras", (X, Y), budget=0.9, max_drop=0.99, fine_tune=0)
    assert made.size == len(made.tflite)
