"""Sparse kernels: few weights that are not zero."""

import dataclasses
import math

import keras
from keras import ops

from tfcompress.project.base import Config, as_rows, check_axis, working
from tfcompress.utils.types import Tensor


@keras.saving.register_keras_serializable("tfcompress.project")
@dataclasses.dataclass(frozen=True)
class KSparse(Config):
    """Keeps a share of the weights, those with the largest `d w^2`, and makes the others zero.

    Cost: two sorts of the kernel, about ten times a training step of a large Dense layer.

    >>> [float(v) for v in KSparse(0.5)([3.0, -1.0, 0.2, -2.0])]
    [3.0, 0.0, 0.0, -2.0]

    Args:
        share: of the weights that stay, in (0, 1].
        axis: -1 for the share of each output channel, None for that of the kernel.

    Reference: Carreira-Perpiñán, Idelbayev, "Learning-Compression Algorithms for Neural Net
    Pruning", 2018.
    """

    share: float
    axis: int | None = None

    def __post_init__(self):
        check_axis(self.axis)
        if not 0 < self.share <= 1:
            raise ValueError(f"Expected `share` in (0, 1]. Received: share={self.share!r}")

    def __call__(self, w: Tensor, d: Tensor = None) -> Tensor:
        given = ops.convert_to_tensor(w)
        w, d, _ = working(given, d, self.axis)
        rows = as_rows(d * ops.square(w), self.axis)
        # The place of each weight in its column, largest first; no two are equal.
        rank = ops.argsort(ops.argsort(-rows, axis=0), axis=0)
        keep = rank < max(1, math.floor(self.share * rows.shape[0] + 1e-6))
        return ops.where(ops.reshape(keep, given.shape), given, ops.zeros_like(given))
