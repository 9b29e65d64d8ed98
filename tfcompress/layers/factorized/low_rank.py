"""A kernel as the product of two thin ones."""

import math
from typing import Any, TypedDict, Unpack

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.arguments import ConvArguments, LayerArguments
from tfcompress.layers.core.dense_and_conv import (
    CompressedConv1D,
    CompressedConv2D,
    CompressedDense,
)
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.ordinary import glorot_variance, ordinary_layer
from tfcompress.layers.factorized.rank import Ranked
from tfcompress.numerics.low_rank import svd, svd_in_metric
from tfcompress.numerics.metric import Diagonal, as_metric
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Metric, Rank, Shape, Size, Tensor


class LowRankOptions(TypedDict, total=False):
    """The options that `using` takes."""

    rank: Rank
    macs: float


class LowRankKernel(Ranked):
    """A kernel of rank r: a layer with r outputs, then a dense one (a 1x1 convolution).

        V = U W,   U: (fan_in, r) like the ordinary kernel with r outputs,   W: (r, o)

    Cost: `32 r (fan_in + o)` bits and `r (fan_in + o)` MACs per output position.

    Args:
        rank: an int from 1 to `min(fan_in, o)`; a float in (0, 1), the share of the ordinary
            kernel's parameters (at least rank 1); `"auto"`, the smallest rank that keeps 90% of
            the sum of squares of a trained kernel, or 99% of it in the metric if it is fitted in
            one; or `"evbmf"`, four fifths of the way down from the full rank to that of
            variational Bayes. It is saved as the int.
        macs: instead of `rank`, the share in (0, 1) of the ordinary layer's MACs.
        Others: as in the ordinary layer; no groups.

    `from_layer` takes the truncated SVD, the nearest kernel of that rank; with a Kronecker metric
    the nearest one in it, in closed form.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.LowRankDense(64, rank=8)
    >>> layer.build((None, 128))
    >>> layer.bits // 32  # 8 * (128 + 64)
    1536

    Reference: Denton et al., "Exploiting Linear Structure Within Convolutional Networks for
    Efficient Evaluation", 2014.
    """

    @classmethod
    def using(cls, **options: Unpack[LowRankOptions]) -> Maker:
        return super().using(**options)

    @classmethod
    def part_shapes(cls, shape: Shape, rank: Any) -> dict[str, Shape]:
        return {"u": (*shape[:-1], rank), "v": (rank, shape[-1])}

    @classmethod
    def ranks(cls, shape: Shape) -> Any:
        return range(1, min(math.prod(shape[:-1]), shape[-1]) + 1)

    def build_kernel(self, shape: Shape) -> None:
        # Both factors alike, so that their product has Glorot's variance.
        stddev = (glorot_variance(shape) / self.rank) ** 0.25
        for name, side in self.part_shapes(shape, self.rank).items():
            self.add_part(name, side, keras.initializers.RandomNormal(stddev=stddev))

    @property
    def kernel(self) -> Tensor:
        return ops.tensordot(*map(ops.convert_to_tensor, self.parts.values()), axes=1)

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        u, v = (ops.cast(part, self.compute_dtype) for part in self.parts.values())
        return ops.matmul(self.multiply(x, u), v)

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        flat = np.reshape(w, (-1, w.shape[-1]))
        if metric is None:
            u, v = svd(flat, self.rank)
        else:
            metric = as_metric(metric, w.shape)
            if isinstance(metric, Diagonal):
                metric = Diagonal(metric.d.reshape(flat.shape))
            u, v = svd_in_metric(flat, self.rank, metric)
        self.parts["u"].assign(u.reshape(self.parts["u"].shape))
        self.parts["v"].assign(v)

    def to_ordinary(self) -> list[keras.layers.Layer]:
        u, v = (to_numpy(part) for part in self.parts.values())
        first = self.own_arguments() | {self.width: self.rank}
        last = {self.width: v.shape[1]}
        if "kernel_size" in self.arguments:  # the second layer of a convolution is a 1x1 one
            last["kernel_size"] = 1
            v = v.reshape(*[1] * (u.ndim - 2), *v.shape)
        return [
            ordinary_layer(self, first, u, name=f"{self.name}_in", last=False),
            ordinary_layer(self, last, v),
        ]


@keras.saving.register_keras_serializable("tfcompress")
class LowRankDense(LowRankKernel, CompressedDense):
    __doc__ = "Dense as two thin matrices. " + LowRankKernel.__doc__

    def __init__(
        self,
        units: int,
        *,
        rank: Rank | None = None,
        macs: float | None = None,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(units, rank=rank, macs=macs, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class LowRankConv1D(LowRankKernel, CompressedConv1D):
    __doc__ = "Conv1D as a convolution to r channels and a 1x1 one. " + LowRankKernel.__doc__

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


@keras.saving.register_keras_serializable("tfcompress")
class LowRankConv2D(LowRankKernel, CompressedConv2D):
    __doc__ = "Conv2D as a convolution to r channels and a 1x1 one. " + LowRankKernel.__doc__

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
