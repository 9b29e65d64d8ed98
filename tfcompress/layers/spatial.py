"""A convolution as a column filter and a row filter."""

import math

import keras

from ..factorize import energy_rank, spatial
from .chain import ConvChain, Stage
from .low_rank import check_rank


@keras.saving.register_keras_serializable("tfcompress")
class SpatialConv2D(ConvChain):
    """Conv2D as a k x 1 convolution to r channels and a 1 x k one.

        V[h, w, i, o] = sum_r a[h, i, r] b[w, r, o]

    Cost: `32 r (h i + w o)` bits; `r h i` MACs per position after the first convolution and
    `r w o` after the second.

    Args:
        filters, kernel_size, strides, padding, dilation_rate: as in `keras.layers.Conv2D`. No
            groups.
        rank: an int from 1 to `min(h i, w o)`; a float in (0, 1), the share of the ordinary
            kernel's parameters (at least rank 1); or `"auto"`, the smallest rank that keeps 90% of
            the energy of a trained kernel. It is saved as the int.
        Others: as in `keras.layers.Conv2D`.

    Shapes: inputs `(b, h, w, i)`, outputs `(b, h', w', o)`.

    `from_layer` takes the truncated SVD; with a Kronecker metric it is refined in it.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.SpatialConv2D(64, 3, rank=16)
    >>> layer.build((None, 28, 28, 32))
    >>> layer.bits // 32  # 16 * (3 * 32 + 3 * 64)
    4608

    Reference: M. Jaderberg, A. Vedaldi, A. Zisserman, "Speeding up Convolutional Neural Networks
    with Low Rank Expansions", 2014.
    """

    options = ("rank",)
    expression = "hir,wro->hwio"

    def __init__(self, filters, kernel_size, *args, rank, **kwargs):
        super().__init__(filters, kernel_size, *args, **kwargs)
        self.rank = check_rank(rank)

    @classmethod
    def resolve(cls, shape, w=None, metric=None, rank=None):
        h, width, i, o = shape
        full = min(h * i, width * o)
        if rank == "auto":
            if w is None:
                raise ValueError("rank='auto' needs a trained kernel. Give an int or a share.")
            rank = energy_rank(w.transpose(0, 2, 1, 3).reshape(h * i, width * o))
        elif isinstance(rank, float):
            rank = min(max(1, int(rank * math.prod(shape) / (h * i + width * o))), full)
        if rank > full:
            raise ValueError(
                f"`rank` must be at most {full}, the full rank of a kernel of shape {shape} seen "
                f"as {h * i} x {width * o}. Received: rank={rank}"
            )
        return {"rank": rank}

    def part_shapes(self, shape):
        self.rank = self.resolve(shape, rank=self.rank)["rank"]
        h, w, i, o = shape
        return {"columns": (h, i, self.rank), "rows": (w, self.rank, o)}

    def decompose(self, w):
        return spatial(w, self.rank)

    def stages(self, parts):
        columns, rows = parts
        (s, t), (d, e) = self.strides, self.dilation_rate
        return [
            Stage("columns", columns[:, None], strides=(s, 1), dilation=(d, 1)),
            Stage("rows", rows[None], strides=(1, t), dilation=(1, e)),
        ]
