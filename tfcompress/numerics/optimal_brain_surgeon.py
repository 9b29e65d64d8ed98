"""The k-sparse kernel that hurts least when the remaining weights may move (Optimal Brain Surgeon).

Letters as in metric.py: i fan-in, o outputs, G groups of m outputs; n inputs of one block of `A`.
"""

from collections.abc import Sequence

import numpy as np

from tfcompress.numerics.metric import SINGLE_PRECISION_FROM, Kronecker, inverter
from tfcompress.numerics.selection import lowest
from tfcompress.numerics.what_a_kernel_is import is_pruned
from tfcompress.utils.arrays import transposed
from tfcompress.utils.checks import check_sparsity
from tfcompress.utils.progress import progress
from tfcompress.utils.types import SecondOrder

ALTERNATIONS = 60  # of the dense and the sparse copy; in the first half the sparsity rises
STEPS_WITH_ONE_PULL = 6  # which share a factorisation
PULL = (0.01, 3.0)  # between both copies, first and last, in units of the diagonal of `A`
LEAST_RESIDUAL = 1e-10  # of conjugate gradients, squared, as a share of the kernel's square
TINY = 1e-37  # in the place of a divisor of 0
REFIT_STEPS = 200  # of conjugate gradients, at most


def sparsify(w: np.ndarray, metric: SecondOrder, sparsity: float) -> np.ndarray:
    """Zeroes a share of a kernel and moves the other weights to make up for it.

    The problem is that of Optimal Brain Surgeon: minimise `1/2 sum_o (w - v)_o^T A (w - v)_o` over
    the kernels `v` with so many zeros. The paper removes one weight at a time, which takes an
    inverse matrix for each output. Here all weights go together (ADMM): a dense copy of the kernel
    minimises the form, a sparse copy has the zeros, and both are pulled towards each other ever
    harder while the share of zeros rises. That takes ten Cholesky factors for all outputs.
    Least squares then fit the weights that are left. The same least squares are also tried on the
    zeros that `diag(A) w^2` would choose, and the better result is taken, so that the form is never
    above that of zeroing these alone.

    Cost: `10 n^3 / 3 + 60 n^2 out` multiply-adds for each block of `n` inputs, and up to
    `400 n^2 out` for the least squares; double precision, single from 1024 inputs on.

    Args:
        w: kernel.
        metric: a `Kronecker`. Its output scales are not used: all outputs count the same.
        sparsity: the share of zeros in the whole kernel; at least one weight stays. Those of a
            kernel that was pruned before stay, and count.

    Returns:
        The sparse kernel, like `w`.

    Raises:
        ValueError: `sparsity` is not in [0, 1).

    >>> metric = Kronecker([[1.0, 0.9], [0.9, 1.0]])
    >>> sparsify(np.array([[1.0], [0.8]]), metric, 0.5).round(2).ravel().tolist()
    [1.71, 0.0]

    Reference: Hassibi, Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
    Surgeon", 1993; for the alternation Boža, "Fast and Effective Weight Update for Pruned Large
    Language Models", 2024, and Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot
    Pruning for Large Language Models", 2024.
    """
    check_sparsity(sparsity)
    w = np.asarray(w)
    blocks = _blocks(w, metric)
    size = sum(block.w.size for block in blocks)
    count = max(min(round(sparsity * size), size - 1), _pruned(blocks))
    plain = _lowest([block.importance() for block in blocks], count)
    found = [block.zeroed(gone) for block, gone in zip(blocks, plain, strict=True)]
    for zeros in (plain, _alternate(blocks, count)):
        refitted = [block.refit(gone) for block, gone in zip(blocks, zeros, strict=True)]
        found = min(found, refitted, key=lambda parts: _form(blocks, parts))
    out = np.empty((metric.groups, metric.fan_in, found[0].shape[2]))
    for block, part in zip(blocks, found, strict=True):
        out[:, block.rows] = part
    dtype = w.dtype if w.dtype.kind == "f" else "float64"
    return metric.join(out, w.shape).astype(dtype)


def shares(
    kernels: Sequence[np.ndarray], metrics: Sequence[SecondOrder], sparsity: float
) -> list[float]:
    """The share of zeros that each of several kernels should have to reach one share together.

    The alternation of `sparsify` over all kernels at once, with one ranking of their weights. Each
    kernel's form counts relative to that of the kernel itself, `e^T A e / w^T A w`, the share of
    its output that is lost. (Scales from the loss rank small changes of layers better, but at 90%
    zeros they empty the last layers: a form of second order underestimates large changes.)

    Cost and memory: those of `sparsify` without the least squares, all kernels at once.

    Args:
        kernels: list of kernels.
        metrics: a `Kronecker` for each.
        sparsity: share of zeros over all of them.

    Returns:
        A share for each kernel, of which one weight stays.
    """
    check_sparsity(sparsity)
    blocks = [_blocks(w, metric) for w, metric in zip(kernels, metrics, strict=True)]
    for own in blocks:
        whole = sum(block.form(0 * block.w) for block in own)
        weight = 1 / whole if whole > 0 else 0.0
        for block in own:
            block.weight = weight
    flat = [block for own in blocks for block in own]
    count = max(round(sparsity * sum(block.w.size for block in flat)), _pruned(flat))
    gone = iter(_alternate(flat, count))
    masks = [np.concatenate([next(gone).ravel() for _ in own]) for own in blocks]
    return [min(float(np.mean(mask)), 1 - 1 / mask.size) for mask in masks]


