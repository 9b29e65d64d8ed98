"""Kernels of low rank: the ways to give the rank."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.layers.core.base import CompressedLayer
from tfcompress.numerics.metric import Diagonal, as_metric
from tfcompress.numerics.rank_selection import (
    ENERGY,
    IN_METRIC,
    energy_rank,
    rank_within,
    unfold,
    weakened_rank,
)
from tfcompress.utils.checks import is_share, is_whole
from tfcompress.utils.types import Config, InputShape, Metric, Shape, Tensor

AUTOMATIC = ("auto", "evbmf")


class Ranked(CompressedLayer):
    """A kernel in parts whose sizes are set by a rank.

    A method gives `part_shapes` and `ranks`. An automatic rank is that of the kernel as a matrix
    `(fan_in, o)`; a method that needs that of other matrices gives `unfoldings`, and
    `from_unfoldings` where their ranks make more than one number.

    Args:
        rank: the rank; or a float in (0, 1), the share of the ordinary kernel's parameters (at
            least rank 1); or `"auto"`, the smallest rank that keeps 90% of the sum of squares of
            a trained kernel, or 99% of it in the metric if it is fitted in one; or `"evbmf"`, four
            fifths of the way down from the full rank to that of variational Bayesian matrix
            factorisation (see `numerics.rank_selection`). It is saved as a number.
        macs: instead of `rank`, the share in (0, 1) of the ordinary layer's MACs (at least rank
            1); the input size must be known. The rank is saved.
    """

    options = ("rank", "macs")
    takes_groups = False
    unfoldings = ("hwi",)  # rows of the matrices whose rank counts

    def __init__(
        self, *args: Any, rank: Any = None, macs: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if (rank is None) == (macs is None):
            raise ValueError(
                "Give either `rank` or `macs`, the share of the ordinary layer's MACs. Received: "
                f"rank={rank}, macs={macs}"
            )
        if macs is not None and not is_share(macs):
            raise ValueError(
                "`macs` must be the share of the ordinary layer's MACs in (0, 1), such as 0.25 for "
                f"a quarter. Received: macs={macs!r}"
            )
        self.rank = None if rank is None else self.check_rank(rank)
        self.macs_share = macs

    @classmethod
    def part_shapes(cls, shape: Shape, rank: Any, **form: Any) -> dict[str, tuple[int, ...]]:
        """`{name: shape}` of the parts of a kernel of this shape; `form` are the other options."""
        raise TypeError(f"{cls.__name__} must define `part_shapes`.")

    @classmethod
    def ranks(cls, shape: Shape, **form: Any) -> Any:
        """The ranks that a kernel of this shape can have, in order of rising cost."""
        raise TypeError(f"{cls.__name__} must define `ranks`.")

    @classmethod
    def from_unfoldings(cls, ranks: Sequence[int]) -> Any:
        """The rank, from those of the unfoldings."""
        return max(ranks)

    @staticmethod
    def check_rank(rank: Any) -> Any:
        """The rank as given, if it can be one; `ValueError` otherwise."""
        automatic = isinstance(rank, str) and rank in AUTOMATIC
        if not (is_whole(rank) or is_share(rank) or automatic):
            raise ValueError(
                "`rank` must be an integer of at least 1, a share of the parameters in (0, 1), "
                f"'auto' or 'evbmf'. Received: rank={rank!r}"
            )
        return int(rank) if is_whole(rank) else rank

    @classmethod
    def resolve(
        cls,
        shape: Shape,
        w: Tensor = None,
        metric: Metric = None,
        rank: Any = None,
        macs: float | None = None,
        **form: Any,
    ) -> Config:
        if macs is not None or rank is None:  # `build` knows the input size
            return {"rank": rank, "macs": macs, **form}
        rank = cls.check_rank(rank)
        if isinstance(rank, str):
            if w is None:
                raise ValueError(
                    f"rank='{rank}' needs a trained kernel: use `{cls.__name__}.from_layer`, or "
                    "give a number."
                )
            rank = cls.from_unfoldings([_rank(rank, w, r, metric) for r in cls.unfoldings])
        elif isinstance(rank, float):

            def parameters(rank):
                return sum(map(math.prod, cls.part_shapes(shape, rank, **form).values()))

            rank = rank_within(rank * math.prod(shape), parameters, cls.ranks(shape, **form))
        largest = cls.ranks(shape, **form)[-1]
        if np.any(np.greater(rank, largest)):
            raise ValueError(
                f"`rank` must be at most {largest}, the full rank of a kernel of shape "
                f"{tuple(shape)}. Received: rank={rank}"
            )
        return {"rank": rank, **form}

    def build(self, input_shape: InputShape) -> None:
        shape = self.kernel_shape(input_shape)
        if self.rank is None:  # `macs` was given, and only here is the input size known
            limit = self.macs_share * self.positions(input_shape) * math.prod(shape)
            ranks = self.ranks(shape, **self.form)
            self.rank = rank_within(limit, lambda rank: self.macs_at(input_shape, rank), ranks)
            self.macs_share = None
        self.rank = self.resolve(shape, rank=self.rank, **self.form)["rank"]
        super().build(input_shape)

    def macs(self, input_shape: InputShape) -> int:
        """Multiply-accumulates per sample."""
        return self.macs_at(input_shape, self.rank)

    def macs_at(self, input_shape: InputShape, rank: Any) -> int:
        """Multiply-accumulates per sample at a rank."""
        shapes = self.part_shapes(self.kernel_shape(input_shape), rank, **self.form)
        return self.positions(input_shape) * sum(map(math.prod, shapes.values()))

    @property
    def form(self) -> dict:
        """The method's options beside the rank."""
        return {name: getattr(self, name) for name in self.options if name not in Ranked.options}

    @property
    def prunable(self) -> list[keras.Variable]:
        return list(self.parts.values())

    def method_options(self) -> Config:
        return {"rank": self.rank, "macs": self.macs_share, **self.form}


def _rank(how, w, rows, metric):
    """The rank of a kernel of any layer seen as a matrix with these rows; see `unfold`."""
    shape = (1,) * (4 - w.ndim) + w.shape  # as a convolution's, h w i o
    if metric is not None:
        metric = as_metric(metric, w.shape)
        if isinstance(metric, Diagonal):
            metric = Diagonal(metric.d.reshape(shape))
    matrix = unfold(w.reshape(shape), rows, metric)
    if how == "evbmf":
        return weakened_rank(matrix)
    return energy_rank(matrix, ENERGY if metric is None else IN_METRIC)
