"""Which form a kernel takes: the smallest one whose operator is at least as fast as float32.

Measured on x86-64 (Zen 4, AVX512-VNNI), one thread, batch 1, as ratios to the stock float32 file
(see docs/export-benchmark.md for the larger table):

| FULLY_CONNECTED [i, o]   | INT8 | INT4 | INT2 | INT8 digits | INT2 digits |
|---|---|---|---|---|---|
| 2048, 2048               | 7.0  | 9.8  | 5.7  | 3.5 | 2.2 |
| 1024, 1024               | 3.6  | 6.3  | 2.8  | 1.7 | 0.9 |
| 512, 512                 | 4.0  | 5.1  | 2.6  | 1.5 | 0.85 |
| 256, 256                 | 2.3  | 2.6  | 1.6  | 0.94 | 0.6 |
| 128, 64                  | 1.3  | 1.3  | 1.1  | 0.55 | 0.4 |
| 64, 10                   | 0.95 | 1.0  | 0.95 | 0.4 | 0.4 |

| CONV_2D                  | INT8 | INT4 im2col (int8) | INT2 im2col (int8) |
|---|---|---|---|
| 3x3 256-256, 28x28       | 4.3  | 2.7 (3.5)  | 1.35 (1.6) |
| 3x3 64-64, 14x14         | 3.9  | 1.9 (2.8)  | 1.2 (1.4) |
| 3x3 32-32, 14x14         | 3.6  | 1.1 (1.8)  | 0.8 (1.1) |
| 5x5 32-64, 14x14         | 4.1  | 2.0 (2.7)  | 1.2 (1.4) |
| 3x3 3-32, 32x32          | 1.4  | | |
| 3x3 2-32, 28x28          | 1.0  | | |
| 3x3 1-32, 28x28          | 0.57 | | |
| 1x1 256-64, 28x28        | 2.3  | 2.2 | 1.2 |
| 1x1 64-256, 14x14        | 2.4  | 2.0 | 1.1 |
| 1x1 64-64, 14x14         | 1.4  | 1.3 | 0.8 |
| 1x1 32-128, 28x28        | 1.5  | 1.3 | 0.8 |
| 1x1 128-32, 14x14        | 0.96 | 1.3 | 0.8 |
| 1x1 32-32, 14x14         | 0.56 | 0.65 | 0.46 |
| depthwise 3x3 64, 28x28  | 0.23 | | |
| depthwise 5x5 256, 14x14 | 0.5  | | |

INT8 or FLOAT16 that is unpacked when the file is loaded runs at 1.0 everywhere. 4-bit digits are
wrong without the delegate (the builtin INT4 kernel quantizes in its own way).
"""

import math

import numpy as np

from . import forms
from .graph import Graph
from .kernel import Kernel

LEAST = 256  # entries; below 1024 the forms are within 0.05 microseconds of float32
ROW_BYTES = 12  # a float32 scale and an int64 zero point
IM2COL_CHANNELS = 32


def choose(graph: Graph, operator, kernel: Kernel, activations, store, int2):
    """The form of one kernel.

    Args:
        activations: `"int8"` or `"float32"`.
        store: `"fast"` or `"small"`.
        int2: whether the oldest runtime to serve knows INT2.

    Returns:
        `(form, bits)`: a function of `forms` and the bits of the constant; or None: leave it.
    """
    if kernel.size < LEAST:
        return None
    bits = kernel.bits_for(int2)
    if bits == 16:
        choices = [(forms.weight_only, 16)]
    elif kernel.code == "FULLY_CONNECTED":
        plain = graph.shape(operator.outputs[0]).count(-1) <= 1
        choices = _products(kernel, bits, activations, store, plain)
    elif kernel.code == "CONV_2D":
        choices = _convolutions(graph, operator, kernel, bits, activations, store)
    else:
        choices = [(forms.weight_only, 8)]
    sizes = [_size(graph, operator, kernel, *choice) for choice in choices]
    return choices[int(np.argmin(sizes))] if min(sizes) < 4 * kernel.size else None


def _products(kernel, bits, activations, store, plain):
    """`plain`: whether a RESHAPE can give the output its shape, as the digits need."""
    if activations == "int8":
        return [(forms.hybrid, bits)]
    if not plain:
        return [(forms.weight_only, 8)]
    if store == "small":
        return [(forms.digits, 2)] * (bits == 2) + [(forms.weight_only, max(bits, 4))]
    if bits == 2 and kernel.size >= 2**21:
        return [(forms.digits, 2)]
    return [(forms.digits if kernel.size >= 200_000 else forms.weight_only, 8)]


def _convolutions(graph, operator, kernel, bits, activations, store):
    channels, options = graph.shape(operator.inputs[0])[-1], operator.builtinOptions
    grouped = kernel.fan_in != channels * math.prod(kernel.taps)
    if activations == "float32" or grouped:
        return [(forms.weight_only, 8)]
    pointwise, units = math.prod(kernel.taps) == 1, kernel.units
    faster = channels * units >= 26 * (channels + units) if pointwise else channels >= 3
    choices = [(forms.hybrid if faster else forms.weight_only, 8)]
    if store == "small" and bits < 8 and channels >= IM2COL_CHANNELS:
        if pointwise and options.strideH == options.strideW == 1:
            choices.append((forms.pointwise, bits))
        elif graph.static_space(operator):
            choices.append((forms.im2col, bits))
    return choices


def _size(graph, operator, kernel, form, bits) -> float:
    """Bytes of a kernel in a form, the operators around it included."""
    around = {forms.weight_only: 150, forms.digits: 4000, forms.im2col: 1500}.get(form, 0)
    if form is forms.im2col:
        around += 4 * math.prod(graph.shape(operator.outputs[0])[1:3])  # places of the pixels
    scales = 0 if bits == 16 else ROW_BYTES * kernel.units
    return kernel.size * bits / 8 + scales + around
