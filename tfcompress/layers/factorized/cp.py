"""A convolution as three small ones, from a CP decomposition of its kernel."""

import math
from typing import Any, TypedDict, Unpack

import keras
import numpy as np

from tfcompress.layers.core.arguments import ConvArguments
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.factorized.conv_chain import Stage
from tfcompress.layers.factorized.decomposed import (
    DecomposedChain,
    Decomposition,
    balanced_cp_factors,
)
from tfcompress.numerics.cp import correct, cp, max_cp_rank
from tfcompress.utils.types import Rank, Shape, Size


class CPOptions(TypedDict, total=False):
    """The options that `using` takes."""

    rank: Rank
    macs: float
    ways: int
    fit: Decomposition


@keras.saving.register_keras_serializable("tfcompress")
class CPConv2D(DecomposedChain):
    """Conv2D as a 1x1, a depthwise k x k and a 1x1 convolution.

        V[h, w, i, o] = sum_r a[h, w, r] b[i, r] c[r, o]

    The inputs are mixed into r channels, each is filtered in space (here are the strides, the
    padding and the dilation), and the r channels are mixed into the outputs.

    Cost: `32 r (h w + i + o)` bits; `r i` MACs per input position and `r (h w + o)` per output
    position.

    Args:
        filters, kernel_size, strides, padding, dilation_rate: as in `keras.layers.Conv2D`. No
            groups. A TensorFlow depthwise convolution needs equal strides in both directions.
        rank: an int of at least 1; a float in (0, 1), the share of the ordinary kernel's
            parameters (at least rank 1); or `"auto"` or `"evbmf"`, the larger of the numbers of
            input and of output channels, each chosen as in `LowRankConv2D`. It is saved as the
            int.
        macs: instead of `rank`, the share in (0, 1) of the ordinary layer's MACs.
        ways: 3, or 4 for the paper's decomposition, in which height and width have factors of
            their own: 1x1, k x 1, 1 x k and 1x1 (with strides the two in the middle run as one
            k x k).
        fit: what decomposes a trained kernel instead: a function of an array `(h w, i, o)` (with
            `ways=4`: `(h, w, i, o)`) and a rank that returns `(weights, factors)`, such as
            `tensorly.decomposition.parafac`; see `tfcompress.interop.tensorly`. It is not saved.
        Others: as in `keras.layers.Conv2D`.

    Shapes: inputs `(b, h, w, i)`, outputs `(b, h', w', o)`.

    `from_layer` decomposes the kernel (alternating least squares, then the error-preserving
    correction); with a metric the factors are then refined in it. A good fit keeps
    components that nearly cancel, so fine-tune with a small learning rate (5e-4 for Adam, not
    5e-3). A 1x1 convolution becomes a `LowRankConv2D`.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.CPConv2D(64, 3, rank=16)
    >>> layer.build((None, 28, 28, 32))
    >>> layer.bits // 32  # 16 * (9 + 32 + 64)
    1680

    Reference: Lebedev et al., "Speeding-up Convolutional Neural Networks Using Fine-tuned
    CP-Decomposition", 2015. There the kernel has four axes; with height and width joined the fit is
    better at the same rank, and faster. Phan et al., "Stable Low-rank Tensor Decomposition for
    Compression of Convolutional Neural Network", 2020, for the correction.
    """

    options = ("rank", "macs", "ways", "fit")
    unfoldings = ("i", "hwi")

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        rank: Rank | None = None,
        macs: float | None = None,
        ways: int = 3,
        fit: Decomposition | None = None,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        method = {"rank": rank, "macs": macs, "fit": fit}
        super().__init__(filters, kernel_size, strides, padding, **method, **kwargs)
        self.ways = ways
        if ways not in (3, 4):
            raise ValueError(f"`ways` must be 3 or 4. Received: ways={ways!r}")
        if math.prod(self.kernel_size) == 1:
            raise ValueError(
                "A 1x1 convolution has no space to factorise; its kernel is a matrix. Use "
                f"LowRankConv2D. Received: kernel_size={self.kernel_size}"
            )
        if len(set(self.strides)) > 1:
            raise ValueError(
                "CPConv2D needs equal strides in both directions, as TensorFlow's depthwise "
                f"convolution does. Received: strides={self.strides}"
            )

    @classmethod
    def using(cls, **options: Unpack[CPOptions]) -> Maker:
        return super().using(**options)

    @property
    def expression(self) -> str:
        return "hwr,ir,ro->hwio" if self.ways == 3 else "hr,wr,ir,ro->hwio"

    @classmethod
    def ranks(cls, shape: Shape, ways: int = 3) -> Any:
        h, w, i, o = shape
        return range(1, max_cp_rank((h * w, i, o) if ways == 3 else shape) + 1)

    @classmethod
    def part_shapes(cls, shape: Shape, rank: Any, ways: int = 3) -> dict[str, Shape]:
        h, w, i, o = shape
        space = {"space": (h, w, rank)}
        if ways == 4:
            space = {"rows": (h, rank), "columns": (w, rank)}
        return space | {"inputs": (i, rank), "outputs": (rank, o)}

    def decompose(self, w: np.ndarray) -> list[np.ndarray]:
        flat = w if self.ways == 4 else w.reshape(-1, *w.shape[2:])
        if self.fit is None:
            factors = correct(flat, cp(flat, self.rank))
        else:
            factors = balanced_cp_factors(self.fit(flat, self.rank), flat.shape, self.rank)
        *space, inputs, outputs = factors
        if self.ways == 3:
            space = [space[0].reshape(*w.shape[:2], -1)]
        return [*space, inputs, outputs.T]

    def stages(self, parts: list[Any]) -> list[Stage]:
        *space, inputs, outputs = parts
        first = Stage("in", inputs[None, None])
        last = Stage("out", outputs[None, None])
        if self.ways == 4 and self.strides == (1, 1):
            rows, columns = space
            d = self.dilation_rate
            return [
                first,
                Stage("rows", rows[:, None, :, None], True, dilation=(d[0], 1)),
                Stage("columns", columns[None, :, :, None], True, dilation=(1, d[1])),
                last,
            ]
        # Two strided depthwise convolutions would need unequal strides, which TensorFlow refuses.
        space = space[0] if self.ways == 3 else space[0][:, None] * space[1][None]
        middle = Stage("space", space[..., None], True, self.strides, self.dilation_rate)
        return [first, middle, last]
