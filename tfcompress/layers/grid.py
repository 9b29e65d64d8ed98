"""What binary, ternary and m-bit kernels share: latent weights, a scale, and codes on a grid."""

import numpy as np
from keras import ops

from ..metric import Kronecker, as_metric, compensate
from .base import CompressedLayer, to_numpy

ROUNDS = 12
LARGE = 2**23  # weights; above, a round takes a minute and more


class GridKernel(CompressedLayer):
    """A kernel `scale_o * codes`, where the codes are the nearest grid points of latent weights.

    The gradient of the kernel goes to the latents unchanged (straight through) and to the scale.
    Stored are the codes and the scale; the latents are training state. A method gives
    `codes(latent, scale)` in `keras.ops` and `set_latent(w, codes, scale)`.
    """

    codes_name = "codes"

    @property
    def kernel(self):
        latent, scale = ops.convert_to_tensor(self.latent), ops.convert_to_tensor(self.scale)
        codes = ops.stop_gradient(self.codes(latent, scale))
        # The second term is exactly 0: the kernel is on the grid in every bit.
        return scale * codes + (latent - ops.stop_gradient(latent))

    def stored(self):
        codes = to_numpy(self.codes(ops.convert_to_tensor(self.latent), self.scale.value))
        return {self.codes_name: codes.astype("int8"), "scale": to_numpy(self.scale)}

    def restore(self, stored):
        self._check_stored(stored, [self.codes_name, "scale"])
        codes, scale = stored[self.codes_name], stored["scale"]
        self.scale.assign(scale)
        self.set_latent(codes * np.asarray(scale), codes, scale)


def fit_grid(w, round_codes, scale, metric, refit=True):
    """Codes and scales for which `w - scale * codes` is small in the metric.

    Alternates compensated rounding (`tfcompress.metric.compensate`) with the least-squares scale of
    each output, and keeps the best of the rounds for each output. The scale matters as much as the
    codes: on the networks of `benchmarks/post_training.py` twelve rounds take binary weights from
    81% to 88% (MLP) and from 73% to 87% (LeNet).

    Args:
        w: kernel `(..., o)`.
        round_codes: gives the nearest codes of an array in units of the scale.
        scale: first scale, `(o,)` or a number.
        metric: see `CompressedLayer.fit_kernel`.
        refit: whether the scale may change.

    Returns:
        codes, int8 like `w`, and the scale, float32.
    """
    w, metric = np.asarray(w, np.float64), as_metric(metric, w.shape)
    rounds = 1
    if refit:
        rounds = 2 if isinstance(metric, Kronecker) and w.size > LARGE else ROUNDS
    best = (None, None, np.inf)
    for _ in range(rounds):
        scale = np.broadcast_to(np.asarray(scale, np.float32).astype(np.float64), w.shape[-1:])
        unit = np.where(scale == 0, 1.0, scale)
        rounded = compensate(
            w, lambda row, i, s=scale, u=unit: s * round_codes(row / u), metric, sweeps=0
        )
        codes = np.where(scale == 0, round_codes(0 * w), round_codes(rounded / unit))
        if refit:
            scale = least_squares_scale(w, codes, metric, scale)
        error = w - scale * codes
        damage = np.sum(error * metric.apply(error), tuple(range(w.ndim - 1)))
        better = damage < best[2]
        best = tuple(
            new if old is None else np.where(better, new, old)
            for new, old in zip((codes, scale, damage), best, strict=True)
        )
    return best[0].astype(np.int8), best[1].astype(np.float32)


def least_squares_scale(w, codes, metric, otherwise):
    """The scale per output that is best for given codes: `<b, H w> / <b, H b>`."""
    axes = tuple(range(w.ndim - 1))
    weighted = metric.apply(codes)
    below = np.sum(codes * weighted, axes)
    return np.where(
        below > 0, np.sum(w * weighted, axes) / np.where(below > 0, below, 1), otherwise
    )
