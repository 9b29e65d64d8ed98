"""Levels that are any numbers: k-means."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tfcompress.project.base import Projection, ratio
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import Tensor

LLOYD_STEPS = 30  # of k-means, from each start


@keras.saving.register_keras_serializable("tfcompress.project")
@dataclasses.dataclass(frozen=True)
class Codebook(Projection):
    """Any `size` levels: k-means of the weights, weighted by `d`, one codebook per kernel.

    Lloyd's steps from two starts: the quantiles, and the weights that lie farthest from each other.
    The second start finds the values of a kernel exactly where it has at most `size` of them.

    Cost: `ceil(log2 size)` bits per weight and `32 size` bits; a call takes `size + 60` passes over
    the kernel, a training step one binary search per weight.

    >>> np.asarray(Codebook(2)(np.array([1.0, 1.2, 5.0, 5.2]))).round(2).tolist()
    [1.1, 1.1, 5.1, 5.1]

    Args:
        size: from 2 to 256.

    Reference: Choi et al., "Towards the Limit of Network Quantization", 2017, for the weights `d`
    of the k-means.
    """

    size: int

    def __post_init__(self):
        whole_number(self.size, "size", 2, 256)

    def fit(self, w: Tensor, d: Tensor) -> Tensor:
        w, d = ops.reshape(w, (-1,)), ops.reshape(d, (-1,))
        best, least = None, np.inf
        for levels in (self._farthest(w, d), self._quantiles(w)):
            for _ in range(LLOYD_STEPS):
                levels = self.refine(w, d, levels)
            damage = ops.sum(d * ops.square(w - self.nearest(w, levels)))
            best = levels if best is None else ops.where(damage < least, levels, best)
            least = ops.minimum(damage, least)
        return best

    def refine(self, w: Tensor, d: Tensor, levels: Tensor) -> Tensor:
        codes = self._codes(w, levels)
        w, d = ops.reshape(w, (-1,)), ops.reshape(d, (-1,))
        mass = ops.segment_sum(d, codes, num_segments=self.size)
        return ratio(ops.segment_sum(d * w, codes, num_segments=self.size), mass, levels)

    def nearest(self, w: Tensor, levels: Tensor) -> Tensor:
        return ops.reshape(ops.take(levels, self._codes(w, levels)), w.shape)

    def _codes(self, w, levels):
        # Levels are sorted, so that the nearest one follows from the middles between them.
        return ops.searchsorted((levels[1:] + levels[:-1]) / 2, ops.reshape(w, (-1,)))

    def _quantiles(self, w):
        return ops.quantile(w, ops.cast((np.arange(self.size) + 0.5) / self.size, w.dtype))

    def _farthest(self, w, d):
        """Each entry is the weight that the entries before it approximate worst."""
        levels, damage = [], d * ops.square(w)
        for _ in range(self.size):
            levels.append(ops.take(w, ops.argmax(damage)))
            damage = ops.minimum(damage, d * ops.square(w - levels[-1]))
        return ops.sort(ops.stack(levels))
