"""Causes beside the kernel: numbers that are not finite, statistics, biases, activations, ranges.

Each function takes a `Case` and returns a `Cause`, or None where its rule does not hold.
"""

import keras
import numpy as np

from tfcompress.diagnosis.case import Case, Cause
from tfcompress.diagnosis.cures import ActivationRange, Recalibration, SwapRule
from tfcompress.layers.discrete.fake_quant import FakeQuant
from tfcompress.rewriting.pairs import own_weights
from tfcompress.utils.arrays import to_numpy

HALF = 0.5
SHIFT = 0.25  # standard deviations by which means are off, the root mean square over the channels
STRETCH = 0.5  # of the logarithms of variances
OUTSIDE = 0.001  # share of the inputs that a range clips
UNLIKE = 0.5  # correlation below which two kernels have nothing to do with each other


def not_finite(case: Case) -> Cause | None:
    """A weight is NaN or infinite, or finite inputs give outputs that are not."""
    for layer in case.pair.now:
        for variable in layer.weights:
            values = to_numpy(variable)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                count = int((~np.isfinite(values)).sum())
                evidence = f"{count} numbers of {variable.name!r} are NaN or infinite"
                return Cause("not finite", evidence, 1.0, _as_it_was(case))
    if not case.observation.lost:
        return None
    evidence = "outputs are NaN or infinite where those of the float layer are not"
    return Cause("not finite", evidence, 1.0, _as_it_was(case))


def _as_it_was(case) -> SwapRule | None:
    """The float layer in the place; None where nothing stood, which no rule of `swap` makes."""
    return SwapRule(case.path) if case.pair.before else None


def batch_norm_statistics(case: Case) -> Cause | None:
    """Means are off by a quarter of a standard deviation, or variances by a factor of e^(1/2).

    The moving statistics are compared with those of the inputs that arrive; and they are off only
    if they are not the float layer's, or if they fit worse than twice as well.
    """
    sums = case.observation.statistics
    if sums is None:
        return None
    count, total, squares = np.maximum(sums[0], 1), sums[1], sums[2]
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0) + case.now.epsilon
    own = to_numpy(case.now.moving_mean), to_numpy(case.now.moving_variance) + case.now.epsilon
    shift = float(np.sqrt(np.mean(np.square(own[0] - mean) / variance)))
    stretch = float(np.sqrt(np.mean(np.square(np.log(np.maximum(own[1], 1e-30) / variance)))))
    if shift < SHIFT and stretch < STRETCH:
        return None
    evidence = (
        f"means are off by {shift:.2g} standard deviations, variances by a factor of "
        f"{np.exp(stretch):.2g}"
    )
    return Cause("batch norm statistics off", evidence, 1.0, Recalibration())


def wrong_bias(case: Case) -> Cause | None:
    """The change of the bias makes half of the squared error that kernel and bias make."""
    p = case.product
    biases = [getattr(layers[-1], "bias", None) for layers in (case.pair.before, case.pair.now)]
    if p is None or p.x is None or biases[0] is None:
        return None
    before = to_numpy(biases[0]).astype("float64").reshape(-1)
    now = np.zeros_like(before) if biases[1] is None else to_numpy(biases[1]).reshape(-1)
    if now.shape != before.shape or not np.isfinite(now).all():
        return None
    error = p.x.shape[1] * np.square(now - before).sum()
    if error == 0 or error < p.error.sum():
        return None
    explained = float(error / (error + p.error.sum()))
    evidence = f"it is off by {np.abs(now - before).max():.3g} at most" if now.any() else "it is 0"
    return Cause("bias off", evidence, explained, case.again)


def other_activation(case: Case) -> Cause | None:
    """The layer has another activation function than the float one."""
    if not case.pair.before:
        return None
    names = [
        keras.activations.serialize(layers[-1].activation)
        for layers in (case.pair.before, case.pair.now)
        if callable(getattr(layers[-1], "activation", None))
    ]
    if len(names) < 2 or names[0] == names[1]:
        return None
    evidence = f"{names[1]} in place of {names[0]}"
    return Cause("another activation", evidence, 1.0, SwapRule(case.path))


def clipped_activations(case: Case) -> Cause | None:
    """A `FakeQuant` clips at least one in a thousand of its inputs."""
    if not isinstance(case.now, FakeQuant):
        return None
    values = np.concatenate([np.ravel(x) for x in case.observation.inputs] or [np.zeros(1)])
    values = values[np.isfinite(values)]
    outside = float(np.mean((values < case.now.low) | (values > case.now.high)))
    low, high = min(float(values.min(initial=0)), 0.0), max(float(values.max(initial=0)), 1e-6)
    if outside < OUTSIDE:
        return None
    evidence = (
        f"{outside:.1%} of the activations are outside of {case.now.low:.3g} to "
        f"{case.now.high:.3g}; they reach from {low:.3g} to {high:.3g}"
    )
    return Cause("activation range clipped", evidence, 1.0, ActivationRange(case.path, low, high))


def changed_kernel(case: Case) -> Cause | None:
    """The kernel differs in a way that no other rule knows."""
    p = case.product
    if p is None or not p.error.any():
        return None
    now, before = p.products(p.now), p.products(p.before)
    sizes = np.linalg.norm(now) * np.linalg.norm(before)
    like = float((now * before).sum() / max(sizes, 1e-300))
    what = "has nothing to do with" if abs(like) < UNLIKE else "is not"
    evidence = f"the kernel {what} that of the float layer: their products correlate by {like:.2f}"
    return Cause("kernel changed", evidence, 0.0, case.again)


def changed_weights(case: Case) -> Cause | None:
    """Weights that are no kernel differ; the furthest one is named."""
    if len(case.pair.before) != 1 or len(case.pair.now) != 1:
        return None
    pairs = zip(own_weights(case.pair.before[0]), own_weights(case.now), strict=False)
    found = []
    for before, now in pairs:
        a, b = to_numpy(before), to_numpy(now)
        if a.shape == b.shape and a.dtype.kind == "f" and not np.array_equal(a, b):
            change = np.linalg.norm(b - a) / max(np.linalg.norm(a), 1e-30)
            found.append((float(change), now.name))
    if not found:
        return None
    change, name = max(found)
    return Cause("weights changed", f"{name!r} changed by {change:.0%}", 0.0, SwapRule(case.path))


def extra_layer(case: Case) -> Cause | None:
    """The float model has no such layer, or layers of another class."""
    kind = case.pair.method
    if not case.pair.before:
        return Cause("extra layer", f"{kind} stands where `model` has nothing", 0.0, None)
    other = type(case.pair.before[0]).__name__
    if kind == other:
        return None
    return Cause("another layer", f"{kind} in place of {other}", 0.0, SwapRule(case.path))
