"""Circulant and block-circulant weights, multiplied by FFT."""

import functools
import math
from typing import Any, TypedDict, Unpack

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.arguments import ConvArguments, LayerArguments
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.dense_and_conv import CompressedConv2D, CompressedDense
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.ordinary import glorot_variance
from tfcompress.layers.shared.circular_convolution import circular
from tfcompress.layers.shared.fitting import fit_shared
from tfcompress.numerics.hashing import random_signs
from tfcompress.utils.checks import check_integer, positive_int
from tfcompress.utils.types import InputShape, Metric, Shape, Size, Tensor

# What `FFT_FROM_WEIGHTS` comes from: the time of a training step (Adam, batch 128, one thread of an
# AMD EPYC) by FFT and by the product with the whole kernel, in units of `keras.layers.Dense`.
#
# | i = o, block | FFT  | product |   | i = o, block | FFT | product |
# |---|---|---|---|---|---|---|
# | 64, one      | 1.1  | 1.2     |   | 64, 8        | 2.1 | 1.4     |
# | 256, one     | 1.0  | 1.9     |   | 128, 16      | 2.0 | 1.8     |
# | 1024, one    | 0.40 | 3.0     |   | 192, 32      | 2.0 | 2.1     |
# | 1021, one    | 0.65 | 3.0     |   | 256, 16      | 1.8 | 2.2     |
# | 4096, one    | 0.08 |         |   | 1024, 64     | 0.6 | 3.0     |
FFT_FROM_WEIGHTS = 30_000  # in a kernel of several blocks: smaller ones multiply as fast


class CirculantOptions(TypedDict, total=False):
    """The options that `using` takes."""

    block: int
    signs: bool
    seed: int