class _Block:
    """Some rows of a kernel `w (G, n, m)` with their `A` and damped `H (G, n, n)`."""

    def __init__(self, w, A, H, rows, pruned):
        self.w, self.rows, self.A, self.H = w, rows, A, H
        self.gone = (w == 0) & pruned  # and stays so
        self.weight = 1.0
        self.root = np.sqrt(np.diagonal(H, axis1=1, axis2=2))[:, :, None]  # (G, n, 1)

    def importance(self):
        return self.first(np.diagonal(self.A, axis1=1, axis2=2)[:, :, None] * np.square(self.w))

    def first(self, scores):
        """Weighted scores, of which those of weights that are gone already are the lowest."""
        return np.where(self.gone, -1.0, self.weight * scores)

    def start(self):
        """Sets both copies up, in coordinates in which `H` has a unit diagonal."""
        self.scaled = self.H / self.root / transposed(self.root)
        self.sparse = self.root * self.w
        self.pull = self.scaled @ self.sparse
        self.gap = np.zeros_like(self.sparse)

    def factorise(self, rho):
        """Makes ready for `solve`, for the steps in which the pull stays the same."""
        damped = self.scaled.copy()
        np.einsum("gii->gi", damped)[:] += rho
        self.rho, self.factor = rho, inverter(damped)

    def solve(self):
        """The dense copy, between the kernel as `H` sees it and the sparse copy."""
        self.gap += self.factor(self.pull + self.rho * (self.sparse - self.gap))

    def project(self, gone, growth):
        self.sparse = np.where(gone, 0, self.gap)
        self.gap = (self.gap - self.sparse) / growth

    def form(self, v):
        e = self.w - v
        return np.vdot(e, self.A @ e)

    def zeroed(self, gone):
        return np.where(gone, 0, self.w)

    def refit(self, gone):
        """Least squares on the weights that are left: conjugate gradients, output by output."""
        keep = ~gone
        v = self.zeroed(gone)
        rest = keep * (self.H @ (self.w - v))
        ready = rest / self.root**2
        way, power = ready, np.sum(rest * ready, 1, keepdims=True)
        enough = LEAST_RESIDUAL * np.sum(np.square(self.root * self.w), 1, keepdims=True)
        for _ in range(REFIT_STEPS):
            if (power <= enough).all():
                break
            bent = keep * (self.H @ way)
            step = power / np.maximum(np.sum(way * bent, 1, keepdims=True), TINY)
            v, rest = v + step * way, rest - step * bent
            ready = rest / self.root**2
            last, power = power, np.sum(rest * ready, 1, keepdims=True)
            way = ready + power / np.maximum(last, TINY) * way
        return np.where(gone, 0, v)


def _blocks(w, metric):
    if not isinstance(metric, Kronecker):
        raise ValueError(f"Expected a `Kronecker` metric. Received: {metric!r}")
    parts = metric.split(w)
    found, pruned = [], is_pruned(w)
    for rows, A, H in metric.parts():
        dtype = "float32" if len(A[0]) >= SINGLE_PRECISION_FROM else "float64"
        found.append(_Block(*(a.astype(dtype) for a in (parts[:, rows], A, H)), rows, pruned))
    return found


def _pruned(blocks):
    """How many weights are gone already."""
    return sum(int(block.gone.sum()) for block in blocks)


def _alternate(blocks, count):
    """Which weights go, `count` in all: a bool array for each block."""
    for block in blocks:
        block.start()
    stages = ALTERNATIONS // STEPS_WITH_ONE_PULL
    growth = (PULL[1] / PULL[0]) ** (1 / (stages - 1))
    for step in progress(range(ALTERNATIONS), "Pruning", ALTERNATIONS):
        stage, place = divmod(step, STEPS_WITH_ONE_PULL)
        for block in blocks:
            if place == 0:
                block.factorise(PULL[0] * growth**stage)
            block.solve()
        # The cubic schedule: many zeros early, when they cost little, and all of them halfway.
        way = min(1.0, 2 * (step + 1) / ALTERNATIONS)
        now = max(round(count * (1 - (1 - way) ** 3)), _pruned(blocks))
        zeros = _lowest([block.first(np.square(block.gap)) for block in blocks], now)
        for block, gone in zip(blocks, zeros, strict=True):
            block.project(gone, growth if place == STEPS_WITH_ONE_PULL - 1 else 1.0)
    return zeros


def _lowest(scores, count):
    """Marks the lowest scores over several arrays; equal ones in the order of their index."""
    gone = lowest(np.concatenate([part.ravel() for part in scores]), count)
    ends = np.cumsum([part.size for part in scores])[:-1]
    return [
        part.reshape(like.shape) for part, like in zip(np.split(gone, ends), scores, strict=True)
    ]


def _form(blocks, parts):
    return sum(block.form(part) for block, part in zip(blocks, parts, strict=True))
