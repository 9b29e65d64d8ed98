"""What small networks compute, in float64 and NumPy alone, and how much rounding may change it."""

import math

import keras
import numpy as np
from keras import layers
from numpy.lib.stride_tricks import sliding_window_view

import tfcompress as tfc
from tfcompress.layers.shared.codebook import CodebookKernel
from tfcompress.layers.shared.hashed import HashedKernel

FLOAT32 = 2e-5  # of an output's rms
SIGMAS = 6 / math.sqrt(12)  # six standard deviations of the rounding to a step of 1
ACTIVATIONS = {"linear": lambda y: y, "relu": lambda y: np.maximum(y, 0)}


def outputs_of(model, x):
    """The outputs of a chain of layers; of one with a tied table, multiplied by it at the end."""
    x = x.astype(np.float64)
    chain = tfc.to_ordinary(model).layers
    for layer in chain:
        x = _apply(layer, x)
    tied = [layer for layer in chain if isinstance(layer, layers.ReversibleEmbedding)]
    return x @ _array(tied[0].embeddings).T if tied else x


def limit_of(model, x, exact):
    """The largest error that a file of one layer may have.

    `exact`: whether it computes in float32. Otherwise inputs rounded to int8 are off by up to half
    a step, which adds up to the norm of a row of the kernel; numbers of a codebook or a bank
    rounded to int8 add up to the norm of the inputs.
    """
    limit = FLOAT32 * np.sqrt(np.mean(outputs_of(model, x) ** 2))
    if exact:
        return limit
    (layer,) = (layer for layer in model.layers if hasattr(layer, "kernel"))
    kernel = _array(layer.kernel)
    rows = np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)
    limit += SIGMAS * np.abs(x).max() / 127 * np.linalg.norm(rows, axis=1).max()
    if isinstance(layer, (CodebookKernel, HashedKernel)):
        step = np.abs(rows).max() / 127
        limit += SIGMAS * step * np.abs(x).max() * math.sqrt(rows.shape[1])
    return limit


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def _apply(layer, x):
    if isinstance(layer, layers.InputLayer):
        return x
    if isinstance(layer, tfc.layers.FakeQuant):
        return np.clip(x, layer.low, layer.high)
    if isinstance(layer, layers.Flatten):
        return x.reshape(len(x), -1)
    if isinstance(layer, layers.BatchNormalization):
        gamma, beta, mean, variance = map(np.float64, layer.get_weights())
        return (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
    if isinstance(layer, layers.LSTM):
        return _lstm(layer.cell, x)
    if isinstance(layer, layers.Embedding):
        return _array(layer.embeddings)[x.astype(int)]
    kernel = _array(layer.kernel)
    y = x @ kernel if kernel.ndim == 2 else _convolve(layer, x, kernel)
    y = y if layer.bias is None else y + _array(layer.bias)
    return ACTIVATIONS[layer.activation.__name__](y)


def _lstm(cell, x):
    """The outputs of all steps."""
    kernel, inner, bias = map(_array, (cell.kernel, cell.recurrent_kernel, cell.bias))
    h = c = np.zeros((len(x), cell.units))
    outputs = []
    for step in x.swapaxes(0, 1):
        i, f, g, o = np.split(step @ kernel + h @ inner + bias, 4, 1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, 1)


def _convolve(layer, x, kernel):
    if isinstance(layer, layers.Conv2DTranspose):
        return _transposed(x, kernel, layer.strides[0])
    if kernel.ndim == 5:  # three dimensions, each place once
        windows = sliding_window_view(x, kernel.shape[:3], (1, 2, 3))
        return np.einsum("bdhwituv,tuvio->bdhwo", windows, kernel)
    if kernel.ndim == 3:  # one dimension
        rest = {"strides": (1, *layer.strides), "rates": (1, *layer.dilation_rate)}
        return _convolve_2d(x[:, None], kernel[None], layer, **rest)[:, 0]
    return _convolve_2d(x, kernel, layer, layer.strides, layer.dilation_rate)


def _transposed(x, kernel, stride):
    """Each input adds its multiple of the kernel to a window of the output, without padding."""
    (batch, height, width, _), side = x.shape, kernel.shape[0]
    sizes = [(n - 1) * stride + side for n in (height, width)]
    y = np.zeros((batch, *sizes, kernel.shape[2]))
    for row, column in np.ndindex(height, width):
        top, left = row * stride, column * stride
        added = np.einsum("bi,tuoi->btuo", x[:, row, column], kernel)
        y[:, top : top + side, left : left + side] += added
    return y


def _convolve_2d(x, kernel, layer, strides, rates):
    spans = [(k - 1) * r + 1 for k, r in zip(kernel.shape[:2], rates, strict=True)]
    if layer.padding == "same":
        outs = [-(-n // s) for n, s in zip(x.shape[1:3], strides, strict=True)]
        needs = [
            max((m - 1) * s + k - n, 0)
            for m, s, k, n in zip(outs, strides, spans, x.shape[1:3], strict=True)
        ]
        x = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in needs), (0, 0)])
    windows = sliding_window_view(x, spans, (1, 2))  # b h w i th tw
    windows = windows[:, :: strides[0], :: strides[1], :, :: rates[0], :: rates[1]]
    if isinstance(layer, layers.DepthwiseConv2D):
        y = np.einsum("bhwitu,tuim->bhwim", windows, kernel)
        return y.reshape(*y.shape[:3], -1)
    groups = windows.shape[3] // kernel.shape[2]
    parts = zip(np.split(windows, groups, 3), np.split(kernel, groups, 3), strict=True)
    return np.concatenate([np.einsum("bhwitu,tuio->bhwo", *part) for part in parts], 3)
