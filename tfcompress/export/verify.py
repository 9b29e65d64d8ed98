"""Runs an exported file under both resolvers and compares it with the Keras model.

The limit for the largest difference of an output is
- `FLOAT_TOLERANCE` times the output's root mean square, by the narrowest dtype that the model
  computes in;
- or, where a model itself changes more by changes of its inputs in the last bits, `NOISE_MARGIN`
  times that;
- plus, where a form rounds the numbers of a codebook or a hashed layer to int8, the change that
  this makes in the float32 file;
- plus, where a form rounds activations to int8, `NOISE_MARGIN` times the largest change that
  uniform noise of one int8 step on the same activations makes in the float32 file
  (`tflite.runner.Probe`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np

from tfcompress.export.draft import Draft
from tfcompress.export.kernels.encode import with_forms, with_rounded_kernels
from tfcompress.graph.private_keras import layers_in
from tfcompress.tflite.runner import Probe, Runner, difference, with_inner_noise
from tfcompress.utils.errors import ExportError

FLOAT_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
NOISE_MARGIN = 4.0
INPUT_NOISE = 2.0**-20  # of 8 units in the last place of float32, for tens of layers that round
LOOP_DRAWS = 4  # of noise inside loops
SMALLEST_LIMIT = 1e-30  # an output of zeros alone has the limit 0, by which nothing divides


@dataclass(frozen=True)
class Case:
    """Inputs, the Keras model's outputs for them, and the largest difference allowed of each."""

    inputs: list
    expected: list
    limits: list


class TFLiteFile(bytes):
    """The bytes of a file, and how it was verified.

    Attributes:
        samples: the number of samples on which it was compared with the model.
        differences: the largest difference of each output by its name, in units of the root mean
            square of the model's output.
    """

    samples: int
    differences: dict[str, float]

    def __repr__(self):
        return f"<TFLiteFile of {len(self):,} bytes>"


class Limits:
    """How much the outputs of a file may differ from those of the model.

    Args:
        draft: the file after all passes.
    """

    def __init__(self, draft: Draft) -> None:
        self.model, self.float32, self.sites = draft.model, draft.float32, draft.sites
        self.names = [e.name.decode() for e in self.float32.signatureDefs[0].outputs]
        # The file on disk is the float32 one, to which nothing has to be added here.
        self.probe = Probe(self.float32 if draft.rounded else draft.path, draft.rounded)
        self.noisy = _noisy_loops(self.float32, self.sites)
        rounds = any(site.rounds for site in self.sites)
        self.coarse = Runner(with_rounded_kernels(self.float32, self.sites)) if rounds else None
        # The policy of the coarsest layer: what it rounds, no file can get back.
        layers = layers_in(self.model.model)
        self.share = max(FLOAT_TOLERANCE.get(layer.compute_dtype, 1e-4) for layer in layers)

    def case(self, inputs: list) -> Case:
        """The limits for one batch.

        Raises:
            ExportError: the float32 file itself differs from the model.
        """
        case = self.exact_case(inputs)
        exact = self.probe.run(inputs)[0]
        worst = _worst_output(exact, case)
        if worst:
            case = self._with_own_rounding(case)
            worst = _worst_output(exact, case)
        if worst:
            raise ExportError(_message(self.names, worst, "the stock converter's own file"))
        rounding = _rounding(self.probe, self.noisy, inputs, exact)
        limits = [a + NOISE_MARGIN * b for a, b in zip(case.limits, rounding, strict=True)]
        if self.coarse is not None:
            changes = map(difference, self.coarse(inputs), exact)
            limits = [a + b for a, b in zip(limits, changes, strict=True)]
        return Case(inputs, case.expected, limits)

    def _with_own_rounding(self, case: Case) -> Case:
        """The limits of a model that makes much of what float32 rounds away.

        Such as one whose normalization divides by variances near zero: they are `NOISE_MARGIN`
        times what changes of the inputs in the last bits do to its outputs.
        """
        random = np.random.default_rng(0)
        moved = [
            x * (1 + INPUT_NOISE * random.uniform(-1, 1, x.shape).astype(x.dtype))
            if x.dtype.kind == "f"
            else x
            for x in case.inputs
        ]
        outputs = [keras.ops.convert_to_numpy(y) for y in self.model.outputs(moved)]
        changes = map(difference, outputs, case.expected)
        limits = [max(a, NOISE_MARGIN * b) for a, b in zip(case.limits, changes, strict=True)]
        return Case(case.inputs, case.expected, limits)

    def of_rounding(self, case: Case) -> list[float]:
        """The part of a case's limits that rounding has."""
        pairs = zip(case.limits, case.expected, strict=True)
        return [limit - self.share * _rms(y) for limit, y in pairs]

    def exact_case(self, inputs: list) -> Case:
        """The limits of a file that rounds nothing, for one batch."""
        expected = [keras.ops.convert_to_numpy(y) for y in self.model.outputs(inputs)]
        return Case(inputs, expected, [self.share * _rms(y) for y in expected])


