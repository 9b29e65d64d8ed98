"""What `mypy` says of programs that use the package: nothing of right ones, all of wrong ones."""

import os
import pathlib
import subprocess
import sys

import pytest

import tfcompress

FOLDER = pathlib.Path(tfcompress.__file__).parent.parent
CONFIG = pathlib.Path(__file__).parent.parent / "pyproject.toml"
START = """\
import keras
import numpy as np
import tfcompress as tfc
from tfcompress import layers

x, y = np.zeros((8, 28, 28, 1), "float32"), np.zeros(8)
model = tfc.models.lenet5()
"""
RIGHT = """\
small = tfc.swap(model, {"fc": layers.LowRankDense.using(rank=0.5), keras.layers.Conv2D: None})
rules = {"fc": layers.BinaryDense.using()}
small = tfc.swap(model, rules, data=x)
small = tfc.swap(model, layers.rounding(8), curvature=tfc.curvature.gauss_newton(model, (x, y)))
small = tfc.swap(model, {}, curvature=tfc.curvature.kronecker(model, x))
layers.TuckerConv2D(8, 3, rank=(2, 2), activation="relu", name="c", dilation_rate=2)
layers.QuantizedDense(8, bits=4, levels="log", use_bias=False)
layers.QuantizedConv2D.using(bits=4).then(layers.QuantizedConv2D.using(bits=8))
tfc.prune(model, 0.5, (x, y), score="obd", scope="global")
tfc.callbacks.Prune(tfc.schedules.Polynomial(0.0, 0.9, 100))
tfc.callbacks.Prune(0.5, score=tfc.score.block("obd", (1, 16)))
tfc.optimizers.ProxNewton(1e-3, tfc.project.Binary(), beta_1=0.9)
tfc.Distiller(student=small, teacher=[model], hints=[tfc.Hint(student="a", teacher="b")])
blob: bytes = tfc.to_tflite(small, "x.tflite", store="small")
made: tfc.Compressed = tfc.compress(model, (x, y), 0.1)
found: tfc.Compressed = tfc.search(model, (x, y), 0.1, trials=3)
tfc.swap(model, tfc.plan(model, (x, y), 0.1, target="tflite").rules)
tfc.archive.save(model, "m.tfc")
print(tfc.report(small, model, blob), tfc.bench({"a": blob}))
tfc.metric.Kronecker(np.eye(3)).apply(x)
raise tfc.ExportError("no") from tfc.archive.ArchiveError("no")
"""
# A line each, and the code of the one error that it has.
WRONG = [
    ("tfc.nonsense", "attr-defined"),
    ("layers.BinaryDens", "attr-defined"),
    ("tfc.curvature.hessian", "attr-defined"),
    ("tfc.plan(model, [x], 0.1).rule", "attr-defined"),
    ("tfc.swap(model)", "call-arg"),
    ("tfc.swap(model, 3)", "arg-type"),
    ('tfc.swap(model, {"fc": 8})', "dict-item"),
    ("tfc.swap(model, {}, curve=None)", "call-arg"),
    ("layers.TuckerConv2D(8, 3, ranks=2)", "call-arg"),
    ('layers.QuantizedDense("8")', "arg-type"),
    ('layers.QuantizedDense(8, levels="cubic")', "arg-type"),
    ('layers.QuantizedDense(8, activatoin="relu")', "call-arg"),
    ("layers.QuantizedDense.using(bit=4)", "call-arg"),
    ('layers.QuantizedDense.using(bits="4")', "arg-type"),
    ("layers.TernaryDense.using(bits=3)", "call-arg"),
    ('tfc.prune(model, "half")', "arg-type"),
    ('tfc.prune(model, 0.5, scope="both")', "arg-type"),
    ("tfc.prune(model, 0.5, 7)", "arg-type"),
    ("tfc.to_tflite(model, 5)", "arg-type"),
    ('tfc.to_tflite(model, store="tiny")', "arg-type"),
    ("tfc.to_tflite(model) + 1", "operator"),
    ("tfc.compress(model, [x], [0.1])", "arg-type"),
    ("tfc.search(model, [x])", "call-arg"),
    ("tfc.curvature.gauss_newton(model, 3)", "arg-type"),
    ('tfc.schedules.Polynomial("0", 0.9, 100)', "arg-type"),
    ("tfc.Distiller(model, model)", "call-arg"),
    ('tfc.Hint("a", teacher="b")', "call-arg"),
    ("tfc.callbacks.Prune(0.5, evry=3)", "call-arg"),
    ('tfc.models.lenet5(classes="10")', "arg-type"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What mypy says of a program of right uses and one of wrong ones, line by line."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "right.py").write_text(START + RIGHT)
    (folder / "wrong.py").write_text(START + "\n".join(line for line, _ in WRONG) + "\n")
    environment = dict(os.environ)
    if FOLDER.name != "site-packages":  # where mypy looks by itself
        environment["MYPYPATH"] = str(FOLDER)
    command = [sys.executable, "-m", "mypy", "--config-file", str(CONFIG), "--hide-error-context"]
    done = subprocess.run(
        [*command, "right.py", "wrong.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_right_uses_pass(said):
    assert not [line for line in said if not line.startswith("wrong.py")]


@pytest.mark.parametrize("place", range(len(WRONG)), ids=lambda place: WRONG[place][0])
def test_each_wrong_use_is_an_error(said, place):
    line = START.count("\n") + place + 1
    told = [text for text in said if text.startswith(f"wrong.py:{line}:")]
    assert len(told) == (2 if "Distiller(model, model)" in WRONG[place][0] else 1)
    assert all(text.endswith(f"[{WRONG[place][1]}]") for text in told)
