"""Circular convolutions along the last axis by FFT, and their gradient.

Index legend: b batch, q blocks of outputs, p blocks of inputs, f frequency. A spectrum is a pair of
real arrays, the real and the imaginary part.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from tfcompress.utils.types import Tensor


def circular(x: Tensor, r: Tensor) -> Tensor:
    """`y[b, q] = sum_p r[q, p] (*) x[b, p]`, circular convolutions along the last axis.

    Forward and backward take three transforms each: those of the operands are kept.
    """
    n, one = x.shape[-1], x.shape[1] * r.shape[0] == 1

    def transform(a):
        return ops.rfft(a, fft_length=n)

    def back(a):
        return ops.irfft(a, fft_length=n)

    @ops.custom_gradient
    def convolve(x, r):
        x_f, r_f = transform(x), transform(r)
        multiply = multiply_one if one else multiply_blocks
        y_f, backward = multiply(x_f, r_f)

        def gradient(*args, upstream=None):
            to_x, to_r = backward(transform(args[0] if upstream is None else upstream))
            return back(to_x), back(to_r)

        return back(y_f), gradient

    return convolve(x, r)


def multiply_one(x: Tensor, r: Tensor) -> tuple[Any, Callable[..., Any]]:
    """Products of the spectra `(b, 1, f)` and `(1, 1, f)`, and the gradient for both."""

    def backward(y):
        to_r = complex_product(y, (x[0], -x[1]))
        return complex_product(y, (r[0], -r[1])), [ops.sum(a, 0, keepdims=True) for a in to_r]

    return complex_product(x, r), backward


def complex_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def multiply_blocks(x: Tensor, r: Tensor) -> tuple[Any, Callable[..., Any]]:
    """The same for `(b, p, f)` and `(q, p, f)`, as one real matrix product for each frequency."""
    p, q = r[0].shape[1], r[0].shape[0]
    x = ops.concatenate([ops.transpose(a, (2, 0, 1)) for a in x], 2)  # f b 2p
    re, im = (ops.transpose(a, (2, 1, 0)) for a in r)  # f p q
    r = ops.concatenate([ops.concatenate([re, im], 2), ops.concatenate([-im, re], 2)], 1)

    def split(a, size):
        return ops.transpose(a[..., :size], (1, 2, 0)), ops.transpose(a[..., size:], (1, 2, 0))

    def backward(y):
        y = ops.concatenate([ops.transpose(a, (2, 0, 1)) for a in y], 2)  # f b 2q
        to_r = ops.einsum("fbp,fbq->fqp", x, y)
        to_re = to_r[:, :q, :p] + to_r[:, q:, p:]
        to_im = to_r[:, q:, :p] - to_r[:, :q, p:]
        to_r = [ops.transpose(a, (1, 2, 0)) for a in (to_re, to_im)]
        return split(ops.einsum("fbq,fpq->fbp", y, r), p), to_r

    return split(ops.matmul(x, r), q), backward