def _noisy_loops(file, sites) -> list[Runner]:
    """The float32 file with several draws of noise where forms in loops round activations."""
    tensors = {}
    for site in sites:
        if site.graph and site.inexact:
            tensors.setdefault(site.graph, set()).update(site.inexact)
    draws = range(LOOP_DRAWS) if tensors else ()
    return [Runner(with_inner_noise(file, tensors, seed)) for seed in draws]


def _rounding(probe, noisy, inputs, exact) -> list[float]:
    """The largest change of each output by noise in the main graph, and by that in loops."""
    outer = probe.deviations(inputs) if probe.tensors else [0.0] * len(exact)
    inner = [0.0] * len(exact)
    for runner in noisy:
        inner = list(map(max, inner, map(difference, runner(inputs), exact)))
    return [a + b for a, b in zip(outer, inner, strict=True)]


def verify(
    blob: bytes, limits: Limits, first: list, others: Iterable, most: float | None = None
) -> dict[str, float]:
    """Runs a file on batches with the default delegates, and on the first one without delegates.

    What rounding costs is measured on the first batches, and on others only where the file differs
    by more than it did there.

    Args:
        blob: the file.
        limits: how much it may differ.
        first: batches of one sample and of a few.
        others: batches of the other samples.
        most: a limit for the root mean square of all differences of an output, as a share of the
            output's; None for none.

    Returns:
        The largest difference of each output, in units of the root mean square of the model's.

    Raises:
        ExportError: an output differs by more than its limit. The message gives both numbers and
            names the layer.
    """
    runner, cases = Runner(blob), [limits.case(inputs) for inputs in first]
    # Without delegates all operators run in the builtin kernels, as where XNNPACK is missing.
    _compare(blob, limits, cases[0], Runner(blob, delegates=False), delegates=False)
    checked = [(_compare(blob, limits, case, runner), case.expected) for case in cases]
    _compare(blob, limits, cases[-1], runner)  # once more: a call must leave nothing behind
    known = list(map(max, zip(*map(limits.of_rounding, cases), strict=True)))
    for inputs in others:
        case = limits.exact_case(inputs)
        outputs = runner(inputs)
        within = [a + b for a, b in zip(case.limits, known, strict=True)]
        if _worst_output(outputs, Case(inputs, case.expected, within)):
            _compare(blob, limits, limits.case(inputs), runner)
        checked.append((outputs, case.expected))
    _refuse_unlike(limits.names, checked, most)
    return _differences(limits.names, checked)


def _compare(blob, limits, case, runner, delegates=True) -> list:
    """The outputs of a file for a case, within its limits."""
    outputs = runner(case.inputs)
    worst = _worst_output(outputs, case)
    if worst:
        layer = _worst_layer(limits, case, delegates)
        where = "the default resolver" if delegates else "the resolver without delegates"
        raise ExportError(_message(limits.names, worst, f"the file under {where}", layer))
    return outputs


def _differences(names, checked) -> dict[str, float]:
    found = {}
    for place, name in enumerate(names):
        largest = max(difference(y[place], e[place]) for y, e in checked)
        size = _rms(np.concatenate([np.ravel(e[place]) for _, e in checked]))
        found[name] = largest / max(size, SMALLEST_LIMIT)
    return found


def _refuse_unlike(names, checked, most) -> None:
    for place, name in enumerate(names if most else ()):
        expected = np.concatenate([np.ravel(e[place]) for _, e in checked]).astype(np.float64)
        off = np.concatenate([np.ravel(y[place]) for y, _ in checked]) - expected
        if _rms(off) > most * _rms(expected):
            share = _rms(off) / max(_rms(expected), SMALLEST_LIMIT)
            raise ExportError(
                f"Output {name!r} of the file is off by {share:.0%} of its root mean square: int8 "
                "numbers with one scale do not hold the activations. No file was written. Bring "
                "inputs and layers to one size (a normalization), or use `activations='int8'`."
            )


def _worst_layer(limits, case, delegates) -> str | None:
    """The layer whose kernel makes the largest difference when it alone is rewritten."""

    def excess(site):
        outputs = Runner(with_forms(limits.float32, [site]), delegates)(case.inputs)
        return max(map(_excess, outputs, case.expected, case.limits))

    sites = limits.sites
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
    if not np.isfinite(limit):
        return (
            f"Output {names[place]!r} of the Keras model itself is not finite on these samples, so "
            f"that {where} cannot be compared with it. No file was written. Give others as `check`."
        )
    advice_on_layer = f" Layer '{layer}' differs most when it alone is rewritten." if layer else ""
    return (
        f"Output {names[place]!r} of {where} differs from the Keras model by "
        f"{found:.3g}, and {limit:.3g} is allowed.{advice_on_layer} No file was written. Real "
        "samples in `check` show better than random ones what rounding costs; "
        "`activations='float32'` rounds no activations."
    )


def _rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64))))) if values.size else 0.0
