"""A convolution as a column filter and a row filter."""

from typing import Any, Unpack

import keras
import numpy as np

from tfcompress.layers.core.arguments import ConvArguments
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.factorized.conv_chain import ConvChain, Stage
from tfcompress.layers.factorized.low_rank import LowRankOptions
from tfcompress.numerics.low_rank import spatial
from tfcompress.utils.types import Rank, Shape, Size


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
            kernel's parameters (at least rank 1); or `"auto"` or `"evbmf"`, the rank of the
            `(h i, w o)` matrix, chosen as in `LowRankConv2D`. It is saved as the int.
        macs: instead of `rank`, the share in (0, 1) of the ordinary layer's MACs.
        Others: as in `keras.layers.Conv2D`.

    Shapes: inputs `(b, h, w, i)`, outputs `(b, h', w', o)`.

    `from_layer` takes the truncated SVD; with a metric, both filters are then refined in it.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.SpatialConv2D(64, 3, rank=16)
    >>> layer.build((None, 28, 28, 32))
    >>> layer.bits // 32  # 16 * (3 * 32 + 3 * 64)
    4608

    Reference: Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank
    Expansions", 2014.
    """

    expression = "hir,wro->hwio"
    unfoldings = ("hi",)  # the kernel is a matrix of columns (h i) by rows (w o)

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        rank: Rank | None = None,
        macs: float | None = None,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, rank=rank, macs=macs, **kwargs)

    @classmethod
    def using(cls, **options: Unpack[LowRankOptions]) -> Maker:
        return super().using(**options)

    @classmethod
    def ranks(cls, shape: Shape) -> Any:
        h, w, i, o = shape
        return range(1, min(h * i, w * o) + 1)

    @classmethod
    def part_shapes(cls, shape: Shape, rank: Any) -> dict[str, Shape]:
        h, w, i, o = shape
        return {"columns": (h, i, rank), "rows": (w, rank, o)}

    def decompose(self, w: np.ndarray) -> list[np.ndarray]:
        return spatial(w, self.rank)

    def stages(self, parts: list[Any]) -> list[Stage]:
        columns, rows = parts
        (s, t), (d, e) = self.strides, self.dilation_rate
        return [
            Stage("columns", columns[:, None], strides=(s, 1), dilation=(d, 1)),
            Stage("rows", rows[None], strides=(1, t), dilation=(1, e)),
        ]
