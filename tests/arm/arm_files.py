"""The files of the ARM suite: every form, what it must compute, and whether a run did."""

import json
from dataclasses import dataclass, field

import keras
import numpy as np
from oracles_float64 import limit_of, outputs_of
from oracles_forms import FORMS
from oracles_networks import inputs_of

from tfcompress.tflite import reader as flatbuffer
from tfcompress.tflite.runtimes import min_runtime

OLD = "for 1.2"  # a second file of a form whose first one needs a newer LiteRT


@dataclass(frozen=True)
class Case:
    """A file and its float64 outputs.

    Attributes:
        blob: the file's bytes.
        inputs: of the file.
        expected: float64, an output for each input.
        limit: the largest error.
        runtime: the oldest LiteRT that the file is for.
    """

    blob: bytes = field(repr=False)
    inputs: np.ndarray = field(repr=False)
    expected: np.ndarray = field(repr=False)
    limit: float
    runtime: str


def make_cases() -> dict[str, Case]:
    cases = {}
    for name, form in FORMS.items():
        keras.utils.set_random_seed(0)
        model = form.make()
        cases[name] = _case(form, model, form.export(model))
        if cases[name].runtime != "1.2.0":
            cases[f"{name}, {OLD}"] = _case(form, model, form.export(model, min_runtime="1.2"))
    return cases


def _case(form, model, blob):
    x = inputs_of(model)
    y = outputs_of(model, x)
    rms = np.sqrt(np.mean(y**2))
    limit = limit_of(model, x, form.exact) if form.limit is None else form.limit * rms
    return Case(blob, _as_stored(blob, x), y, limit, min_runtime(blob))


def _as_stored(blob, x):
    """Inputs as the file takes them: int8 in a file of `io="int8"`."""
    scale, zero_point = _quantization(blob, "inputs")
    if not scale:
        return x
    return np.clip(np.rint(x / scale) + zero_point, -128, 127).astype(np.int8)


def _quantization(blob, ends):
    graph = flatbuffer.read(blob).subgraphs[0]
    tensor = graph.tensors[int(getattr(graph, ends)[0])]
    table = tensor.quantization
    if flatbuffer.type_name(tensor) != "INT8":
        return 0.0, 0
    return float(table.scale[0]), int(table.zeroPoint[0])


def write_files(cases, folder) -> None:
    folder.mkdir(parents=True)
    for name, case in cases.items():
        (folder / f"{name}.tflite").write_bytes(case.blob)
        np.save(folder / f"{name}.npy", case.inputs)


def problems(results, name, case) -> dict[str, str]:
    """`{resolver: what is wrong}` of a file that `run_files.py` has run."""
    told = json.loads((results / "status.json").read_text())
    found = {}
    for resolver in ("delegate", "builtin"):
        wrong = told[f"{name}.{resolver}"] or _error(results / f"{name}.{resolver}.npz", case)
        if wrong:
            found[resolver] = wrong
    return found


def _error(path, case) -> str:
    scale, zero_point = _quantization(case.blob, "outputs")
    with np.load(path) as outputs:
        for key, expected in ("one", case.expected[:1]), ("all", case.expected):
            output = outputs[key].astype(np.float64)
            output = (output - zero_point) * scale if scale else output
            if output.shape != expected.shape or not np.isfinite(output).all():
                return f"{key}: not finite, or of shape {output.shape}"
            error = np.abs(output - expected).max()
            if error > case.limit:
                return f"{key}: off by {error:.3g}, {case.limit:.3g} is allowed"
    return ""
