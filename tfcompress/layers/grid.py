"""What binary, ternary and m-bit kernels share: latent weights, a scale, and codes on a grid."""

import numpy as np
from keras import ops

from ..metric import Kronecker, as_metric, compensate
from .base import CompressedLayer, to_numpy

ROUNDS = 12
LARGE = 2**23  # weights; above, a round takes minutes, and there is one


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
    metric = as_metric(metric, w.shape)
    large = isinstance(metric, Kronecker) and w.size > LARGE
    w = np.asarray(w, np.float32 if large else np.float64)
    axes = tuple(range(w.ndim - 1))
    toward = metric.apply(w)  # H w
    none = np.sum(w * toward, axes)
    codes, scale, damage = None, np.broadcast_to(scale, w.shape[-1:]).astype(w.dtype), np.inf
    trial = scale
    for _ in range(ROUNDS if refit and not large else 1):
        trial = np.asarray(trial, np.float32).astype(w.dtype)
        found = _round(w, round_codes, trial, metric)
        gain, size = np.sum(found * toward, axes), np.sum(found * metric.apply(found), axes)
        if refit:
            trial = np.where(size > 0, gain / np.where(size > 0, size, 1), trial)
        left = none - 2 * trial * gain + trial**2 * size
        better = left < damage
        codes = found if codes is None else np.where(better, found, codes)
        scale, damage = np.where(better, trial, scale), np.minimum(left, damage)
    return codes.astype(np.int8), scale.astype(np.float32)


def _round(w, round_codes, scale, metric):
    unit = np.where(scale == 0, 1, scale)
    rounded = compensate(w, lambda row, _: scale * round_codes(row / unit), metric)
    rounded /= unit
    return np.where(scale == 0, round_codes(0 * w[..., :1]), round_codes(rounded)).astype(w.dtype)
