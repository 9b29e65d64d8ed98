"""Circulant and block-circulant weights, multiplied by FFT."""

import math

import keras
import numpy as np
from keras import ops

from ..hashing import random_signs
from .forms import CompressedDense, positive_int
from .ordinary import glorot_variance
from .sharing import fit_shared


@keras.saving.register_keras_serializable("tfcompress")
class CirculantDense(CompressedDense):
    """Dense whose matrix is made of circulant blocks.

        y_q = sum_p C_qp (s * x)_p,   C[j, i] = r[(j - i) mod n],   C x = irfft(rfft(r) rfft(x))

    One circulant of size `n = max(i, o)`, or blocks of size `block`: inputs are padded with zeros
    to whole blocks and outputs cut. `s` are fixed random signs from the seed; without them a
    circulant sees only the phase differences of its inputs. All in float32, real weights only.

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

    Reference: Y. Cheng, F. X. Yu, R. S. Feris, S. Kumar, A. Choudhary, S.-F. Chang, "An Exploration
    of Parameter Redundancy in Deep Networks with Circulant Projections", 2015; blocks: C. Ding et
    al., "CirCNN", 2017.
    """

    options = ("block", "signs", "seed")

    def __init__(self, units, block=None, signs=True, seed=0, **kwargs):
        super().__init__(units, **kwargs)
        self.block = None if block is None else positive_int(block, "block")
        self.signs, self.seed = bool(signs), int(seed)

    def build_kernel(self, shape):
        if self.block is not None and self.block > max(shape):
            raise ValueError(
                f"`block` must be at most {max(shape)}, the longer side of the kernel. "
                f"Received: block={self.block}"
            )
        self.size = self.block or max(shape)
        self.blocks_in, self.blocks_out = (math.ceil(side / self.size) for side in shape)
        self.inputs = shape[0]
        signs = random_signs(shape[0], self.seed) if self.signs else np.ones(shape[0], "int8")
        object.__setattr__(self, "_signs", signs)  # made again from the seed, never saved
        self.add_part(
            "circulants",
            (self.blocks_out, self.blocks_in, self.size),
            keras.initializers.RandomNormal(stddev=math.sqrt(glorot_variance(shape))),
        )

    @property
    def kernel(self):
        flat = ops.reshape(ops.convert_to_tensor(self.parts["circulants"]), [-1])
        signs = ops.cast(self._signs[:, None], flat.dtype)
        return signs * ops.take(flat, self._index())

    def _index(self):
        """Where each entry `(i, o)` of the kernel is among the stored numbers."""
        i, o = np.arange(self.inputs)[:, None], np.arange(self.units)[None, :]
        block = (o // self.size) * self.blocks_in + i // self.size
        return (block * self.size + (o - i) % self.size).astype("int32")

    def apply_kernel(self, x, training=None):
        n, p, q, lead = self.size, self.blocks_in, self.blocks_out, ops.shape(x)[:-1]
        x = ops.cast(x, "float32") * ops.cast(self._signs, "float32")
        x = ops.pad(x, [[0, 0]] * (x.ndim - 1) + [[0, n * p - self.inputs]])
        x_re, x_im = ops.rfft(ops.reshape(x, (-1, p, n)), fft_length=n)  # (b, p, f)
        r = ops.cast(ops.convert_to_tensor(self.parts["circulants"]), "float32")
        r_re, r_im = ops.rfft(r, fft_length=n)  # (q, p, f)

        def product(a, b):
            if p * q == 1:
                return a * b
            return ops.einsum("bpf,qpf->bqf", a, b)

        y_re = product(x_re, r_re) - product(x_im, r_im)
        y_im = product(x_re, r_im) + product(x_im, r_re)
        y = ops.reshape(ops.irfft((y_re, y_im), fft_length=n), (*lead, n * q))
        return ops.cast(y[..., : self.units], self.compute_dtype)

    def fit_kernel(self, w, metric=None):
        signs = self._signs[:, None].astype("float64")
        circulants = self.parts["circulants"]
        r = fit_shared(w, self._index(), signs, math.prod(circulants.shape), metric)
        circulants.assign(r.reshape(circulants.shape))

    def macs(self, input_shape) -> int:
        """Multiply-accumulates per sample, with `n log2 n` for a transform."""
        n, p, q = self.size, self.blocks_in, self.blocks_out
        transforms = (p + q) * n * math.ceil(math.log2(max(n, 2)))
        return math.prod(input_shape[1:-1]) * (transforms + 4 * p * q * (n // 2 + 1))
