"""A convolution as three small ones, from a CP decomposition of its kernel."""

import math

import keras
from keras import ops

from ..factorize import cp, cp_in_metric, energy_rank, max_cp_rank
from ..metric import as_metric
from .base import glorot_variance, ordinary_layer, positions, to_numpy
from .forms import CompressedConv2D
from .low_rank import check_rank


@keras.saving.register_keras_serializable("tfcompress")
class CPConv2D(CompressedConv2D):
    """Conv2D as a 1x1, a depthwise k x k and a 1x1 convolution.

        V[s, i, o] = sum_r a[s, r] b[i, r] c[o, r]      (s: the h * w kernel positions)

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
    Convolutional Neural Networks Using Fine-tuned CP-Decomposition", 2015. There height and width
    have factors of their own; joined, they fit better at the same rank.
    """

    options = ("rank",)
    takes_groups = False

    def __init__(self, filters, kernel_size, *args, rank, **kwargs):
        super().__init__(filters, kernel_size, *args, **kwargs)
        self.rank = check_rank(rank)
        if math.prod(self.kernel_size) == 1:
            raise ValueError(
                "A 1x1 convolution has no space to factorise; its kernel is a matrix. "
                f"Received: kernel_size={self.kernel_size}"
            )
        if len(set(self.strides)) > 1:
            raise ValueError(
                "CPConv2D needs equal strides in both directions, as TensorFlow's depthwise "
                f"convolution does. Received: strides={self.strides}"
            )

    @classmethod
    def resolve(cls, shape, w=None, metric=None, rank=None):
        h, width, i, o = shape
        if rank == "auto":
            rank = _auto_rank(w)
        elif isinstance(rank, float):
            rank = max(1, int(rank * math.prod(shape) / (h * width + i + o)))
        limit = max_cp_rank((h * width, i, o))
        if rank > limit:
            raise ValueError(
                f"`rank` must be at most {limit}, which represents any kernel of shape {shape} "
                f"exactly. Received: rank={rank}"
            )
        return {"rank": rank}

    def build_kernel(self, shape):
        self.rank = self.resolve(shape, rank=self.rank)["rank"]
        h, w, i, o = shape
        # All factors alike, so that their product has Glorot's variance.
        stddev = (glorot_variance(shape) / self.rank) ** (1 / 6)
        for name, side in (("space", h * w), ("inputs", i), ("outputs", o)):
            normal = keras.initializers.RandomNormal(stddev=stddev)
            self.add_part(name, (side, self.rank), normal)

    @property
    def kernel(self):
        space, inputs, outputs = map(ops.convert_to_tensor, self.parts.values())
        kernel = ops.einsum("sr,ir,or->sio", space, inputs, outputs)
        return ops.reshape(kernel, (*self.kernel_size, inputs.shape[0], self.filters))

    def apply_kernel(self, x, training=None):
        space, inputs, outputs = (
            ops.cast(part, self.compute_dtype) for part in self.parts.values()
        )
        x = ops.matmul(x, inputs)
        x = ops.depthwise_conv(
            x,
            ops.reshape(space, (*self.kernel_size, self.rank, 1)),
            strides=self.strides[0],
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format="channels_last",
        )
        return ops.matmul(x, ops.transpose(outputs))

    def fit_kernel(self, w, metric=None):
        factors = cp(w.reshape(-1, *w.shape[2:]), self.rank)
        if metric is not None:
            factors = cp_in_metric(w, factors, as_metric(metric, w.shape))
        for part, factor in zip(self.parts.values(), factors, strict=True):
            part.assign(factor)

    @property
    def prunable(self):
        return list(self.parts.values())

    def macs(self, input_shape) -> int:
        """Multiply-accumulates per sample."""
        before = positions(input_shape[1:-1])
        after = positions(self.compute_output_shape(input_shape)[1:-1])
        taps = math.prod(self.kernel_size)
        return self.rank * (before * input_shape[-1] + after * (taps + self.filters))

    def to_ordinary(self):
        space, inputs, outputs = (to_numpy(part) for part in self.parts.values())
        point = {"filters": self.rank, "kernel_size": 1}
        filters = {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
        }
        depthwise = keras.layers.DepthwiseConv2D
        return [
            ordinary_layer(self, point, inputs[None, None], name=f"{self.name}_in", last=False),
            ordinary_layer(
                self,
                filters,
                space.reshape(*self.kernel_size, self.rank, 1),
                name=f"{self.name}_space",
                cls=depthwise,
                last=False,
            ),
            ordinary_layer(self, point | {"filters": self.filters}, outputs.T[None, None]),
        ]


def _auto_rank(w):
    if w is None:
        raise ValueError(
            "rank='auto' needs a trained kernel: use `CPConv2D.from_layer`, or give an int or a "
            "share."
        )
    flat = w.reshape(-1, *w.shape[2:])  # (s, i, o)
    inputs = flat.transpose(0, 2, 1).reshape(-1, flat.shape[1])
    return max(energy_rank(inputs), energy_rank(flat.reshape(-1, flat.shape[2])))
