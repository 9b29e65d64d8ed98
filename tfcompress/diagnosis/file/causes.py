"""Why a file computes something else than its model at one place.

Each rule takes a `FileCase` and returns a `Cause`, or None where it does not hold. `expected` is
what the model makes of the file's own numbers there, `actual` what the file does.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.diagnosis.case import Case, Cause
from tfcompress.diagnosis.causes import cause_of
from tfcompress.diagnosis.cures import Export
from tfcompress.diagnosis.file.kernels import FileKernel
from tfcompress.diagnosis.file.walk import Place
from tfcompress.diagnosis.observations import Observation
from tfcompress.graph.copy import copied
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.rewriting.pairs import Pair
from tfcompress.tflite.taps import Taps
from tfcompress.utils.arrays import to_numpy

HALF = 0.5
OUTSIDE = 0.001  # share of the numbers that a range clips
CHANGED = 0.02  # of a kernel's norm, more than 8 bits change
AGAIN = Export({})
MEASURED = Export({"activations": "static_int8"})
FLOAT = Export({"activations": "float32"})


@dataclass(frozen=True, eq=False)
class FileCase:
    """A place, and what is known of it.

    Attributes:
        path: of the layer.
        taps: of the file.
        place: the numbers; None where only the kernel is known.
        kernel: of the layer as the file holds it, or None.
        factors: like the kernel, by which batch normalizations around it may have multiplied it.
        inputs: what the layer gets, or None.
    """

    path: str
    taps: Taps
    place: Place | None
    kernel: FileKernel | None
    factors: Sequence[Any] = (1.0,)
    inputs: np.ndarray | None = None

    @property
    def differences(self) -> tuple[np.ndarray, np.ndarray]:
        """`expected`, and `actual - expected`, as rows with a column for each channel."""
        expected, actual = (
            z.reshape(-1, self.place.expected.shape[-1]).astype("float64")
            for z in (self.place.expected, self.place.actual)
        )
        return expected, actual - expected


def file_cause(case: FileCase) -> Cause | None:
    """The first rule that holds."""
    return next((cause for rule in RULES if (cause := rule(case))), None)


def other_kernel(case: FileCase) -> Cause | None:
    """The file's kernel is not the layer's, by 2% of its norm or by NaN, or it has another bias.

    What happened to it is found by the rules for kernels, in which the file's is the new one.
    """
    if case.kernel is None:
        return None
    chain = case.kernel.layer
    chain = chain.to_ordinary() if isinstance(chain, CompressedLayer) else [chain]
    changes = [case.kernel.change(factor) for factor in case.factors]
    factors = case.factors if min(changes) > CHANGED else [case.factors[int(np.argmin(changes))]]
    # Integers may be in other places than their scales are for.
    units = (1.0, case.kernel.scales) if np.ndim(case.kernel.scales) else (1.0,)
    pairs = itertools.product(factors, units) if len(chain) == 1 else ()
    found = [cause for pair in pairs if (cause := _of_kernel(case, chain[0], *pair))]
    best = max(found, key=lambda cause: cause.explained, default=None)
    if best is None or (min(changes) < CHANGED and best.name not in ("bias off", "not finite")):
        return None
    if best.name == "bias off" and case.place is not None and not _is_of_bias(case):
        return None
    return dataclasses.replace(best, evidence=f"in the file, {best.evidence}", cure=AGAIN)


def _of_kernel(case, layer, factor, unit) -> Cause | None:
    """The cause by the rules for kernels, both in some units, if the file's has a factor."""
    before, now = copied(layer), copied(layer)
    kernel_of(before).assign(to_numpy(kernel_of(layer)) * factor / unit)
    kernel_of(now).assign(case.kernel.values / unit)
    bias, own = case.kernel.bias, getattr(now, "bias", None)
    fits = bias is not None and own is not None and bias.size == np.prod(own.shape)
    if fits and np.isscalar(factor):
        own.assign(bias.reshape(own.shape))
    observation = Observation(Pair(case.path, [before], [now]))
    if case.inputs is not None:
        observation.add_float(case.inputs)
    return cause_of(Case(observation.pair, observation))


def _is_of_bias(case) -> bool:
    """Whether the error is nearly the same in all rows of a column, as that of a bias."""
    _, change = case.differences
    return np.square(change.mean(0)).sum() > HALF * np.square(change).mean(0).sum()


def not_finite(case: FileCase) -> Cause | None:
    """The file gives NaN or infinite numbers where the model gives none."""
    if case.place is None or np.isfinite(case.place.actual).all():
        return None
    count = int((~np.isfinite(case.place.actual)).sum())
    return Cause("not finite", f"in the file, {count} outputs are NaN or infinite", 1.0, AGAIN)


