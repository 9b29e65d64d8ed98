"""Runs an exported file under both resolvers and compares it with the Keras model.

The limit for the largest difference of an output is
- `EXACT` times the output's rms, for float32 arithmetic; more for a model of a narrower policy;
- plus, where a form rounds the numbers of a codebook or a hashed layer to int8, the change that
  this makes in the float32 file;
- plus, where a form rounds activations to int8, `MARGIN` times the largest change that uniform
  noise of one int8 step on the same activations makes in the float32 file (`run.Probe`).
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.export.convert.stock import call, output_names
from tfcompress.export.kernels.rewrite import apply, round_kernels
from tfcompress.graph.private_keras import layers_in
from tfcompress.tflite.runner import Probe, Runner, difference
from tfcompress.utils.errors import ExportError

EXACT = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
MARGIN = 4.0
TINY = 1e-30


@dataclass(frozen=True)
class Case:
    """Inputs, the Keras model's outputs for them, and the largest difference allowed of each."""

    inputs: list
    expected: list
    limits: list


def make_cases(
    model: keras.Model, plain: bytes, batches: int, rounded: Any, sites: Any
) -> list[Case]:
    """What the model gives for each batch, and how much a file may differ.

    Args:
        plain: the path of the float32 file.
        rounded: its tensors that the file to verify rounds to int8.
        sites: what is rewritten.

    Raises:
        ExportError: the float32 file itself differs from the model.
    """
    probe = Probe(plain, rounded)
    coarse = Runner(round_kernels(plain, sites)) if any(site.rounds for site in sites) else None
    exact = max(EXACT.get(layer.compute_dtype, 1e-4) for layer in layers_in(model))
    cases = []
    for inputs in batches:
        expected = [keras.ops.convert_to_numpy(y) for y in call(model, inputs)]
        limits = [exact * _rms(y) for y in expected]
        worst = _worst(probe.run(inputs)[0], Case(inputs, expected, limits))
        if worst:
            raise ExportError(_message(model, worst, "the stock converter's own file"))
        rounding = probe.deviations(inputs) if probe.tensors else [0.0] * len(expected)
        limits = [a + MARGIN * b for a, b in zip(limits, rounding, strict=True)]
        if coarse is not None:
            changes = map(difference, coarse(inputs), probe.run(inputs)[0])
            limits = [a + b for a, b in zip(limits, changes, strict=True)]
        cases.append(Case(inputs, expected, limits))
    return cases


def verify(model: keras.Model, blob: bytes, cases: Any, sites: Any, plain: bytes) -> None:
    """Runs a file on the cases, with the default delegates and (one sample) without.

    Raises:
        ExportError: an output differs by more than its limit; gives both numbers and the layer.
    """
    for case, delegates in [*((case, True) for case in cases), (cases[0], False)]:
        worst = _worst(Runner(blob, delegates)(case.inputs), case)
        if worst:
            layer = _culprit(plain, sites, case, delegates)
            where = "the default resolver" if delegates else "the resolver without delegates"
            raise ExportError(_message(model, worst, f"the file under {where}", layer))


def _culprit(plain, sites, case, delegates) -> str | None:
    """The layer whose kernel, when it alone is rewritten, makes the largest difference."""

    def excess(site):
        outputs = Runner(apply(plain, [site]), delegates)(case.inputs)
        return max(map(_excess, outputs, case.expected, case.limits))

    return max(sites, key=excess).kernel.layer if sites else None


def _worst(outputs, case):
    """`(output, difference, limit)` of the output that is furthest above its limit, or None."""
    rows = list(zip(outputs, case.expected, case.limits, strict=True))
    excess = [_excess(*row) for row in rows]
    place = int(np.argmax(excess))
    if excess[place] <= 1:
        return None
    return place, difference(*rows[place][:2]), rows[place][2]


def _excess(output, expected, limit) -> float:
    return difference(output, expected) / max(limit, TINY)


def _message(model, worst, where, layer=None):
    place, found, limit = worst
    name = output_names(model)[place]
    culprit = f" Layer '{layer}' differs most when it alone is rewritten." if layer else ""
    return (
        f"Output '{name}' of {where} differs from the Keras model '{model.name}' by "
        f"{found:.3g}, and {limit:.3g} is allowed.{culprit} No file was written. Real "
        "samples in `check` show better than random ones what a rounding costs; "
        "`activations='float32'` rounds no activations."
    )


def _rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64))))) if values.size else 0.0
