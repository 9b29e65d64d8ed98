"""One bit per weight: BinaryConnect with a scale per output."""

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
from tfcompress.layers.discrete.latent import GridKernel, fit_grid
from tfcompress.numerics.metric import Diagonal, as_metric
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.checks import check_integer
from tfcompress.utils.types import Config, Metric, Shape, Size, Tensor

LEAST_SCALE = 1e-6  # of an output, in units of H


@keras.saving.register_keras_serializable("tfcompress")
class Clip(keras.constraints.Constraint):
    """Keeps weights within `[-limit, limit]`."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, w: Tensor) -> Tensor:
        return ops.clip(w, -self.limit, self.limit)

    def get_config(self) -> Config:
        return {"limit": self.limit}


class BinaryOptions(TypedDict, total=False):
    """The options that `using` takes."""

    scale: bool
    stochastic: bool
    seed: int | None


class BinaryKernel(GridKernel):
    """Weights `+a_o` and `-a_o`: BinaryConnect.

        V = a_o * b,   b = +1 if w >= 0 else -1,   w <- clip(w - step * dL/dV, -H, H)

    `H = sqrt(1.5 / (fan_in + fan_out))` is half of Glorot's limit. The gradient is not masked where
    a latent is at its bound. The code of the paper keeps latents within +-1 and scales the step by
    `1 / H` for Adam and by `1 / H^2` for SGD; with latents within +-H the optimizer's own step is
    the same, for both. A trained scale per output, which starts at H, replaces the paper's fixed
    `+-1`.

    With `stochastic=True` the sign is drawn in each training step, in a cell in each time step,

        b = +1 with probability clip((w / H + 1) / 2, 0, 1), else -1

    and inference uses the mean of the draws, `a_o * w / H`. These are the paper's real weights, and
    they take 32 bits each until `binarize()` fixes the signs. The statistics of batch normalization
    are those of the drawn weights, so they must be measured again before inference:
    `tfcompress.callbacks.RecalibrateBatchNorm`. The latents must reach their bounds, for which Adam
    needs about five times its usual learning rate.

    Cost: 1 bit per weight and 32 bits per output; the MACs of the ordinary layer.

    Args:
        scale: True for one trained scale per output channel, which starts at H, or at the
            least-squares scale of a trained kernel. False for the paper's form with every weight
            `+-H`; the layer then needs a normalisation behind it.
        stochastic: whether the signs are drawn in training.
        seed: of these draws, an int or None.
        Others: as in the ordinary layer.

    `from_layer` with a Kronecker metric chooses signs that compensate each other's errors.

    Example:

    >>> import keras, tfcompress as tfc
    >>> layer = tfc.layers.BinaryDense(4, activation="relu")
    >>> layer.build((None, 8))
    >>> layer.bits  # 8 * 4 signs and 4 scales
    160

    Reference: Courbariaux et al., "BinaryConnect: Training Deep Neural Networks with binary weights
    during propagations", 2015; for the scale Rastegari et al., "XNOR-Net: ImageNet Classification
    Using Binary Convolutional Neural Networks", 2016.
    """

    options = ("scale", "stochastic", "seed")
    codes_name = "signs"

    def __init__(
        self,
        *args: Any,
        scale: bool = True,
        stochastic: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if seed is not None:
            check_integer(seed, "seed")
        self.use_scale, self.stochastic, self.seed = bool(scale), bool(stochastic), seed
        if self.stochastic:
            self.seed_generator = keras.random.SeedGenerator(seed)

    @classmethod
    def using(cls, **options: Unpack[BinaryOptions]) -> Maker:
        return super().using(**options)

    def method_options(self) -> Config:
        return {"scale": self.use_scale, "stochastic": self.stochastic, "seed": self.seed}

    def build_kernel(self, shape: Shape) -> None:
        self.limit = math.sqrt(0.75 * self.variance(shape))
        self.latent = self.add_part(
            "latent",
            shape,
            keras.initializers.RandomUniform(-self.limit, self.limit),
            constraint=Clip(self.limit),
        )
        self.scale = self.add_part(
            "scale",
            self.scale_shape(shape) if self.use_scale else (),
            keras.initializers.Constant(self.limit),
            trainable=self.use_scale,
        )

    def grid(self, latent: Tensor, scale: Tensor) -> Tensor:
        if self.stochastic:
            return latent / self.limit
        return ops.where(latent >= 0, 1.0, -1.0)

    def rounded(self, latent: Tensor, scale: Tensor, training: bool | None = None) -> Tensor:
        if self.stochastic and not training:
            return super().rounded(latent, scale)
        positive = self._draw(latent) if self.stochastic else latent >= 0
        return ops.where(positive, scale, -scale)

    def _draw(self, latent):
        """True with the probability `(w / H + 1) / 2`; the latents are within `[-H, H]`.

        Each weight draws one byte. Its threshold lies between two bytes, and one random number for
        all weights decides, in proportion, which of the two counts: no probability is rounded.
        """
        size = math.prod(latent.shape)
        words = (size // 4 + 2,), -(2**31), 2**31 - 1, "int32"  # the last one for all weights
        words = keras.random.randint(*words, seed=self.seed_generator)
        drawn = ops.reshape(ops.view(words, "int8")[:size], latent.shape)
        between = ops.cast(ops.right_shift(words[-1], 8), latent.dtype) / 2**24 - 0.5  # in [-1, 0)
        return ops.cast(drawn, latent.dtype) <= latent * (128 / self.limit) + between

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        if self.stochastic:
            self._fit_mean(w)
        else:
            signs, scale = self._fit_signs(w, metric)
            self.scale.assign(scale)
            self.set_latent(w, signs, scale)

    def binarize(self, metric: Metric = None) -> tuple[np.ndarray, Tensor]:
        """Fixes the signs of a stochastic layer: inference then uses `+-a_o`, 1 bit per weight.

        The signs and scales are those nearest to the real weights, see `fit_kernel`. A layer that
        is not stochastic is binary already and does not change.
        """
        if self.stochastic:
            signs, scale = self._fit_signs(to_numpy(self.kernel), metric)
            self.scale.assign(scale)
            self.latent.assign(signs * self.limit)

    def _fit_mean(self, w):
        """Sets latents whose mean draw is the kernel; a fixed scale clips its largest weights."""
        peak = np.max(np.abs(self.to_rows(w)), 0)
        scale = self.limit
        if self.use_scale:
            scale = np.where(peak > 0, peak, 1).reshape(self.scale.shape)
        self.scale.assign(scale)
        self.latent.assign(np.clip(w / scale, -1, 1) * self.limit)

    def _fit_signs(self, w, metric):
        rows, metric = self.to_rows(w), as_metric(metric, w.shape, self.scale_axes)
        if isinstance(metric, Diagonal):
            metric = Diagonal(self.to_rows(metric.d))
        d = metric.importance(rows.shape)
        total = np.sum(d, 0)
        scale = np.sum(d * np.abs(rows), 0) / np.where(total > 0, total, 1)
        # An output whose curvature is 0 throughout counts its weights the same.
        scale = np.where(total > 0, scale, np.mean(np.abs(rows), 0))
        signs, scale = fit_grid(
            rows,
            lambda u: np.where(u >= 0, np.float32(1), np.float32(-1)),
            scale if self.use_scale else self.limit,
            metric,
            refit=self.use_scale,
        )
        # With a scale of 0 no gradient would ever reach an output whose weights are all 0.
        scale = np.where(scale == 0, LEAST_SCALE * self.limit, scale)
        scale = scale.reshape(self.scale_shape(w.shape)) if self.use_scale else self.limit
        return self.from_rows(signs, w.shape), scale

    def set_latent(self, w: Tensor, grid: Tensor, scale: Tensor) -> None:
        # Away from zero, so that the sign is the wanted one where compensation has turned it.
        size = np.clip(np.abs(w), 1e-3 * self.limit, self.limit)
        self.latent.assign(np.where(grid > 0, size, -size))

    def stored(self) -> dict[str, np.ndarray]:
        """The signs and the scale; the latents in place of signs while some are within bounds."""
        latent = to_numpy(self.latent)
        if not self.stochastic or np.all(np.abs(latent) == np.float32(self.limit)):
            return super().stored()
        return {"latent": latent, "scale": to_numpy(self.scale)}

    def restore(self, stored: dict[str, np.ndarray]) -> None:
        if self.stochastic:
            name = "latent" if "latent" in stored else self.codes_name
            self._check_stored(stored, [name, "scale"])
            unit = 1 if name == "latent" else np.float32(self.limit)
            self.latent.assign(stored[name] * unit)
            self.scale.assign(stored["scale"])
        else:
            super().restore(stored)


@keras.saving.register_keras_serializable("tfcompress")
class BinaryDense(BinaryKernel, CompressedDense):
    __doc__ = "Dense with one bit per weight. " + BinaryKernel.__doc__

    def __init__(
        self,
        units: int,
        *,
        scale: bool = True,
        stochastic: bool = False,
        seed: int | None = None,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(units, scale=scale, stochastic=stochastic, seed=seed, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class BinaryConv1D(BinaryKernel, CompressedConv1D):
    __doc__ = "Conv1D with one bit per weight. " + BinaryKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        scale: bool = True,
        stochastic: bool = False,
        seed: int | None = None,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            scale=scale,
            stochastic=stochastic,
            seed=seed,
            **kwargs,
        )


@keras.saving.register_keras_serializable("tfcompress")
class BinaryConv2D(BinaryKernel, CompressedConv2D):
    __doc__ = "Conv2D with one bit per weight. " + BinaryKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        scale: bool = True,
        stochastic: bool = False,
        seed: int | None = None,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            scale=scale,
            stochastic=stochastic,
            seed=seed,
            **kwargs,
        )
