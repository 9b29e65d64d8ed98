"""What binary, ternary and m-bit kernels share: latent weights, a scale, and codes on a grid."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.dense_and_conv import CompressedDense
from tfcompress.layers.core.ordinary import from_rows, to_rows
from tfcompress.numerics.compensated_rounding import by_blocks, compensate
from tfcompress.numerics.metric import Kronecker, as_metric
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Metric, Shape, Tensor

ROUNDS = 6  # of rounding and fitting the scales again, at most
FURTHER, FARTHEST = 3, 1.25  # how many times as far a scale goes as it was fitted; that, at most
SINGLE_PRECISION_FROM = 2**16  # weights: the sums of a larger kernel take too long in double
VERY_LARGE = 2**20  # weights: single precision in any metric
AT_A_TIME = 2**21  # weights, of which copies are made
LEAST_GAIN = 0.01  # share of the damage that a round must take away to go on
ONE_ROUND_ABOVE = 2**23  # weights: on a larger kernel each round takes minutes


class GridKernel(CompressedLayer):
    """A kernel `scale * grid`, where `grid` holds the nearest grid points of latent weights.

    The gradient of the kernel reaches the latents unchanged (the straight-through estimator) and
    the scale as `dL/dscale = sum dL/dkernel * kernel / scale`, which is the same as
    `sum dL/dy * y / scale` over the outputs y. The codes of the grid points and the scale are
    stored; the latents are training state. A method gives `grid(latent, scale)` in `keras.ops` and
    `set_latent(w, grid, scale)`.
    """

    codes_name = "codes"

    @property
    def kernel(self) -> Tensor:
        latent, scale = ops.convert_to_tensor(self.latent), ops.convert_to_tensor(self.scale)
        return scale_through(straight_through(self.rounded(latent, scale), latent), scale)

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        latent, scale = ops.convert_to_tensor(self.latent), ops.convert_to_tensor(self.scale)
        kernel = straight_through(self.rounded(latent, scale, training), latent)
        # The gradient of the scale is cheaper from the outputs of a Dense layer: a batch has fewer
        # of them than the kernel has weights.
        from_outputs = isinstance(self, CompressedDense) and len(x.shape) == 2
        if not from_outputs:
            kernel = scale_through(kernel, scale)
        outputs = self.multiply(x, ops.cast(kernel, self.compute_dtype))
        return scale_through(outputs, scale) if from_outputs else outputs

    def rounded(self, latent: Tensor, scale: Tensor, training: bool | None = None) -> Tensor:
        """The values of the kernel; its gradient is not defined here."""
        return scale * self.grid(latent, scale)

    def encode(self, grid: Tensor) -> np.ndarray:
        """The int8 codes of grid points."""
        return grid.astype("int8")

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The inverse of `encode`, float32."""
        return codes.astype("float32")

    def stored(self) -> dict[str, np.ndarray]:
        latent, scale = to_numpy(self.latent), to_numpy(self.scale)
        everywhere = np.broadcast_to(scale, latent.shape)
        rows = max(1, AT_A_TIME * len(latent) // max(latent.size, 1))
        codes = np.empty(latent.shape, "int8")
        # Part by part, since the backend keeps the memory that it once took.
        for start in range(0, len(latent), rows):
            part = slice(start, start + rows)
            grid = self.grid(ops.convert_to_tensor(latent[part]), everywhere[part])
            codes[part] = self.encode(to_numpy(grid))
        return {self.codes_name: codes, "scale": scale}

    def restore(self, stored: dict[str, np.ndarray]) -> None:
        self._check_stored(stored, [self.codes_name, "scale"])
        grid, scale = self.decode(stored[self.codes_name]), stored["scale"]
        self.scale.assign(scale)
        self.set_latent(grid * np.asarray(scale), grid, scale)

    def scale_shape(self, shape: Shape) -> tuple[int, ...]:
        """The shape of the scale, which broadcasts against a kernel of this shape."""
        axes = [axis % len(shape) for axis in self.scale_axes]
        return tuple(n if i in axes else 1 for i, n in enumerate(shape))[min(axes) :]

    def to_rows(self, w: np.ndarray) -> np.ndarray:
        """The kernel as a matrix with a column for each scale."""
        return to_rows(w, self.scale_axes)

    def from_rows(self, rows: np.ndarray, shape: Shape) -> np.ndarray:
        """The inverse of `to_rows`."""
        return from_rows(rows, shape, self.scale_axes)


def straight_through(kernel: Tensor, latent: Tensor) -> Tensor:
    """The kernel, with a gradient that goes to the latents unchanged.

    A function with a gradient of its own takes fewer passes over the kernel than `stop_gradient`.
    """

    @ops.custom_gradient
    def same(kernel, latent):
        def gradient(*args, upstream=None):
            return ops.zeros_like(kernel), args[0] if upstream is None else upstream

        return kernel, gradient

    return same(ops.stop_gradient(kernel), latent)


def scale_through(values: Tensor, scale: Tensor) -> Tensor:
    """The values, proportional to a scale, whose gradient is `sum dL/dvalue * value / scale`.

    Args:
        values: a kernel, or the outputs that it gives.
        scale: broadcasts against the values.
    """

    @ops.custom_gradient
    def same(values, scale):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            unit = ops.where(ops.equal(scale, 0), ops.ones_like(scale), scale)
            product = ops.cast(upstream, scale.dtype) * ops.cast(values, scale.dtype)
            return upstream, sum_to(product, scale.shape) / unit

        return values, gradient

    return same(values, scale)


def sum_to(x: Tensor, shape: Shape) -> Tensor:
    """Sums over the axes along which an array of this shape would be broadcast to `x`."""
    extra = x.ndim - len(shape)
    axes = [i for i in range(x.ndim) if i < extra or shape[i - extra] == 1]
    return ops.reshape(ops.sum(x, axes), shape)


def fit_grid(
    w: np.ndarray, nearest: Callable[..., Any], scale: Tensor, metric: Metric, refit: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Grid points and scales for which `w - scale * grid` is small in the metric.

    Alternates compensated rounding with the least-squares scale of each output, and keeps for each
    output the best of the rounds. The scale matters as much as the points: on the networks of
    `benchmarks/post_training.py` it takes the accuracy with binary weights from 81% to 88% (MLP)
    and from 73% to 87% (LeNet). Least squares move a scale by little and again and again the same
    way, so the next trial goes three times as far: six such rounds leave less damage than twelve
    plain ones. Kernels that gain little get fewer.

    Args:
        w: kernel `(..., o)`.
        nearest: a function that gives the nearest grid points of an array in units of the scale.
        scale: the scale to begin with, `(o,)` or a number.
        metric: see `CompressedLayer.fit_kernel`.
        refit: whether the scale may change.

    Returns:
        The grid points, float32 like `w`, and the scale, float32.
    """
    metric = as_metric(metric, w.shape)
    sized = w.size if isinstance(metric, Kronecker) else 0
    single = sized >= SINGLE_PRECISION_FROM or w.size >= VERY_LARGE
    w = np.asarray(w, np.float32 if single else np.float64)
    if sized > ONE_ROUND_ABOVE and metric.groups == 1 and metric.g is None:
        return _fit_once(w, nearest, np.broadcast_to(scale, w.shape[-1:]), metric, refit)
    axes = tuple(range(w.ndim - 1))
    toward = metric.apply(w)  # H w
    none = np.sum(w * toward, axes)  # the damage of each output were its weights all zero
    grid, scale, damage = None, np.broadcast_to(scale, w.shape[-1:]).astype(w.dtype), np.inf
    trial = scale
    for _ in range(ROUNDS if refit and sized <= ONE_ROUND_ABOVE else 1):
        trial = np.asarray(trial, np.float32).astype(w.dtype)
        found = _round(w, nearest, trial, metric, no_worse=grid is None)
        gain, size = np.sum(found * toward, axes), np.sum(found * metric.apply(found), axes)
        fitted = trial
        if refit:  # the least-squares scale of these points
            fitted = np.where(size > 0, gain / np.where(size > 0, size, 1), trial)
        # (w - a g)^T H (w - a g) of each output, multiplied out
        left = none - 2 * fitted * gain + fitted**2 * size
        better = left < damage
        grid = found if grid is None else np.where(better, found, grid)
        last, damage = np.sum(damage), np.minimum(left, damage)
        scale = np.where(better, fitted, scale)
        if last - np.sum(damage) < LEAST_GAIN * last < np.inf:
            break
        moved = np.clip(fitted / np.where(trial == 0, 1, trial), 1 / FARTHEST, FARTHEST)
        trial = np.where(better & (trial != 0), trial * moved**FURTHER, scale)
    if refit and not isinstance(metric, Kronecker):  # the nearest points are the best ones
        grid = _round(w, nearest, scale, metric)
    return grid.astype(np.float32), scale.astype(np.float32)


def _fit_once(w, nearest, scale, metric, refit):
    """One round on a very large kernel, block by block, so that little is held beside it."""
    scale = np.asarray(scale, np.float32)
    unit, rows_of_w = np.where(scale == 0, 1, scale), w.reshape(-1, w.shape[-1])
    grid, gain, size = np.empty(rows_of_w.shape, np.float32), 0.0, 0.0
    rounded = by_blocks(w, lambda row, _: scale * nearest(row / unit), metric)
    for (rows, found), block in zip(rounded, metric.blocks, strict=True):
        grid[rows] = np.where(scale == 0, nearest(0 * found[0, :1]), nearest(found[0] / unit))
        moved = block[0].astype(np.float32, copy=False) @ grid[rows]
        gain = gain + np.sum(rows_of_w[rows] * moved, 0)
        size = size + np.sum(grid[rows] * moved, 0)
    if refit:
        scale = np.where(size > 0, gain / np.where(size > 0, size, 1), scale)
    return grid.reshape(w.shape), scale.astype(np.float32)


def _round(w, nearest, scale, metric, no_worse=True):
    """The grid points that `compensate` finds, in units of the scale of each output."""
    unit = np.where(scale == 0, 1, scale)
    grid = compensate(w / unit, lambda row, _: nearest(row), metric, no_worse)
    return np.where(scale == 0, nearest(0 * w[..., :1]), grid).astype(w.dtype, copy=False)
