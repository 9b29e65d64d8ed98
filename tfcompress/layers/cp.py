"""A convolution as three small ones, from a CP decomposition of its kernel."""

import math

import keras

from ..factorize import cp, energy_rank, max_cp_rank
from .chain import ConvChain, Stage
from .low_rank import check_rank


@keras.saving.register_keras_serializable("tfcompress")
class CPConv2D(ConvChain):
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
            parameters (at least rank 1); or `"auto"`, the larger of the numbers of input and of
            output channels that keep 90% of the energy of a trained kernel. It is saved as the int.
        ways: 3, or 4 for the paper's form, in which height and width have factors of their own:
            1x1, k x 1, 1 x k and 1x1 (with strides the two middle ones run as one k x k).
        Others: as in `keras.layers.Conv2D`.

    Shapes: inputs `(b, h, w, i)`, outputs `(b, h', w', o)`.

    `from_layer` decomposes the kernel (alternating least squares); with a Kronecker metric the
    factors are then refined in it. A good fit keeps components that nearly cancel, so fine-tune
    with a small learning rate (5e-4 for Adam, not 5e-3).

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.CPConv2D(64, 3, rank=16)
    >>> layer.build((None, 28, 28, 32))
    >>> layer.bits // 32  # 16 * (9 + 32 + 64)
    1680

    Reference: V. Lebedev, Y. Ganin, M. Rakhuba, I. Oseledets, V. Lempitsky, "Speeding-up
    Convolutional Neural Networks Using Fine-tuned CP-Decomposition", 2015. There the kernel is
    4-way; with height and width joined it fits better at the same rank, and faster.
    """

    options = ("rank", "ways")

    def __init__(self, filters, kernel_size, *args, rank, ways=3, **kwargs):
        super().__init__(filters, kernel_size, *args, **kwargs)
        self.rank, self.ways = check_rank(rank), ways
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

    @property
    def expression(self):
        return "hwr,ir,ro->hwio" if self.ways == 3 else "hr,wr,ir,ro->hwio"

    @classmethod
    def resolve(cls, shape, w=None, metric=None, rank=None, ways=3):
        h, width, i, o = shape
        sides = (h * width, i, o) if ways == 3 else shape
        if rank == "auto":
            rank = _auto_rank(w)
        elif isinstance(rank, float):
            rank = max(1, int(rank * math.prod(shape) / sum(sides)))
        if rank > max_cp_rank(sides):
            raise ValueError(
                f"`rank` must be at most {max_cp_rank(sides)}, which represents any kernel of "
                f"shape {shape} exactly. Received: rank={rank}"
            )
        return {"rank": rank, "ways": ways}

    def part_shapes(self, shape):
        self.rank = self.resolve(shape, rank=self.rank, ways=self.ways)["rank"]
        h, w, i, o = shape
        space = {"space": (h, w, self.rank)}
        if self.ways == 4:
            space = {"rows": (h, self.rank), "columns": (w, self.rank)}
        return space | {"inputs": (i, self.rank), "outputs": (self.rank, o)}

    def decompose(self, w):
        if self.ways == 4:
            *parts, outputs = cp(w, self.rank)
            return [*parts, outputs.T]
        space, inputs, outputs = cp(w.reshape(-1, *w.shape[2:]), self.rank)
        return [space.reshape(*w.shape[:2], -1), inputs, outputs.T]

    def stages(self, parts):
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
        space = space[0] if self.ways == 3 else space[0][:, None] * space[1][None]
        middle = Stage("space", space[..., None], True, self.strides, self.dilation_rate)
        return [first, middle, last]


def _auto_rank(w):
    if w is None:
        raise ValueError(
            "rank='auto' needs a trained kernel: use `CPConv2D.from_layer`, or give an int or a "
            "share."
        )
    flat = w.reshape(-1, *w.shape[2:])  # (s, i, o)
    inputs = flat.transpose(0, 2, 1).reshape(-1, flat.shape[1])
    return max(energy_rank(inputs), energy_rank(flat.reshape(-1, flat.shape[2])))
