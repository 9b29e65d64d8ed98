"""Causes in a kernel that was damaged: each is undone, and what that takes off the error counts.

Each function takes a `Case` that has a `product` and returns a `Cause`, or None where its rule does
not hold. In the rules, "explains" is the share of the squared error of the layer's products, on the
inputs that it gets, that is gone when the repair of the rule is made.
"""

import itertools

import numpy as np

from tfcompress.diagnosis.case import Case, Cause

HALF = 0.5
SCALED = 0.6  # above the half that is gone when an unrelated kernel is set to zero
LEAST_SCALE = 1.05  # factor by which a kernel is off
LEAST_CHANNEL_SCALE = 1.2
OF_THE_FORM = 0.9  # share of the error that an undamaged kernel of the form makes too
CLIPPED = 0.8
NEAR = 0.05  # of a bound
MOVED = 0.8
MOST_MATCHED = 2048  # columns that are matched with each other


def dead_channels(case: Case) -> Cause | None:
    """Outputs whose weights are all zero, and were not: putting them back explains half."""
    p = case.product
    dead = ~p.now.any(0) & p.before.any(0)
    explained = p.explained(np.where(dead, p.before, p.now))
    if not dead.any() or explained < HALF:
        return None
    listed = ", ".join(map(str, np.flatnonzero(dead)[:8]))
    return Cause(
        "dead channels",
        f"{dead.sum()} of {dead.size} outputs have no weights left ({listed})",
        explained,
        case.again,
    )


def wrong_scale(case: Case) -> Cause | None:
    """One factor for the whole kernel, of at least 1.05 either way, explains 60% of the error.

    It is the factor of least squares from the products as they are to those of the float layer,
    which is near 1 for any form that was fitted to inputs; one that was not is no worse than its
    form.
    """
    p = case.product
    if case.form_share > OF_THE_FORM:
        return None
    now, before = p.products(p.now), p.products(p.before)
    factor = float((now * before).sum() / max(np.square(now).sum(), 1e-300))
    explained = p.explained(factor * p.now)
    if explained < SCALED or 1 / LEAST_SCALE < factor < LEAST_SCALE or not factor:
        return None
    evidence = f"the kernel is {1 / factor:.3g} times that of the float layer"
    return Cause("scale off", evidence, explained, case.again)


def wrong_channel_scales(case: Case) -> Cause | None:
    """A factor for single outputs, of at least 1.2 either way, explains 60% of the error.

    Only outputs count whose own error falls by as much, and not what the form itself makes.
    """
    p = case.product
    if case.form_share > OF_THE_FORM:
        return None
    now, before = p.products(p.now), p.products(p.before)
    factors = (now * before).sum(0) / np.maximum(np.square(now).sum(0), 1e-300)
    left = p.squares(factors * p.now - p.before)
    with np.errstate(divide="ignore"):
        far = np.abs(np.log(np.abs(factors))) > np.log(LEAST_CHANNEL_SCALE)
    off = (far | (factors < 0)) & (left < (1 - SCALED) * p.error) & p.now.any(0)
    explained = p.explained(np.where(off, factors * p.now, p.now))
    if not off.any() or explained < SCALED:
        return None
    worst = int(np.argmax(np.where(off, p.error, -1)))
    evidence = (
        f"the weights of {off.sum()} of {off.size} outputs are off by a factor, those of output "
        f"{worst} by {1 / factors[worst]:.3g}"
    )
    return Cause("scale off", evidence, explained, case.again)


def moved_weights(case: Case) -> Cause | None:
    """The same weights in other places explain 80%: axes exchanged or reversed, channels mixed."""
    p, best = case.product, (0.0, "")
    for repaired, what in _rearranged(p):
        best = max(best, (p.explained(repaired), what))
    if best[0] < MOVED:
        return None
    return Cause("weights moved", best[1], best[0], case.again)


def _rearranged(p):
    """Kernels with the weights of `p.now` in other places, and how they lie in it."""
    n, m = p.now.shape
    whole = p.in_shape(p.now)
    yield p.now.reshape(m, n).T, "the kernel is transposed"
    yield p.now.T.reshape(n, m), "the kernel is transposed"
    for order in itertools.permutations(range(whole.ndim)):
        shape = [whole.shape[axis] for axis in order]
        if order == tuple(range(whole.ndim)):
            continue
        if tuple(shape) == whole.shape:
            turned = np.ascontiguousarray(whole.transpose(order))
            yield p.as_matrix(turned), f"axes of the kernel are exchanged, to {order}"
        elif whole.ndim > 2:
            written = whole.reshape(shape).transpose(np.argsort(order))
            yield p.as_matrix(np.ascontiguousarray(written)), f"the kernel lies in order {order}"
    for axis in range(whole.ndim):
        yield p.as_matrix(np.flip(whole, axis)), f"axis {axis} of the kernel is reversed"
    if max(n, m) <= MOST_MATCHED:
        yield p.now[:, _matching(p.before, p.now)], "outputs are in another order"
        yield p.now[_matching(p.before.T, p.now.T)], "inputs are in another order"


def _matching(before, now) -> np.ndarray:
    """For each column of one matrix the column of the other, each once, that is most like it."""
    from scipy.optimize import linear_sum_assignment

    sides = [w / np.maximum(np.linalg.norm(w, axis=0), 1e-300) for w in (before, now)]
    return linear_sum_assignment(-(sides[0].T @ sides[1]))[1]


def clipped_weights(case: Case) -> Cause | None:
    """Weights beyond a bound were set to it, and that explains 80%: of the kernel or of outputs.

    Four of five of those beyond are within a twentieth of it, and one in twenty of all weights is
    neither there nor zero, as it would be in a kernel of two or three values.
    """
    p, best = case.product, (0.0, 0.0)
    for high, low in ((p.now.max(), p.now.min()), (p.now.max(0), p.now.min(0))):
        beyond = (p.before > high + NEAR * np.abs(high)) | (p.before < low - NEAR * np.abs(low))
        bound = np.where(p.before > 0, high, low)
        at_bound = np.abs(p.now - bound) <= NEAR * np.abs(bound)
        inner = (~at_bound & (p.now != 0)).mean()
        if beyond.any() and at_bound[beyond].mean() >= CLIPPED and inner >= NEAR:
            repaired = np.where(at_bound & (p.before * p.now > 0), p.before, p.now)
            best = max(best, (p.explained(repaired), float(beyond.mean())))
    if best[0] < CLIPPED:
        return None
    evidence = f"{best[1]:.2%} of the weights are clipped, to at most {np.abs(p.now).max():.3g}"
    return Cause("weights clipped", evidence, best[0], case.again)
