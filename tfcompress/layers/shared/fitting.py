"""The best stored numbers for hashed and circulant kernels, whose entries are signed copies."""

import numpy as np

from tfcompress.numerics.low_rank import least_squares
from tfcompress.numerics.metric import Diagonal, as_metric
from tfcompress.utils.types import Metric


def fit_shared(
    w: np.ndarray, index: np.ndarray, signs: np.ndarray, size: int, metric: Metric = None
) -> np.ndarray:
    """The numbers p for which `signs * p[index]` is nearest to a kernel.

    Each is the signed mean of the entries that copy it, weighted by a diagonal metric. With a
    Kronecker metric, conjugate gradients go on from there to the least-squares solution.

    Args:
        w: kernel.
        index: int array like `w` that tells which number each entry copies.
        signs: -1 and +1, broadcast against `w`.
        size: how many numbers there are.
        metric: see `CompressedLayer.fit_kernel`.

    Returns:
        float64 array `(size,)`. A number that no entry copies is 0.
    """

    def collect(values):
        return np.bincount(index.ravel(), np.ravel(values), size)

    def mean(weights):
        below = collect(weights)
        return np.where(below > 0, collect(weights * signs * w) / np.where(below > 0, below, 1), 0)

    metric = as_metric(metric, w.shape)
    d = metric.diagonal(w.shape)
    p = np.where(collect(d) > 0, mean(d), mean(np.ones(w.shape)))
    if isinstance(metric, Diagonal):
        return p
    return least_squares(
        metric.apply, lambda p: signs * p[index], lambda v: collect(signs * v), w, p
    )
