"""m bits per weight on a symmetric linear grid, and its smallest case, ternary."""

import math

import keras
import numpy as np
from keras import ops

from ..metric import as_metric
from .base import glorot_variance
from .forms import CompressedConv1D, CompressedConv2D, CompressedDense
from .grid import GridKernel, fit_grid

SHRINK = np.linspace(0.3, 1.2, 91)  # scales that are tried, in shares of the one that clips nothing


class QuantizedKernel(GridKernel):
    """Weights on `2^bits - 1` levels, a scale per output.

        V = a_o * clip(round(w / a_o), -n, n),   n = 2^(bits - 1) - 1

    `w` are float latents; the gradient of `V` reaches them unchanged, and the scale `a_o` is
    trained too.

    Cost: `bits` per weight and 32 bits per output; the MACs of the ordinary layer.

    Args:
        bits: from 2 (ternary: -a, 0, a) to 8.
        Others: as in the ordinary layer.

    `from_layer` searches the scale with the least error and, with a Kronecker metric, rounds with
    compensation; that needs no training and no labels.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.QuantizedDense(4, bits=3)
    >>> layer.build((None, 8))
    >>> layer.bits  # 8 * 4 codes of 3 bits and 4 scales
    224

    Reference: E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training
    Quantization for Generative Pre-trained Transformers", 2022, for the compensated rounding; here
    rows are taken in order of importance and the scales are re-fitted afterwards.
    """

    options = ("bits",)

    def __init__(self, *args, bits=8, **kwargs):
        super().__init__(*args, **kwargs)
        if isinstance(bits, bool) or bits not in range(2, 9):
            raise ValueError(f"`bits` must be an integer from 2 to 8. Received: bits={bits!r}")
        self.level_bits = int(bits)

    def method_options(self):
        return {"bits": self.level_bits}

    @property
    def levels(self) -> int:
        """The largest code `n = 2^(bits - 1) - 1`."""
        return 2 ** (self.level_bits - 1) - 1

    def build_kernel(self, shape):
        limit = math.sqrt(3 * glorot_variance(shape))
        self.latent = self.add_part(
            "latent", shape, keras.initializers.RandomUniform(-limit, limit)
        )
        self.scale = self.add_part(
            "scale", shape[-1:], keras.initializers.Constant(limit / (self.levels + 0.5))
        )

    def codes(self, latent, scale):
        unit = ops.where(ops.equal(scale, 0), ops.ones_like(scale), scale)
        return ops.clip(ops.round(latent / unit), -self.levels, self.levels)

    def fit_kernel(self, w, metric=None):
        scale = self._search_scale(w, as_metric(metric, w.shape).diagonal(w.shape))
        codes, scale = fit_grid(w, self._round, scale, metric)
        self.scale.assign(scale)
        self.set_latent(w, codes, scale)

    def set_latent(self, w, codes, scale):
        unit = np.where(scale == 0, 1, scale)
        near = np.abs(w / unit - codes) < 0.49
        self.latent.assign(np.where(near, w, scale * codes))

    def _round(self, u):
        return np.clip(np.round(u), -self.levels, self.levels)

    def _search_scale(self, w, d):
        """The scale per output with the least `sum d (w - a codes)^2` among `SHRINK`."""
        axes = tuple(range(w.ndim - 1))
        widest = np.max(np.abs(w), axes) / self.levels
        best, best_error = widest, np.full(w.shape[-1], np.inf)
        for share in SHRINK:
            scale = widest * share
            unit = np.where(scale == 0, 1, scale)
            error = np.sum(d * (w - scale * self._round(w / unit)) ** 2, axes)
            best = np.where(error < best_error, scale, best)
            best_error = np.minimum(error, best_error)
        return best


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedDense(QuantizedKernel, CompressedDense):
    __doc__ = "Dense with m bits per weight. " + QuantizedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedConv1D(QuantizedKernel, CompressedConv1D):
    __doc__ = "Conv1D with m bits per weight. " + QuantizedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedConv2D(QuantizedKernel, CompressedConv2D):
    __doc__ = "Conv2D with m bits per weight. " + QuantizedKernel.__doc__


class TernaryKernel(QuantizedKernel):
    """Weights `-a_o`, 0 and `+a_o`: the m-bit form with two bits.

        V = a_o * clip(round(w / a_o), -1, 1)

    Cost: 2 bits per weight and 32 bits per output; the MACs of the ordinary layer.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.TernaryDense(4)
    >>> layer.build((None, 8))
    >>> layer.bits
    192

    Reference: F. Li, B. Zhang, B. Liu, "Ternary Weight Networks", 2016. There the scale and the
    threshold follow from the latents by a rule; here the scale is searched, then trained, and the
    threshold is half of it.
    """

    options = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, bits=2, **kwargs)

    def method_options(self):
        return {}


@keras.saving.register_keras_serializable("tfcompress")
class TernaryDense(TernaryKernel, CompressedDense):
    __doc__ = "Dense with ternary weights. " + TernaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class TernaryConv1D(TernaryKernel, CompressedConv1D):
    __doc__ = "Conv1D with ternary weights. " + TernaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class TernaryConv2D(TernaryKernel, CompressedConv2D):
    __doc__ = "Conv2D with ternary weights. " + TernaryKernel.__doc__
