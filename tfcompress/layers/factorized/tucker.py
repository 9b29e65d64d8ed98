"""A convolution between fewer channels, from a Tucker decomposition of its kernel."""

import math
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import keras
import numpy as np

from tfcompress.layers.core.arguments import ConvArguments
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.factorized.conv_chain import Stage
from tfcompress.layers.factorized.decomposed import DecomposedChain, Decomposition, tucker_parts
from tfcompress.layers.factorized.rank import Ranked
from tfcompress.numerics.low_rank import tucker
from tfcompress.utils.types import Config, Rank, Shape, Size


class TuckerOptions(TypedDict, total=False):
    """The options that `using` takes."""

    rank: Rank | tuple[int, int]
    macs: float
    fit: Decomposition


@keras.saving.register_keras_serializable("tfcompress")
class TuckerConv2D(DecomposedChain):
    """Conv2D as a 1x1 convolution to p channels, a k x k one to q, and a 1x1 one.

        V[h, w, i, o] = sum_pq a[i, p] core[h, w, p, q] b[q, o]

    Cost: `32 (i p + h w p q + o q)` bits; `i p` MACs per input position and `h w p q + q o` per
    output position.

    Args:
        filters, kernel_size, strides, padding, dilation_rate: as in `keras.layers.Conv2D`. No
            groups.
        rank: a pair (p, q) of ints; an int for both; a float in (0, 1), the share of the ordinary
            kernel's parameters, with `p / i = q / o`; or `"auto"` or `"evbmf"`, the channels, each
            chosen as in `LowRankConv2D`. It is saved as the pair.
        macs: instead of `rank`, the share in (0, 1) of the ordinary layer's MACs.
        fit: what decomposes a trained kernel instead: a function of an array `(h, w, i, o)` and the
            ranks `(h, w, p, q)` that returns `(core, factors)`, such as
            `tensorly.decomposition.tucker`; see `tfcompress.interop.tensorly`. It is not saved.
        Others: as in `keras.layers.Conv2D`.

    Shapes: inputs `(b, h, w, i)`, outputs `(b, h', w', o)`.

    `from_layer` decomposes the kernel by higher-order orthogonal iteration; with a metric, the
    factors are then refined in it. A 1x1 convolution becomes a `LowRankConv2D`.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.TuckerConv2D(64, 3, rank=(8, 16))
    >>> layer.build((None, 28, 28, 32))
    >>> layer.bits // 32  # 32 * 8 + 9 * 8 * 16 + 64 * 16
    2432

    Reference: Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power
    Mobile Applications", 2016. There the ranks come from variational Bayesian matrix factorisation:
    `rank="evbmf"`.
    """

    options = ("rank", "macs", "fit")
    expression = "ip,hwpq,qo->hwio"
    unfoldings = ("i", "hwi")

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        rank: Rank | tuple[int, int] | None = None,
        macs: float | None = None,
        fit: Decomposition | None = None,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        method = {"rank": rank, "macs": macs, "fit": fit}
        super().__init__(filters, kernel_size, strides, padding, **method, **kwargs)
        if math.prod(self.kernel_size) == 1:
            raise ValueError(
                "A 1x1 convolution has no core; its kernel is a matrix. Use LowRankConv2D. "
                f"Received: kernel_size={self.kernel_size}"
            )

    @classmethod
    def using(cls, **options: Unpack[TuckerOptions]) -> Maker:
        return super().using(**options)

    @staticmethod
    def check_rank(rank: Any) -> Any:
        if not isinstance(rank, (tuple, list)):
            return Ranked.check_rank(rank)
        pair = tuple(map(Ranked.check_rank, rank))
        if len(pair) != 2 or not all(isinstance(one, int) for one in pair):
            raise ValueError(
                f"`rank` must be a number or a pair of integers. Received: rank={rank!r}"
            )
        return pair

    @classmethod
    def ranks(cls, shape: Shape) -> Any:
        i, o = shape[2:]
        # Both ranks in proportion to the channels, so that one number orders them by cost.
        steps = range(1, max(i, o) + 1)
        return [(max(1, i * k // steps[-1]), max(1, o * k // steps[-1])) for k in steps]

    @classmethod
    def from_unfoldings(cls, ranks: Sequence[int]) -> tuple[int, int]:
        return tuple(ranks)

    @classmethod
    def resolve(cls, shape: Shape, *args: Any, **options: Any) -> Config:
        options = super().resolve(shape, *args, **options)
        if isinstance(options["rank"], int):
            options["rank"] = (options["rank"],) * 2
        return options

    @classmethod
    def part_shapes(cls, shape: Shape, rank: Any) -> dict[str, Shape]:
        (h, w, i, o), (p, q) = shape, rank
        return {"inputs": (i, p), "core": (h, w, p, q), "outputs": (q, o)}

    def decompose(self, w: np.ndarray) -> list[np.ndarray]:
        if self.fit is None:
            inputs, core, outputs = tucker(w, self.rank)
        else:
            found = self.fit(w, [*w.shape[:2], *self.rank])
            inputs, core, outputs = tucker_parts(found, w.shape, self.rank)
        return [inputs, core, outputs.T]

    def stages(self, parts: list[Any]) -> list[Stage]:
        inputs, core, outputs = parts
        return [
            Stage("in", inputs[None, None]),
            Stage("core", core, strides=self.strides, dilation=self.dilation_rate),
            Stage("out", outputs[None, None]),
        ]
