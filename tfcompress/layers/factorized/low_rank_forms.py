"""Low rank in three dimensions, and of transposed convolutions."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.other_convolutions import (
    CompressedConv1DTranspose,
    CompressedConv2DTranspose,
    CompressedConv3D,
    CompressedConv3DTranspose,
)
from tfcompress.layers.factorized.low_rank import LowRankKernel
from tfcompress.numerics.low_rank import svd, svd_in_metric
from tfcompress.numerics.metric import Diagonal, Kronecker, as_metric
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Config, Metric, Shape, Tensor

PLAIN = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
TRANSPOSED = """as a 1x1 convolution to r channels and a transposed one.

        V[s, o, i] = sum_r U[s, o, r] W[r, i]

    Cost: `32 r (i + taps o)` bits and `r (i + taps o)` MACs per input position, where the ordinary
    kernel has `taps o i` of both. `from_layer` takes the truncated SVD of the kernel as a matrix
    `(taps o, i)`; with a Kronecker metric the nearest one in the second moment of the input
    channels, which is the mean of that metric over the taps.

    Args:
        rank, macs, others: as in `LowRankConv2D`; the rank is at most the number of channels.
    """


@keras.saving.register_keras_serializable("tfcompress")
class LowRankConv3D(LowRankKernel, CompressedConv3D):
    __doc__ = "Conv3D as a convolution to r channels and a 1x1x1 one. " + LowRankKernel.__doc__


class LowRankTransposedKernel(LowRankKernel):
    """The parts of `LowRankKernel`, of which the second is applied first."""

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        u, v = (ops.cast(part, self.compute_dtype) for part in self.parts.values())
        return self.multiply(ops.matmul(x, ops.transpose(v)), u)

    @classmethod
    def resolve(
        cls, shape: Shape, w: Tensor = None, metric: Metric = None, **options: Any
    ) -> Config:
        return super().resolve(shape, w, None, **options)  # that of the channels has another shape

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        flat = np.reshape(w, (-1, w.shape[-1])).T  # (i, taps o)
        if metric is None:
            v, u = svd(flat, self.rank)
        else:
            whole = as_metric(metric, w.shape, output_axes=(-2,))
            v, u = svd_in_metric(flat, self.rank, _of_channels(whole, w.shape))
        self.parts["u"].assign(np.reshape(u.T, self.parts["u"].shape))
        self.parts["v"].assign(v.T)

    def to_ordinary(self) -> list[keras.layers.Layer]:
        u, v = (to_numpy(part) for part in self.parts.values())
        state = {"dtype": self.dtype_policy, "trainable": self.trainable}
        ones = (1,) * self.space
        first = PLAIN[self.space](
            self.rank,
            ones,
            use_bias=False,
            data_format=self.data_format,
            name=f"{self.name}_in",
            **state,
        )
        first.build((*[None] * (self.space + 1), v.shape[1]))
        first.kernel.assign(v.T.reshape(*ones, *v.T.shape))
        last = self.ordinary(**self.ordinary_arguments(), name=self.name, **state)
        last.build((*[None] * (self.space + 1), self.rank))
        last.kernel.assign(u)
        if self.bias is not None:
            last.bias.assign(self.bias)
        return [first, last]


def _of_channels(metric, shape):
    """A metric of a transposed kernel's input channels, for a matrix `(i, taps o)`."""
    channels = shape[-1]
    if isinstance(metric, Diagonal):
        return Diagonal(np.reshape(metric.d, (-1, channels)).T)
    if len(metric.blocks) > 1:  # of many inputs, of which only blocks on the diagonal are kept
        fan_in_first = (*shape[:-2], channels, shape[-2])
        d = metric.diagonal(fan_in_first)[..., 0] / (1 if metric.g is None else metric.g[0] or 1)
        return Kronecker([np.diag(np.reshape(d, (-1, channels)).mean(0))])
    taps = metric.fan_in // channels
    whole = metric.blocks[0][0].reshape(taps, channels, taps, channels)
    return Kronecker([np.einsum("titj->ij", whole) / taps])


@keras.saving.register_keras_serializable("tfcompress")
class LowRankConv1DTranspose(LowRankTransposedKernel, CompressedConv1DTranspose):
    __doc__ = "Conv1DTranspose " + TRANSPOSED


@keras.saving.register_keras_serializable("tfcompress")
class LowRankConv2DTranspose(LowRankTransposedKernel, CompressedConv2DTranspose):
    __doc__ = "Conv2DTranspose " + TRANSPOSED


@keras.saving.register_keras_serializable("tfcompress")
class LowRankConv3DTranspose(LowRankTransposedKernel, CompressedConv3DTranspose):
    __doc__ = "Conv3DTranspose " + TRANSPOSED
