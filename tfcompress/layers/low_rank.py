"""A matrix as the product of two thin ones."""

import math

import keras
import numpy as np
from keras import ops

from ..factorize import energy_rank, svd, svd_in_metric
from .base import CompressedDense, glorot_variance, ordinary_layer, to_numpy


@keras.saving.register_keras_serializable("tfcompress")
class LowRankDense(CompressedDense):
    """Dense as two thin matrices: `y = (x U) V + b`.

    Cost: `32 r (i + o)` bits and `r (i + o)` MACs.

    Args:
        units: outputs o.
        rank: an int from 1 to `min(i, o)`; a float in (0, 1), the share of the ordinary kernel's
            parameters (at least rank 1); or `"auto"`, the smallest rank that keeps 90% of the sum
            of squared singular values of a trained kernel. It is saved as the int.
        Others: as in `keras.layers.Dense`.

    Shapes: inputs `(..., i)`, outputs `(..., o)`.

    `from_layer` takes the truncated SVD, the nearest matrix of that rank; with a Kronecker metric
    the nearest one in it, in closed form.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.LowRankDense(64, rank=8)
    >>> layer.build((None, 128))
    >>> layer.bits // 32  # 8 * (128 + 64)
    1536

    Reference: E. Denton, W. Zaremba, J. Bruna, Y. LeCun, R. Fergus, "Exploiting Linear Structure
    Within Convolutional Networks for Efficient Evaluation", 2014.
    """

    options = ("rank",)

    def __init__(self, units, rank, **kwargs):
        super().__init__(units, **kwargs)
        self.rank = check_rank(rank)

    @classmethod
    def resolve(cls, shape, w=None, metric=None, rank=None):
        i, o = shape
        if rank == "auto":
            if w is None:
                raise ValueError(
                    "rank='auto' needs a trained kernel: use `LowRankDense.from_layer`, or give an "
                    "int or a share."
                )
            rank = energy_rank(w)
        elif isinstance(rank, float):
            rank = min(max(1, int(rank * i * o / (i + o))), min(shape))
        if rank > min(shape):
            raise ValueError(
                f"`rank` must be at most {min(shape)}, the full rank of a {i} x {o} kernel. "
                f"Received: rank={rank}"
            )
        return {"rank": rank}

    def build_kernel(self, shape):
        self.rank = self.resolve(shape, rank=self.rank)["rank"]
        # Both factors alike, so that their product has Glorot's variance.
        normal = keras.initializers.RandomNormal(
            stddev=(glorot_variance(shape) / self.rank) ** 0.25
        )
        self.add_part("u", (shape[0], self.rank), normal)
        self.add_part("v", (self.rank, shape[1]), normal.clone())

    @property
    def kernel(self):
        return ops.matmul(self.parts["u"], self.parts["v"])

    def apply_kernel(self, x, training=None):
        u, v = (ops.cast(self.parts[name], self.compute_dtype) for name in "uv")
        return ops.matmul(ops.matmul(x, u), v)

    def fit_kernel(self, w, metric=None):
        u, v = svd(w, self.rank) if metric is None else svd_in_metric(w, self.rank, metric)
        self.parts["u"].assign(u)
        self.parts["v"].assign(v)

    @property
    def prunable(self):
        return list(self.parts.values())

    def macs(self, input_shape) -> int:
        """Multiply-accumulates per sample."""
        return math.prod(input_shape[1:-1]) * self.rank * (input_shape[-1] + self.units)

    def to_ordinary(self):
        u, v = (to_numpy(self.parts[name]) for name in "uv")
        first = ordinary_layer(self, {"units": self.rank}, u, last=False, name=f"{self.name}_in")
        return [first, ordinary_layer(self, {"units": self.units}, v)]


def check_rank(rank):
    """The rank as given, if it can be one; `ValueError` otherwise."""
    whole = isinstance(rank, (int, np.integer)) and not isinstance(rank, bool) and rank >= 1
    share = isinstance(rank, float) and 0 < rank < 1
    if not (whole or share or rank == "auto"):
        raise ValueError(
            "`rank` must be an integer of at least 1, a share of the parameters in (0, 1), or "
            f"'auto'. Received: rank={rank!r}"
        )
    return int(rank) if whole else rank
