"""Runs an exported file under both resolvers and compares it with the Keras model.

The limit for the largest difference of an output is
- `FLOAT_TOLERANCE` times the output's root mean square, by the narrowest dtype that the model
  computes in;
- plus, where a form rounds the numbers of a codebook or a hashed layer to int8, the change that
  this makes in the float32 file;
- plus, where a form rounds activations to int8, `NOISE_MARGIN` times the largest change that
  uniform noise of one int8 step on the same activations makes in the float32 file
  (`tflite.runner.Probe`).
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.export.exported import Exported
from tfcompress.export.kernels.rewrite import apply_forms, with_rounded_kernels
from tfcompress.graph.private_keras import layers_in
from tfcompress.tflite.reader import read
from tfcompress.tflite.runner import Probe, Runner, difference, with_inner_noise
from tfcompress.utils.errors import ExportError
from tfcompress.utils.types import Path

FLOAT_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
NOISE_MARGIN = 4.0
LOOP_DRAWS = 4  # of noise inside loops
SMALLEST_LIMIT = 1e-30  # an output of zeros alone has the limit 0, by which nothing divides


@dataclass(frozen=True)
class Case:
    """Inputs, the Keras model's outputs for them, and the largest difference allowed of each."""

    inputs: list
    expected: list
    limits: list


def make_cases(
    model: Exported, plain: Path, batches: list, rounded: Any, sites: list
) -> list[Case]:
    """Computes the model's outputs for each batch, and how much those of a file may differ.

    Args:
        plain: the path of the float32 file.
        rounded: the tensors of the float32 file that the file to verify rounds to int8.
        sites: the operators that are rewritten.

    Raises:
        ExportError: the float32 file itself differs from the model.
    """
    names = [entry.name.decode() for entry in read(plain).signatureDefs[0].outputs]
    probe = Probe(plain, rounded)
    noisy = _noisy_loops(plain, sites)
    rounds = any(site.rounds for site in sites)
    coarse = Runner(with_rounded_kernels(plain, sites)) if rounds else None
    # The policy of the coarsest layer: what it rounds, no file can get back.
    share = max(FLOAT_TOLERANCE.get(layer.compute_dtype, 1e-4) for layer in layers_in(model.model))
    cases = []
    for inputs in batches:
        expected = [keras.ops.convert_to_numpy(y) for y in model.outputs(inputs)]
        limits = [share * _rms(y) for y in expected]
        worst = _worst_output(probe.run(inputs)[0], Case(inputs, expected, limits))
        if worst:
            raise ExportError(_message(names, worst, "the stock converter's own file"))
        exact = probe.run(inputs)[0]
        rounding = _rounding(probe, noisy, inputs, exact)
        limits = [a + NOISE_MARGIN * b for a, b in zip(limits, rounding, strict=True)]
        if coarse is not None:
            changes = map(difference, coarse(inputs), exact)
            limits = [a + b for a, b in zip(limits, changes, strict=True)]
        cases.append(Case(inputs, expected, limits))
    return cases


def _noisy_loops(plain, sites) -> list[Runner]:
    """The float32 file with several draws of noise where forms in loops round activations."""
    tensors = {}
    for site in sites:
        if site.graph and site.inexact:
            tensors.setdefault(site.graph, set()).update(site.inexact)
    draws = range(LOOP_DRAWS) if tensors else ()
    return [Runner(with_inner_noise(plain, tensors, seed)) for seed in draws]


def _rounding(probe, noisy, inputs, exact) -> list[float]:
    """The largest change of each output by noise in the main graph, and by that in loops."""
    outer = probe.deviations(inputs) if probe.tensors else [0.0] * len(exact)
    inner = [0.0] * len(exact)
    for runner in noisy:
        inner = list(map(max, inner, map(difference, runner(inputs), exact)))
    return [a + b for a, b in zip(outer, inner, strict=True)]


def verify(blob: bytes, cases: list[Case], sites: list, plain: Path) -> None:
    """Runs a file on all cases with the default delegates, and on the first one without delegates.

    Raises:
        ExportError: an output differs by more than its limit. The message gives both numbers and
            names the layer.
    """
    # Without delegates all operators run in the builtin kernels, as where XNNPACK is missing.
    for case, delegates in [*((case, True) for case in cases), (cases[0], False)]:
        worst = _worst_output(Runner(blob, delegates)(case.inputs), case)
        if worst:
            layer = _worst_layer(plain, sites, case, delegates)
            where = "the default resolver" if delegates else "the resolver without delegates"
            names = [entry.name.decode() for entry in read(blob).signatureDefs[0].outputs]
            raise ExportError(_message(names, worst, f"the file under {where}", layer))


def _worst_layer(plain, sites, case, delegates) -> str | None:
    """The layer whose kernel makes the largest difference when it alone is rewritten."""

    def excess(site):
        outputs = Runner(apply_forms(plain, [site]), delegates)(case.inputs)
        return max(map(_excess, outputs, case.expected, case.limits))

    return max(sites, key=excess).kernel.layer if sites else None


def _worst_output(outputs, case):
    """`(output, difference, limit)` of the output that is furthest above its limit, or None."""
    rows = list(zip(outputs, case.expected, case.limits, strict=True))
    excess = [_excess(*row) for row in rows]
    place = int(np.argmax(excess))
    if excess[place] <= 1:
        return None
    return place, difference(*rows[place][:2]), rows[place][2]


def _excess(output, expected, limit) -> float:
    return difference(output, expected) / max(limit, SMALLEST_LIMIT)


def _message(names, worst, where, layer=None):
    place, found, limit = worst
    advice_on_layer = f" Layer '{layer}' differs most when it alone is rewritten." if layer else ""
    return (
        f"Output {names[place]!r} of {where} differs from the Keras model by "
        f"{found:.3g}, and {limit:.3g} is allowed.{advice_on_layer} No file was written. Real "
        "samples in `check` show better than random ones what rounding costs; "
        "`activations='float32'` rounds no activations."
    )


def _rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64))))) if values.size else 0.0