def saturated(case: FileCase) -> Cause | None:
    """Integers cannot hold one in a thousand of the outputs, which make half of the error."""
    ends = None if case.place is None else case.taps.ends(case.place.tensor)
    if ends is None:
        return None
    expected, change = case.differences
    outside = (expected < ends[0]) | (expected > ends[1])
    explained = float(np.square(change[outside]).sum() / max(np.square(change).sum(), 1e-300))
    if outside.mean() < OUTSIDE or explained < HALF:
        return None
    evidence = (
        f"in the file, {outside.mean():.1%} of the outputs are outside of {ends[0]:.3g} to "
        f"{ends[1]:.3g}; they reach from {expected.min():.3g} to {expected.max():.3g}"
    )
    return Cause("activation range clipped", evidence, explained, MEASURED)


def unlike_columns(case: FileCase) -> Cause | None:
    """One integer scale for channels of which half are smaller than 8 of its steps.

    The outputs' root mean square is at least 4 times that of the median channel.
    """
    ends = None if case.place is None else case.taps.ends(case.place.tensor)
    if ends is None or case.place.error < CHANGED:
        return None
    expected, _ = case.differences
    sizes, step = np.sqrt(np.square(expected).mean(0)), (ends[1] - ends[0]) / 255
    middle = np.median(sizes)
    if middle > 8 * step or np.sqrt(np.square(sizes).mean()) < 4 * middle:
        return None
    ends = f"{sizes.min():.2g} to {sizes.max():.2g}"
    evidence = f"in the file, one step of {step:.2g} for channels of sizes from {ends}"
    return Cause("channels of different size", evidence, 1.0, FLOAT)


def wide_range(case: FileCase) -> Cause | None:
    """The outputs take up less than a quarter of the range of their integers."""
    ends = None if case.place is None else case.taps.ends(case.place.tensor)
    if ends is None:
        return None
    expected, _ = case.differences
    used = (max(expected.max(), 0) - min(expected.min(), 0)) / (ends[1] - ends[0])
    if used > 0.25:
        return None
    evidence = f"in the file, the outputs take up {used:.1%} of the range of their integers"
    return Cause("activation range too wide", evidence, 1.0, MEASURED)


def dead_outputs(case: FileCase) -> Cause | None:
    """Channels that are constant in the file and not in the model make half of the error."""
    if case.place is None:
        return None
    expected, change = case.differences
    actual = expected + change
    dead = (np.ptp(actual, 0) == 0) & (np.ptp(expected, 0) > 0)
    explained = float(np.square(change[:, dead]).sum() / max(np.square(change).sum(), 1e-300))
    if not dead.any() or explained < HALF:
        return None
    evidence = f"in the file, {dead.sum()} of {dead.size} channels are constant"
    return Cause("dead channels", evidence, explained, AGAIN)


def wrong_factor(case: FileCase) -> Cause | None:
    """One factor between the outputs explains 60% of the error."""
    if case.place is None:
        return None
    expected, change = case.differences
    actual = expected + change
    factor = float((actual * expected).sum() / max(np.square(actual).sum(), 1e-300))
    left = np.square(factor * actual - expected).sum() / max(np.square(change).sum(), 1e-300)
    if left > 0.4 or 1 / 1.05 < factor < 1.05 or not factor:
        return None
    evidence = f"in the file, outputs are {1 / factor:.3g} times those of the model"
    return Cause("scale off", evidence, float(1 - left), AGAIN)


def rounded_activations(case: FileCase) -> Cause | None:
    """The error is up to a tenth, and inputs or outputs are integers, in the file or as it runs."""
    if case.place is None or case.place.error > 0.1:
        return None
    graph, operator = case.taps.graph, case.taps.makers[case.place.tensor]
    kinds = {graph.type(int(i)) for i in (*operator.inputs, case.place.tensor) if i >= 0}
    if not kinds & {"INT8", "INT4", "INT2", "INT16"}:
        return None
    evidence = "in the file, activations are rounded to integers"
    return Cause("activations in few bits", evidence, 1.0, FLOAT)


def other_operator(case: FileCase) -> Cause | None:
    """The file computes something else, by no rule above."""
    if case.place is None or case.place.error < 0.1:
        return None
    evidence = f"in the file, outputs differ by {case.place.error:.0%} of their size"
    return Cause("computed otherwise", evidence, 0.0, AGAIN)


RULES = (
    other_kernel,
    not_finite,
    saturated,
    dead_outputs,
    wide_range,
    unlike_columns,
    wrong_factor,
    rounded_activations,
    other_operator,
)
