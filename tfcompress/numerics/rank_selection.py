"""The rank of a kernel: by energy, by variational Bayes, or by what it may cost. NumPy in.

Letters: h w i o axes of a kernel; rows x columns of a matrix.
"""

import bisect
from typing import Any

import numpy as np

from tfcompress.numerics.low_rank import singular_values
from tfcompress.utils.types import Metric

ENERGY = 0.9  # share of the sum of squares that `rank="auto"` keeps
IN_METRIC = 0.99  # and in a metric, in which a few directions hold most of it
WEAKENING = 0.8  # how much of the way from the full rank to that of "evbmf" is gone


def energy_rank(w: np.ndarray, share: float = ENERGY) -> int:
    """Smallest rank whose truncated SVD keeps `share` of the sum of squares of a matrix."""
    energy = np.cumsum(singular_values(w) ** 2)
    return int(np.searchsorted(energy, share * energy[-1]) + 1)


def evbmf_rank(w: np.ndarray) -> int:
    """Rank of a matrix by empirical variational Bayes: how much stands out of Gaussian noise.

    The matrix is taken for a product of two Gaussian factors and noise whose variance is unknown.
    The global optimum is analytic up to that variance, which is searched for on a grid of 1,000;
    the singular values above a threshold then survive. 0 for pure noise.

    Cost: an SVD.

    Args:
        w: a matrix.

    >>> noise = np.random.default_rng(0).standard_normal((20, 30))
    >>> evbmf_rank(noise), evbmf_rank(noise + np.arange(20.0)[:, None])
    (0, 1)

    Reference: Nakajima et al., "Global Analytic Solution of Fully-observed Variational Bayesian
    Matrix Factorization", 2013.
    """
    w = np.asarray(w, np.float64)
    w = w[np.any(w, 1)][:, np.any(w, 0)]  # rows and columns of zeros say nothing of the noise
    if not w.size:
        return 0
    rows, columns = sorted(w.shape)
    squares = singular_values(w) ** 2 / columns
    present = int(np.sum(squares > 1e-20 * squares[0]))
    if present < rows:  # exactly of low rank, without noise
        return present
    alpha = rows / columns
    tau = _least_tau(alpha)
    limit = (1 + tau) * (1 + alpha / tau)  # of a squared singular value over the variance
    most = min(int(np.ceil(rows / (1 + alpha))) - 1, rows - 1)
    low = max(squares[most] / limit, squares[most:].mean())
    variances = np.geomspace(low, max(squares.mean(), low), 1000)
    best = min(variances, key=lambda variance: _free_energy(squares / variance, limit, alpha))
    return int(np.sum(squares > best * limit))


def _least_tau(alpha):
    """The smallest strength of a component that survives: 2.5129 for a square matrix."""
    from scipy.optimize import brentq

    def gap(t):
        return np.log1p(t) / t + alpha * np.log1p(t / alpha) / t - 1

    return brentq(gap, 1e-9, 1e3)


def _free_energy(x, limit, alpha):
    """Of the squared singular values over the variance of the noise, up to a constant."""
    kept, noise = x[x > limit], x[x <= limit]
    tau = (kept - 1 - alpha + np.sqrt((kept - 1 - alpha) ** 2 - 4 * alpha)) / 2
    above = kept - tau + np.log((tau + 1) / kept) + alpha * np.log(tau / alpha + 1)
    return np.sum(noise - np.log(noise)) + np.sum(above)


def weakened_rank(w: np.ndarray) -> int:
    """`evbmf_rank` four fifths of the way down from the full rank, so that some rank is left.

    Reference: Gusak et al., "Automated Multi-Stage Compression of Neural Networks", 2019.
    """
    full = min(np.shape(w))
    return max(1, round(full - WEAKENING * (full - evbmf_rank(w))))


def rank_within(limit: float, cost: Any, ranks: Any) -> Any:
    """The largest of `ranks`, in rising order of cost, that costs at most `limit`, or the first."""
    return ranks[max(1, bisect.bisect_right(ranks, limit, key=cost)) - 1]


def unfold(w: np.ndarray, rows: str, metric: Metric = None) -> np.ndarray:
    """A kernel as a matrix whose squares count as much as in a second-order form.

    Exact in a Kronecker metric for `rows="hwi"`. Otherwise the metric's marginals: the second
    moments of the inputs on the rows' letters, averaged over the others.

    Args:
        w: `(h, w, i, o)`.
        rows: the letters of the rows, in the order of "hwio"; the others are the columns.
        metric: a `tfcompress.metric.Kronecker` or `Diagonal` for `w`, or None for the plain matrix.
    """
    w = np.asarray(w, np.float64)
    columns = [letter for letter in "hwio" if letter not in rows]
    order = ["hwio".index(letter) for letter in (*rows, *columns)]
    size = int(np.prod([w.shape[axis] for axis in order[: len(rows)]]))
    if metric is None:
        return w.transpose(order).reshape(size, -1)
    if not hasattr(metric, "blocks"):
        d = metric.d.transpose(order).reshape(size, -1)
        scales = np.sqrt(np.outer(d.mean(1), d.mean(0)) / max(d.mean(), 1e-300))
        return w.transpose(order).reshape(size, -1) * scales
    flat = metric.scaled(w, 0.5).transpose(order).reshape(size, -1)
    return np.linalg.cholesky(_marginal(metric, w.shape, rows, size)).T @ flat


def _marginal(metric, shape, rows, size):
    """The second moment of the inputs on the letters `rows`, averaged over the others, damped."""
    import scipy.linalg

    A = scipy.linalg.block_diag(*(block[0] for block in metric.blocks)).reshape(shape[:3] * 2)
    twin = "".join(letter.upper() if letter in rows else letter for letter in "hwi")
    moment = np.einsum(f"hwi{twin}->{rows}{rows.upper()}", A).reshape(size, size)
    moment *= size / np.prod(shape[:3])
    mean = np.trace(moment) / size
    return moment + (metric.damping * mean if mean > 0 else 1.0) * np.eye(size)
