"""Levels that are multiples of one scale per output or per kernel.

Index legend: n fan-in, o outputs, l levels.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.project.base import Projection, as_rows, axes, check_axis, ratio, total
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import Tensor

ROUNDS = 10  # alternations from each start
START_SHARES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2)  # scales, as shares of the largest weight
SMALLEST_SCALE = 1e-30  # w / SMALLEST_SCALE must not overflow in float32
EXACT_UP_TO_LEVELS = 7  # with more, the scales to sort take too much memory


@keras.saving.register_keras_serializable("tfcompress.project")
@dataclasses.dataclass(frozen=True)
class Binary(Projection):
    """Two levels, `-a` and `+a`: the sign of each weight.

        a = sum d |w| / sum d,   v = a if w >= 0 else -a

    Cost: 1 bit per weight and 32 bits per scale; 5 passes over the kernel.

    >>> project = Binary(axis=None)
    >>> np.asarray(project(np.array([[1.0, -2.0], [3.0, 2.0]]))).tolist()
    [[2.0, -2.0], [2.0, 2.0]]

    Args:
        axis: -1 for one scale per output channel (the last axis), None for one per kernel, as in
            the paper.

    Reference: Hou et al., "Loss-aware Binarization of Deep Networks", 2017; with equal `d` it is
    that of Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural
    Networks", 2016.
    """

    axis: int | None = -1

    def __post_init__(self):
        check_axis(self.axis)

    def fit(self, w: Tensor, d: Tensor) -> Tensor:
        mass = total(d, self.axis)
        return ratio(total(d * ops.abs(w), self.axis), mass, ops.zeros_like(mass))

    def refine(self, w: Tensor, d: Tensor, levels: Tensor) -> Tensor:
        return self.fit(w, d)

    def nearest(self, w: Tensor, levels: Tensor) -> Tensor:
        return ops.where(w >= 0, levels, -levels)


class _Scaled(Projection):
    """Levels `-a t`, 0 and `+a t` with a fitted scale `a` and fixed `t`, the largest of them 1.

    A subclass has `axis` and gives `steps` (the increasing `t`) and `code(u)`, the nearest of
    `-t`, 0, `t`.
    """

    def fit(self, w: Tensor, d: Tensor) -> Tensor:
        peak = ops.max(ops.abs(w), axes(w, self.axis), keepdims=True)
        best, least = peak, ops.full_like(peak, np.inf)
        for share in START_SHARES:
            scale = share * peak
            for _ in range(ROUNDS):
                scale = self.refine(w, d, scale)
            damage = total(d * ops.square(w - self.nearest(w, scale)), self.axis)
            best = ops.where(damage < least, scale, best)
            least = ops.minimum(damage, least)
        return best

    def best(self, w: Tensor, d: Tensor) -> Tensor:
        if len(self.steps) > EXACT_UP_TO_LEVELS:
            return self.fit(w, d)
        return self.refine(w, d, _exact_scale(w, d, self.steps, self.axis))

    def refine(self, w: Tensor, d: Tensor, levels: Tensor) -> Tensor:
        """The nearest codes, then their least-squares scale `sum d b w / sum d b^2`."""
        codes = self._codes(w, levels)
        weighted = d * codes
        size = total(weighted * codes, self.axis)
        return ratio(total(weighted * w, self.axis), size, ops.zeros_like(size))

    def nearest(self, w: Tensor, levels: Tensor) -> Tensor:
        return ops.multiply(levels, self._codes(w, levels))

    def _codes(self, w, levels):
        # A scale of 0, which is what codes that are all zero give, has the largest codes: the next
        # alternation starts from the signs.
        return self.code(w / ops.maximum(levels, SMALLEST_SCALE))


@keras.saving.register_keras_serializable("tfcompress.project")
@dataclasses.dataclass(frozen=True)
class Ternary(_Scaled):
    """Three levels, `-a`, 0 and `+a`.

        v = a sign(w) where |w| > a / 2, else 0;   a = sum_kept d |w| / sum_kept d

    A call finds the best `a` exactly: with the weights sorted by size, the kept ones are the first
    k, and `k = argmax (sum d |w|)^2 / sum d`. In training the two formulas are alternated.

    Cost: 2 bits per weight and 32 bits per scale; a call sorts the kernel, an alternation takes 12
    passes over it.

    >>> np.asarray(Ternary(axis=None)(np.array([3.0, 1.0, 0.2, -2.0]))).tolist()
    [2.5, 0.0, 0.0, -2.5]

    Args:
        axis: -1 for one scale per output channel, None for one per kernel.

    Reference: Hou, Kwok, "Loss-aware Weight Quantization of Deep Networks", 2018; with equal `d` it
    is that of Li et al., "Ternary Weight Networks", 2016, solved exactly.
    """

    axis: int | None = -1

    def __post_init__(self):
        check_axis(self.axis)

    @property
    def steps(self) -> Any:
        return [1.0]

    def code(self, u: Tensor) -> Tensor:
        return ops.clip(ops.round(u), -1, 1)


@keras.saving.register_keras_serializable("tfcompress.project")
@dataclasses.dataclass(frozen=True)
class Linear(_Scaled):
    """The `2^bits - 1` levels `a k / n` with `k = -n ... n` and `n = 2^(bits - 1) - 1`.

        b = clip(round(n w / a), -n, n) / n,   a = sum d b w / sum d b^2

    Up to 4 bits a call finds the best `a` exactly, by sorting the scales at which a code changes.
    With more bits it alternates the two formulas from several starts.

    Cost: `bits` per weight and 32 bits per scale; an exact call takes memory for `6 n` numbers per
    weight, an alternation 14 passes over the kernel.

    >>> np.asarray(Linear(3)(np.array([[3.0], [-2.1], [0.9], [0.1]]))).ravel().round(2).tolist()
    [3.02, -2.01, 1.01, 0.0]

    Args:
        bits: from 2 to 8.
        axis: -1 for one scale per output channel, None for one per kernel.

    Reference: Hou, Kwok, "Loss-aware Weight Quantization of Deep Networks", 2018. Its code
    divides by `sum d |b|`, which is not the least-squares scale.
    """

    bits: int
    axis: int | None = -1

    def __post_init__(self):
        check_axis(self.axis)
        whole_number(self.bits, "bits", 2, 8)

    @property
    def steps(self) -> Any:
        n = 2 ** (self.bits - 1) - 1
        return [k / n for k in range(1, n + 1)]

    def code(self, u: Tensor) -> Tensor:
        n = len(self.steps)
        return ops.clip(ops.round(n * u), -n, n) / n


@keras.saving.register_keras_serializable("tfcompress.project")
@dataclasses.dataclass(frozen=True)
class Log(_Scaled):
    """The `2^bits - 1` levels 0 and `+-a 2^-j` with `j = 0 ... n - 1`, `n = 2^(bits - 1) - 1`.

    Fitted as `Linear` is; a code is the nearest level, not the nearest exponent.

    >>> np.asarray(Log(3, axis=None)(np.array([4.0, -2.1, 0.9, 0.1]))).round(2).tolist()
    [4.02, -2.01, 1.0, 0.0]

    Args:
        bits: from 2 to 5; the smallest level of 5 bits is `a / 16384`.
        axis: -1 for one scale per output channel, None for one per kernel.

    Reference: Hou, Kwok, "Loss-aware Weight Quantization of Deep Networks", 2018.
    """

    bits: int
    axis: int | None = -1

    def __post_init__(self):
        check_axis(self.axis)
        whole_number(self.bits, "bits", 2, 5)

    @property
    def steps(self) -> Any:
        n = 2 ** (self.bits - 1) - 1
        return [2.0**-j for j in reversed(range(n))]

    def code(self, u: Tensor) -> Tensor:
        first, *larger = self.steps
        most = min(len(self.steps), 2)
        found = first * ops.clip(ops.round(u / first), -most, most)  # 0, t and 2t: a linear grid
        for step in larger[1:]:
            found = ops.where(ops.abs(u) > 0.75 * step, step * ops.sign(u), found)
        return found


def _exact_scale(w, d, steps, axis):
    """The scale `a` with the least `sum d (w - a b)^2`, where `b` are nearest levels.

    As `a` falls, one code after the other rises by a level. Between two such events the codes are
    fixed, and the best scale gives `sum d w^2 - (sum d b w)^2 / sum d b^2`.
    """
    steps = np.asarray(steps)
    below = np.concatenate([[0], steps[:-1]])

    def spread(values):
        return ops.cast(values.reshape(-1, 1, 1), w.dtype)  # l 1 1

    size, d = as_rows(ops.abs(w), axis), as_rows(d, axis)  # n o
    outputs = size.shape[-1]
    falls = ops.reshape(size / spread((steps + below) / 2), (-1, outputs))  # ln o
    gain = ops.reshape(d * size * spread(steps - below), (-1, outputs))
    cost = ops.reshape(d * spread(steps**2 - below**2), (-1, outputs))
    order = ops.argsort(-falls, axis=0)
    gain, cost = (ops.cumsum(ops.take_along_axis(x, order, 0), 0) for x in (gain, cost))
    scale = ratio(gain, cost, ops.zeros_like(gain))
    best = ops.argmax(gain * scale, axis=0, keepdims=True)
    return ops.reshape(ops.take_along_axis(scale, best, 0), (1,) * (len(w.shape) - 1) + (-1,))
