"""What the projections share: the protocol, sums over an output channel, and checks."""

import dataclasses
from typing import Any, Self

import keras
from keras import ops

from tfcompress.utils.types import Config, Tensor


class Config:
    def get_config(self) -> Config:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**config)


class Projection(Config):
    """A projection onto levels that are fitted to the kernel.

    A subclass gives three functions; `levels` is an array of any shape that holds what was fitted
    (a scale per output, a codebook).

    - `fit(w, d)`: good levels, without any to begin with.
    - `refine(w, d, levels)`: better levels by one alternation, after which
      `sum d (w - nearest)^2` is never larger. An optimizer calls it once per step, with the levels
      of the step before.
    - `nearest(w, levels)`: for each weight the nearest level.
    """

    axis = None  # -1 where each output channel has its own levels

    def best(self, w: Tensor, d: Tensor) -> Tensor:
        """The levels that a direct call uses."""
        return self.fit(w, d)

    def __call__(self, w: Tensor, d: Tensor = None) -> Tensor:
        w, d, dtype = working(w, d, self.axis)
        return ops.cast(self.nearest(w, self.best(w, d)), dtype)


def working(w: Tensor, d: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """`w` and `d` in float32 or float64, and the dtype that the result must have.

    Where `d` is 0 for all weights that share a scale, it counts as 1.
    """
    w = ops.convert_to_tensor(w)
    given = keras.backend.standardize_dtype(w.dtype)
    if len(w.shape) == 0:
        raise ValueError(f"Expected a kernel, an array of one axis or more. Received: {w!r}")
    dtype = keras.backend.result_type(given, "float32")  # sums in half precision are too rough
    w = ops.cast(w, dtype)
    d = ops.ones_like(w) if d is None else ops.cast(ops.convert_to_tensor(d), dtype)
    if tuple(d.shape) != tuple(w.shape):
        raise ValueError(
            "The curvature `d` must have the shape of the kernel. "
            f"Received: d of shape {tuple(d.shape)}, w of shape {tuple(w.shape)}"
        )
    return w, ops.where(total(d, axis) > 0, d, 1), given


def axes(w: Tensor, axis: int | None) -> Any:
    return tuple(range(len(w.shape) + (0 if axis is None else -1)))


def total(x: Tensor, axis: Any) -> Tensor:
    return ops.sum(x, axes(x, axis), keepdims=True)


def as_rows(x: Tensor, axis: int | None) -> Tensor:
    return ops.reshape(x, (-1, 1 if axis is None else x.shape[-1]))


def ratio(a: Tensor, b: Tensor, otherwise: Any) -> Tensor:
    return ops.where(b > 0, a / ops.where(b > 0, b, 1), otherwise)


def check_axis(axis: int | None) -> None:
    if axis not in (-1, None):
        raise ValueError(
            "Expected `axis` to be -1 (a scale per output channel) or None (one per kernel). "
            f"Received: axis={axis!r}"
        )
