"""Fourier transforms and circular convolutions in operators of LiteRT on real numbers.

Index legend: b batch, n size of a circulant, p and q blocks in and out, f frequencies, k and l the
two digits of a frequency.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from tfcompress.utils.types import Tensor


class Rfft:
    """The real Fourier transform of rows [b, n] to [b, 2, f] and back, by RFFT2D.

    The way back gives `cas(rfft(h))` of the Hartley transform `h`; the spectrum holds `1 / n`.
    """

    def __init__(self, n: int) -> None:
        self.n, self.constants = n, {}

    def forward(self, x: Tensor) -> Tensor:
        return ops.concatenate(self._parts(self._rfft(x)), axis=1)

    def inverse(self, z: Tensor) -> Tensor:
        return self._back(z[:, :1], z[:, 1:])

    def multiply(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """Rows [b, n] convolved with the row that has this spectrum."""
        return self._back(*self._parts(self._rfft(x) * spectrum))

    def spectrum(self, r: Tensor) -> Tensor:
        return np.fft.rfft(r) / self.n

    def _back(self, re, im):
        h = self._rfft(self._cas(re, im))
        return ops.reshape(self._cas(*self._parts(h)), (-1, self.n))

    def _rfft(self, x):
        return tf.signal.rfft2d(ops.reshape(x, (-1, 1, self.n)), [1, self.n])

    def _parts(self, z):
        return tf.math.real(z), tf.math.imag(z)

    def _cas(self, re, im):
        mirrored = (re + im)[..., 1 : self.n // 2]
        return ops.concatenate([re - im, ops.flip(mirrored, axis=-1)], axis=-1)


class Dft:
    """What `Rfft` computes, as one product with cosines and sines; `n` may be any size."""

    def __init__(self, n: int) -> None:
        f = n // 2 + 1
        self.n, self.f = n, f
        angle = 2 * np.pi * np.outer(np.arange(n), np.arange(f)) / n
        twice = np.where((np.arange(f) == 0) | (2 * np.arange(f) == n), 1.0, 2.0)
        self.constants = {
            "cosines": _float32(np.cos(angle), -np.sin(angle)),
            "inverse": _float32(np.cos(angle) * twice, -np.sin(angle) * twice).T,
        }

    def forward(self, x: Tensor) -> Tensor:
        return ops.reshape(ops.matmul(x, self.constants["cosines"]), (-1, 2, self.f))

    def inverse(self, z: Tensor) -> Tensor:
        return ops.matmul(ops.reshape(z, (-1, 2 * self.f)), self.constants["inverse"])

    def spectrum(self, r: Tensor) -> Tensor:
        return np.fft.rfft(r) / self.n


class OneByRfft:
    """One circulant with the first column `r`, whose size is a power of two."""

    def __init__(self, r: Tensor) -> None:
        self.inputs, self.transform = len(r), Rfft(len(r))
        spectrum = self.transform.spectrum(r).reshape(1, 1, -1)
        self.constants = {"spectrum": spectrum.astype(np.complex64)}

    def __call__(self, x: Tensor) -> Tensor:
        return self.transform.multiply(x, self.constants["spectrum"])


class Blocks:
    """Circulant blocks: a transform of each block, a product for each frequency, and back.

    Args:
        r: the first columns of the blocks [q, p, n].
        transform: of size n.
    """

    def __init__(self, r: Tensor, transform: Any) -> None:
        self.q, self.p, n = r.shape
        self.inputs, self.transform = self.p * n, transform
        spectrum = np.transpose(transform.spectrum(r), (2, 1, 0))  # f p q
        self.constants = transform.constants | {
            "spectrum/real": spectrum.real.astype(np.float32),
            "spectrum/imaginary": spectrum.imag.astype(np.float32),
        }

    def __call__(self, x: Tensor) -> Tensor:
        q, n = self.q, self.transform.n
        z = self.transform.forward(ops.reshape(x, (-1, n)))  # bp 2 f
        y = self.transform.inverse(self._mix(z))
        return ops.reshape(y, (-1, q * n))

    def _mix(self, z):
        p, q, f = self.p, self.q, z.shape[-1]
        z = ops.reshape(ops.transpose(ops.reshape(z, (-1, p, 2, f)), (3, 0, 2, 1)), (f, -1, p))
        re, im = (
            ops.reshape(ops.matmul(z, self.constants[f"spectrum/{part}"]), (f, -1, 2, q))
            for part in ("real", "imaginary")
        )
        parts = [re[:, :, :1] - im[:, :, 1:], re[:, :, 1:] + im[:, :, :1]]
        return ops.reshape(ops.transpose(ops.concatenate(parts, axis=2), (1, 3, 2, 0)), (-1, 2, f))


class TwoStage:
    """One circulant by two stages (Cooley and Tukey, 1965), each a product with a small matrix.

    Place `i = n2 i1 + i2` and frequency `f = k + n1 l`: a transform over i1 gives k, a factor
    `exp(-2 pi i i2 k / n)` turns it, a transform over i2 gives l. The inputs are real, so the k up
    to `n1 / 2` determine the others.
    """

    def __init__(self, r: Tensor) -> None:
        n = self.inputs = len(r)
        self.n1 = 1 << ((n.bit_length() - 1) // 2)
        self.n2, self.half = n // self.n1, self.n1 // 2 + 1
        k, i1, i2 = np.arange(self.half), np.arange(self.n1), np.arange(self.n2)
        first = np.exp(-2j * np.pi * np.outer(i1, k) / self.n1)
        second = np.exp(-2j * np.pi * np.outer(i2, i2) / self.n2)
        turn = np.exp(-2j * np.pi * np.outer(k, i2) / n)
        spectrum = (np.fft.fft(r) / n).reshape(self.n2, self.n1).T[: self.half]  # k l
        twice = np.where((k == 0) | (2 * k == self.n1), 1.0, 2.0)
        self.constants = {
            "first": _float32(first.real, first.imag),  # i1 2k
            "second": _complex_matrix(second),  # 2 i2, 2 l
            "back": _complex_matrix(second.conj()),
            "last": _float32(first.real * twice, first.imag * twice).T,  # 2k i1
            "turn/real": turn.real.astype(np.float32),
            "turn/imaginary": turn.imag.astype(np.float32),
            "spectrum/real": spectrum.real.astype(np.float32),
            "spectrum/imaginary": spectrum.imag.astype(np.float32),
        }

    def __call__(self, x: Tensor) -> Tensor:
        n1, n2, half, c = self.n1, self.n2, self.half, self.constants
        turn, spectrum = ((c[f"{s}/real"], c[f"{s}/imaginary"]) for s in ("turn", "spectrum"))
        x = ops.transpose(ops.reshape(x, (-1, n1, n2)), (0, 2, 1))  # b i2 i1
        z = ops.transpose(_product(x, c["first"]), (0, 2, 1))  # b 2k i2
        re, im = _multiply(z[:, :half], z[:, half:], *turn)
        z = _product(ops.concatenate([re, im], axis=2), c["second"])  # b k 2l
        re, im = _multiply(z[..., :n2], z[..., n2:], *spectrum)
        z = _product(ops.concatenate([re, im], axis=2), c["back"])  # b k 2i2
        re, im = _multiply(z[..., :n2], z[..., n2:], turn[0], turn[1], conjugate=True)
        z = ops.transpose(ops.concatenate([re, im], axis=1), (0, 2, 1))  # b i2 2k
        y = ops.transpose(_product(z, c["last"]), (0, 2, 1))  # b i1 i2
        return ops.reshape(y, (-1, n1 * n2))


def _float32(real, imaginary):
    return np.concatenate([real, imaginary], axis=1).astype(np.float32)


def _complex_matrix(m):
    """The real matrix that maps rows (re, im) to the (re, im) of their product with `m`."""
    return np.block([[m.real, m.imag], [-m.imag, m.real]]).astype(np.float32)


def _product(x, matrix):
    _, rows, width = x.shape
    return ops.reshape(ops.matmul(ops.reshape(x, (-1, width)), matrix), (-1, rows, matrix.shape[1]))


def _multiply(re, im, other_re, other_im, conjugate=False):
    """The product of complex numbers; `conjugate` takes the conjugate of the second factor."""
    a, b, c, d = re * other_re, im * other_im, re * other_im, im * other_re
    return (a + b, d - c) if conjugate else (a - b, d + c)