class CirculantKernel(CompressedLayer):
    """Weights made of circulant blocks.

        W_qp[i, j] = s_i r_qp[(j - i) mod n]

    One circulant of size `n = max(i, o)`, or blocks of size `block`, the last of which are cut. `s`
    are fixed random signs of the inputs, drawn from the seed; without them a circulant sees only
    the phase differences of its inputs. Only the real weights `r` are stored, in float32.
    """

    options = ("block", "signs", "seed")

    def __init__(
        self, *args: Any, block: int | None = None, signs: bool = True, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.block = None if block is None else positive_int(block, "block")
        self.signs, self.seed = bool(signs), check_integer(seed, "seed")

    @classmethod
    def using(cls, **options: Unpack[CirculantOptions]) -> Maker:
        return super().using(**options)

    def build_kernel(self, shape: Shape) -> None:
        *space, inputs, units = shape
        if self.block is not None and self.block > max(inputs, units):
            raise ValueError(
                f"`block` must be at most {max(inputs, units)}, the longer side of the kernel. "
                f"Received: block={self.block}"
            )
        self.size = self.block or max(inputs, units)
        self.blocks_in, self.blocks_out = (math.ceil(side / self.size) for side in shape[-2:])
        self.inputs = inputs
        self.add_part(
            "circulants",
            (*space, self.blocks_out, self.blocks_in, self.size),
            keras.initializers.RandomNormal(stddev=math.sqrt(glorot_variance(shape))),
        )

    @property
    def derived_bytes(self) -> int:
        return self.inputs

    @functools.cached_property
    def _signs(self) -> np.ndarray:
        """Of the inputs: made again from the seed, never saved."""
        return random_signs(self.inputs, self.seed) if self.signs else np.ones(self.inputs, "int8")

    @property
    def outputs(self) -> int:
        return getattr(self, self.width)

    @property
    def kernel(self) -> Tensor:
        r = ops.convert_to_tensor(self.parts["circulants"])
        (*space, q, p, n), signs = r.shape, ops.cast(self._signs[:, None], r.dtype)
        # Cut into rows of n + 1, a sequence of period n begins one place later in each.
        periodic = ops.tile(ops.reshape(r, (-1, n)), (1, n + 2))[:, 1 : 1 + n * (n + 1)]
        rows = ops.reshape(periodic, (-1, n, n + 1))[..., :n]
        blocks = ops.reshape(ops.flip(rows, 1), (-1, q, p, n, n))  # i, j: r[(j - i) mod n]
        whole = ops.reshape(ops.transpose(blocks, (0, 2, 3, 1, 4)), (*space, p * n, q * n))
        return whole[..., : self.inputs, : self.outputs] * signs

    def _index(self):
        """Where each entry of the kernel is among the stored numbers."""
        n, space = self.size, self.parts["circulants"].shape[:-3]
        i, o = np.arange(self.inputs)[:, None], np.arange(self.outputs)[None, :]
        inside = ((o // n) * self.blocks_in + i // n) * n + (o - i) % n
        first = np.arange(math.prod(space)).reshape(*space, 1, 1)
        return (first * (self.blocks_out * self.blocks_in * n) + inside).astype("int32")

    def codes(self) -> np.ndarray:
        """The place of each weight in `concatenate([r, -r])`, as `(o, *space, i)`."""
        negative = self._signs[:, None] < 0
        count = math.prod(self.parts["circulants"].shape)
        return np.moveaxis(self._index() + np.int32(count) * negative, -1, 0)

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        signs = self._signs[:, None].astype("float64")
        circulants = self.parts["circulants"]
        r = fit_shared(w, self._index(), signs, math.prod(circulants.shape), metric)
        circulants.assign(r.reshape(circulants.shape))


@keras.saving.register_keras_serializable("tfcompress")
class CirculantDense(CirculantKernel, CompressedDense):
    """Dense whose matrix is made of circulant blocks.

        y_q = sum_p C_qp (s * x)_p,   C[j, i] = r[(j - i) mod n],   C x = irfft(rfft(r) rfft(x))

    One circulant of size `n = max(i, o)`, or blocks of size `block`: inputs are padded with zeros
    to whole blocks, and outputs are cut. `s` are fixed random signs, drawn from the seed; without
    them a circulant sees only the phase differences of its inputs. Only the real weights `r` are
    stored, and all is computed in float32.

    The gradient is two more transforms and products of spectra,

        dL/dx = irfft(conj(rfft(r)) rfft(dL/dy)),   dL/dr = irfft(conj(rfft(x)) rfft(dL/dy)),

    so that nothing as large as the kernel is ever in memory. Small layers with several blocks make
    their kernel and multiply with it, which is faster.

    Cost: `32 n` bits for one circulant, else `32 i o / block` (rounded up to whole blocks);
    `(p + q) n log2 n` MACs for the transforms and `4 p q (n / 2 + 1)` for the products.

    Args:
        units: outputs o.
        block: size of the blocks, or None for one circulant.
        signs: whether to multiply the inputs with random signs.
        seed: of the signs.
        Others: as in `keras.layers.Dense`.

    Shapes: inputs `(..., i)`, outputs `(..., o)`.

    `from_layer` takes the mean along each diagonal, weighted by a diagonal metric; with a
    Kronecker metric, the least-squares solution by conjugate gradients.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.CirculantDense(100)
    >>> layer.build((None, 128))
    >>> layer.bits // 32
    128

    Reference: Cheng et al., "An Exploration of Parameter Redundancy in Deep Networks with Circulant
    Projections", 2015; for the blocks Ding et al., "CirCNN: Accelerating and Compressing Deep
    Neural Networks Using Block-Circulant Weight Matrices", 2017.
    """

    def __init__(
        self,
        units: int,
        *,
        block: int | None = None,
        signs: bool = True,
        seed: int = 0,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(units, block=block, signs=signs, seed=seed, **kwargs)

    def by_fft(self) -> bool:
        """Whether it multiplies spectra and not the kernel: see the table above."""
        one = self.blocks_in * self.blocks_out == 1
        return one or self.inputs * self.units >= FFT_FROM_WEIGHTS

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        if not self.by_fft():
            return super().apply_kernel(x, training)
        n, p, q, lead = self.size, self.blocks_in, self.blocks_out, ops.shape(x)[:-1]
        x = ops.cast(x, "float32") * ops.cast(self._signs, "float32")
        x = ops.pad(x, [[0, 0]] * (x.ndim - 1) + [[0, n * p - self.inputs]])
        r = ops.cast(ops.convert_to_tensor(self.parts["circulants"]), "float32")
        y = ops.reshape(circular(ops.reshape(x, (-1, p, n)), r), (*lead, n * q))
        return ops.cast(y[..., : self.units], self.compute_dtype)

    def macs(self, input_shape: InputShape) -> int:
        """Multiply-accumulates per sample, with `n log2 n` for a transform."""
        n, p, q = self.size, self.blocks_in, self.blocks_out
        transforms = (p + q) * n * math.ceil(math.log2(max(n, 2)))
        return math.prod(input_shape[1:-1]) * (transforms + 4 * p * q * (n // 2 + 1))


@keras.saving.register_keras_serializable("tfcompress")
class CirculantConv2D(CirculantKernel, CompressedConv2D):
    """Conv2D whose matrix of channels is made of circulant blocks, for each place of the kernel.

        W[h, w, i, j] = s_i r[h, w, q, p, (j - i) mod n],   i in block p, j in block q

    `s` are fixed random signs of the input channels, drawn from the seed. In each step the kernel
    is made from `r`, which takes `h w i o` operations, few beside those of the convolution, and is
    convolved like any other. So this layer saves memory, not time.

    Cost: `32 h w n` bits for one circulant of size `n = max(i, o)`, else `32 h w i o / block`
    (rounded up to whole blocks); the MACs of the ordinary layer.

    Args:
        filters, kernel_size, ...: as in `keras.layers.Conv2D`.
        block: size of the blocks, or None for one circulant.
        signs: whether to multiply the input channels with random signs.
        seed: of the signs.

    Shapes: inputs `(b, h, w, i)`, outputs `(b, h', w', o)`.

    `from_layer` takes the mean along each diagonal of the channels, weighted by a diagonal metric;
    with a Kronecker metric, the least-squares solution by conjugate gradients.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.CirculantConv2D(64, 3, block=16)
    >>> layer.build((None, 8, 8, 32))
    >>> layer.bits // 32, 3 * 3 * 32 * 64 // 16
    (1152, 1152)

    Reference: Ding et al., "CirCNN: Accelerating and Compressing Deep Neural Networks Using
    Block-Circulant Weight Matrices", 2017. There the convolution runs in the frequency domain, in
    hardware made for it; here it takes the ordinary kernel, which is faster on general processors.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        block: int | None = None,
        signs: bool = True,
        seed: int = 0,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(
            filters, kernel_size, strides, padding, block=block, signs=signs, seed=seed, **kwargs
        )
