"""m bits per weight: levels in equal steps or in powers of two, and a scale per output."""

import math
from typing import Any, Literal, TypedDict, Unpack

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.arguments import (
    ConvArguments,
    DepthwiseArguments,
    EinsumArguments,
    LayerArguments,
    PlainArguments,
)
from tfcompress.layers.core.dense_and_conv import (
    CompressedConv1D,
    CompressedConv2D,
    CompressedDense,
)
from tfcompress.layers.core.einsum import CompressedEinsumDense
from tfcompress.layers.core.embedding import CompressedEmbedding
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.other_convolutions import CompressedDepthwiseConv2D
from tfcompress.layers.discrete.latent import AT_A_TIME, GridKernel, fit_grid
from tfcompress.layers.discrete.scale_search import search_scale
from tfcompress.numerics.metric import Diagonal, as_metric
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import Config, InputShape, Metric, Regularizer, Shape, Size, Tensor

LEVELS = ("linear", "log")
Levels = Literal["linear", "log"]


class QuantizedOptions(TypedDict, total=False):
    """The options that `using` takes."""

    bits: int
    levels: Levels


class QuantizedKernel(GridKernel):
    """Weights on `2^bits - 1` levels, a scale per output.

        linear: V = a_o * clip(round(w / a_o), -n, n),   n = 2^(bits - 1) - 1
        log:    V = the nearest of 0, +-a_o, +-a_o / 2, ..., +-a_o / 2^(n - 1)

    `w` are float latents. The gradient of `V` reaches them unchanged (the straight-through
    estimator), and the scales `a_o` are trained too.

    Cost: `bits` per weight and 32 bits per scale; the MACs of the ordinary layer.

    Args:
        bits: from 2 (ternary: -a, 0, a) to 8.
        levels: `"linear"`, or `"log"` for powers of two, which suit 3 and 4 bits: more bits only
            add levels near zero, and a .tflite file cannot hold those.
        Others: as in the ordinary layer.

    `from_layer` searches for the scale with the least error. With a Kronecker metric it rounds so
    that the errors of an output's weights cancel, which needs no training and no labels.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.QuantizedDense(4, bits=3)
    >>> layer.build((None, 8))
    >>> layer.bits  # 8 * 4 codes of 3 bits and 4 scales
    224

    Reference: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", 2022, for the compensated rounding; here rows are taken in order of importance,
    and the scales are fitted again afterwards. Hou, Kwok, "Loss-aware Weight Quantization of Deep
    Networks", 2018, for the logarithmic levels.
    """

    options = ("bits", "levels")

    def __init__(self, *args: Any, bits: int = 8, levels: str = "linear", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if levels not in LEVELS:
            raise ValueError(f"`levels` must be one of {LEVELS}. Received: levels={levels!r}")
        self.level_bits, self.levels = whole_number(bits, "bits", 2, 8), levels
        self.count = 2 ** (self.level_bits - 1) - 1
        powers = 2.0 ** np.arange(1 - self.count, 1)
        self._points = np.concatenate([[0], powers]).astype("float32")  # the log levels, from 0 up

    @classmethod
    def using(cls, **options: Unpack[QuantizedOptions]) -> Maker:
        return super().using(**options)

    def method_options(self) -> Config:
        return {"bits": self.level_bits, "levels": self.levels}

    @property
    def largest(self) -> float:
        """The largest level, in units of the scale."""
        return float(self.count) if self.levels == "linear" else 1.0

    def build_kernel(self, shape: Shape) -> None:
        limit = math.sqrt(3 * self.variance(shape))
        self.latent = self.add_part(
            "latent", shape, keras.initializers.RandomUniform(-limit, limit)
        )
        self.scale = self.add_part(
            "scale", self.scale_shape(shape), keras.initializers.Constant(self._fresh_scale(shape))
        )

    def _fresh_scale(self, shape):
        limit = math.sqrt(3 * self.variance(shape))
        return limit / (self.count + 0.5) if self.levels == "linear" else limit

    def grid(self, latent: Tensor, scale: Tensor) -> Tensor:
        own = latent.dtype
        wide = keras.backend.result_type(own, "float32")  # a code takes up to 7 bits
        latent, scale = ops.cast(latent, wide), ops.cast(scale, wide)
        unit = ops.where(ops.equal(scale, 0), ops.ones_like(scale), scale)
        return ops.cast(self._nearest(latent / unit, ops), own)

    def _nearest(self, u, library=np):
        """The levels nearest to `u`, in NumPy or `keras.ops`."""
        if self.levels == "linear":
            if library is np:  # called for each row of a kernel, by the fastest functions
                return np.minimum(np.maximum(np.rint(u), -self.count), self.count)
            return ops.minimum(ops.maximum(ops.round(u), -self.count), self.count)
        middles = (self._points[1:] + self._points[:-1]) / 2
        if library is np:
            return np.sign(u) * self._points[np.searchsorted(middles, np.abs(u))]
        wide = keras.backend.result_type(u.dtype, "float32")
        sizes = ops.reshape(ops.cast(ops.abs(u), wide), [-1])
        places = ops.searchsorted(ops.cast(middles, wide), sizes)
        points = ops.take(ops.cast(self._points, u.dtype), ops.reshape(places, u.shape))
        return ops.sign(u) * points

    def encode(self, grid: Tensor) -> np.ndarray:
        if self.levels == "linear":
            return super().encode(grid)
        return (np.sign(grid) * np.searchsorted(self._points, np.abs(grid))).astype("int8")

    def decode(self, codes: np.ndarray) -> np.ndarray:
        if self.levels == "linear":
            return super().decode(codes)
        return np.sign(codes) * self._points[np.abs(codes)]

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        metric, rows = as_metric(metric, w.shape, self.scale_axes), self.to_rows(np.asarray(w))
        if isinstance(metric, Diagonal):
            metric = Diagonal(self.to_rows(metric.d))
        d = metric.importance(rows.shape)
        d = np.where(np.any(d > 0, 0), d, 1)  # an output that no data showed, as a rare word
        scale = search_scale(rows, d, self._nearest, self.largest)
        grid, scale = fit_grid(rows, self._nearest, scale, metric)
        # With a scale of 0 no gradient would ever reach an output whose weights are all 0.
        scale = np.where(scale == 0, self._fresh_scale(w.shape), scale).reshape(self.scale.shape)
        self.scale.assign(scale)
        self.set_latent(w, self.from_rows(grid, w.shape), scale)

    def set_latent(self, w: Tensor, grid: Tensor, scale: Tensor) -> None:
        # Where the nearest level is the wanted one, with a margin for rounding, `w` is the latent.
        margin = 0.005 if self.latent.dtype == "bfloat16" else 0.001
        kind = "float64" if self.latent.dtype == "float64" else "float32"
        latent = np.require(grid, kind, "W")  # overwritten: a large kernel has no room for another
        scale = np.broadcast_to(np.asarray(scale, kind), latent.shape)
        rows = max(1, AT_A_TIME * len(latent) // max(w.size, 1))
        for start in range(0, len(latent), rows):
            part = slice(start, start + rows)
            points, u = latent[part].copy(), w[part] / np.where(scale[part] == 0, 1, scale[part])
            agrees = self._nearest((1 - margin) * u) == points
            agrees &= self._nearest((1 + margin) * u) == points
            latent[part] = np.where(agrees, w[part], scale[part] * points)
        self.latent.assign(latent)


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedDense(QuantizedKernel, CompressedDense):
    __doc__ = "Dense with m bits per weight. " + QuantizedKernel.__doc__

    def __init__(
        self,
        units: int,
        *,
        bits: int = 8,
        levels: Levels = "linear",
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(units, bits=bits, levels=levels, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedConv1D(QuantizedKernel, CompressedConv1D):
    __doc__ = "Conv1D with m bits per weight. " + QuantizedKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        bits: int = 8,
        levels: Levels = "linear",
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, bits=bits, levels=levels, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedConv2D(QuantizedKernel, CompressedConv2D):
    __doc__ = "Conv2D with m bits per weight. " + QuantizedKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        bits: int = 8,
        levels: Levels = "linear",
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, bits=bits, levels=levels, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedDepthwiseConv2D(QuantizedKernel, CompressedDepthwiseConv2D):
    __doc__ = "DepthwiseConv2D with m bits per weight. " + QuantizedKernel.__doc__

    def __init__(
        self,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        *,
        bits: int = 8,
        levels: Levels = "linear",
        **kwargs: Unpack[DepthwiseArguments],
    ) -> None:
        super().__init__(
            kernel_size, strides, padding, depth_multiplier, bits=bits, levels=levels, **kwargs
        )


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedEinsumDense(QuantizedKernel, CompressedEinsumDense):
    __doc__ = "EinsumDense with m bits per weight. " + QuantizedKernel.__doc__

    def __init__(
        self,
        equation: str,
        output_shape: int | InputShape,
        bias_axes: str | None = None,
        *,
        bits: int = 8,
        levels: Levels = "linear",
        **kwargs: Unpack[EinsumArguments],
    ) -> None:
        super().__init__(equation, output_shape, bias_axes, bits=bits, levels=levels, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedEmbedding(QuantizedKernel, CompressedEmbedding):
    __doc__ = "Embedding with m bits per weight and a scale per row. " + QuantizedKernel.__doc__

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        mask_zero: bool = False,
        kernel_regularizer: Regularizer = None,
        *,
        bits: int = 8,
        levels: Levels = "linear",
        **kwargs: Unpack[PlainArguments],
    ) -> None:
        super().__init__(
            input_dim, output_dim, mask_zero, kernel_regularizer, bits=bits, levels=levels, **kwargs
        )
