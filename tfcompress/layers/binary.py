"""One bit per weight: BinaryConnect with a scale per output."""

import math

import keras
import numpy as np
from keras import ops

from ..metric import as_metric
from .base import glorot_variance
from .forms import CompressedConv1D, CompressedConv2D, CompressedDense
from .grid import GridKernel, fit_grid


@keras.saving.register_keras_serializable("tfcompress")
class Clip(keras.constraints.Constraint):
    """Keeps weights within `[-limit, limit]`."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, w):
        return ops.clip(w, -self.limit, self.limit)

    def get_config(self):
        return {"limit": self.limit}


class BinaryKernel(GridKernel):
    """Weights `+a_o` and `-a_o`: BinaryConnect, deterministic.

        V = a_o * b,   b = +1 if w >= 0 else -1,   w <- clip(w - step * dL/dV, -H, H)

    `H = sqrt(1.5 / (fan_in + fan_out))` is half of Glorot's limit, and the gradient is not masked
    where the latent is at its bound. The paper (its code) keeps latents within +-1 and scales the
    step by `1 / H` for Adam and `1 / H^2` for SGD; with latents within +-H the same steps are the
    optimizer's plain ones, for both. Signs that are +-H and a trained scale per output replace the
    paper's fixed `+-1`.

    Cost: 1 bit per weight and 32 bits per output; the MACs of the ordinary layer.

    Args:
        scale: True for one trained scale per output channel, which starts at H, or at the
            least-squares scale of a trained kernel. False for the paper's form with every weight
            `+-H`; the layer then needs a normalisation behind it.
        Others: as in the ordinary layer.

    `from_layer` with a Kronecker metric chooses signs that compensate each other's errors.

    Example:

    >>> import keras, tfcompress as tfc
    >>> layer = tfc.layers.BinaryDense(4, activation="relu")
    >>> layer.build((None, 8))
    >>> layer.bits  # 8 * 4 signs and 4 scales
    160

    Reference: M. Courbariaux, Y. Bengio, J.-P. David, "BinaryConnect: Training Deep Neural Networks
    with binary weights during propagations", 2015; the scale is that of M. Rastegari, V. Ordonez,
    J. Redmon, A. Farhadi, "XNOR-Net", 2016.
    """

    options = ("scale",)
    codes_name = "signs"

    def __init__(self, *args, scale=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.use_scale = bool(scale)

    def method_options(self):
        return {"scale": self.use_scale}

    def build_kernel(self, shape):
        self.limit = math.sqrt(0.75 * glorot_variance(shape))
        self.latent = self.add_part(
            "latent",
            shape,
            keras.initializers.RandomUniform(-self.limit, self.limit),
            constraint=Clip(self.limit),
        )
        self.scale = self.add_part(
            "scale",
            shape[-1:] if self.use_scale else (),
            keras.initializers.Constant(self.limit),
            trainable=self.use_scale,
        )

    def codes(self, latent, scale):
        return ops.where(latent >= 0, 1.0, -1.0)

    def fit_kernel(self, w, metric=None):
        d = as_metric(metric, w.shape).diagonal(w.shape)
        axes = tuple(range(w.ndim - 1))
        total = np.sum(d, axes)
        scale = np.sum(d * np.abs(w), axes) / np.where(total > 0, total, 1)
        scale = np.where(total > 0, scale, np.mean(np.abs(w), axes))
        signs, scale = fit_grid(
            w,
            lambda u: np.where(u >= 0, 1, -1),
            scale if self.use_scale else self.limit,
            metric,
            refit=self.use_scale,
        )
        self.scale.assign(scale if self.use_scale else self.limit)
        self.set_latent(w, signs, scale)

    def set_latent(self, w, codes, scale):
        size = np.clip(np.abs(w), 1e-3 * self.limit, self.limit)
        self.latent.assign(np.where(codes > 0, size, -size))


@keras.saving.register_keras_serializable("tfcompress")
class BinaryDense(BinaryKernel, CompressedDense):
    __doc__ = "Dense with one bit per weight. " + BinaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class BinaryConv1D(BinaryKernel, CompressedConv1D):
    __doc__ = "Conv1D with one bit per weight. " + BinaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class BinaryConv2D(BinaryKernel, CompressedConv2D):
    __doc__ = "Conv2D with one bit per weight. " + BinaryKernel.__doc__
