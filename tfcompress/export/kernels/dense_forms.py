"""Forms that store every entry of a low-bit kernel, each as a rewrite of one operator.

Letters in shapes: b batch, i in, o out, h w space, p output pixels, t taps of a filter, d digits.
Each function changes or replaces `operator` and returns the operators to run in its place.
"""

from typing import Any

import numpy as np

from tfcompress.export.kernels.kernel import Kernel, weight_place
from tfcompress.tflite.graph_editor import Graph, Writer, per_channel
from tfcompress.utils.types import Shape

DIGITS = 3
DIGIT_BASE = 254.0  # twice the largest int8 value: what one digit leaves fills the next
RANGE_PINS = [-128, 127, 0, 0]  # four, so that rows of INT2 still fill whole bytes
SMALLEST_SCALE = 1e-30  # an input of zeros is divided by its scale, too


def hybrid(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """Float32 activations that the runtime quantizes to int8 as it runs."""
    weight = operator.inputs[1] = kernel.add_as_is(graph, bits)
    if kernel.code == "FULLY_CONNECTED":
        # The symmetric way is silently wrong on ARM in runtimes before 2.0.3.
        operator.builtinOptions.asymmetricQuantizeInputs = True
        graph.set_version(operator, kernel.code, _product_version(graph, weight))
    else:
        graph.set_version(operator, kernel.code, 5)  # 5: a scale per channel
    return [operator]


def weight_only(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """A kernel that is unpacked once when the file is loaded: exact, at float32 speed."""
    weight, place = kernel.add_as_is(graph, bits), weight_place(kernel.code)
    if (weight, "float32") in graph.added:  # an operator that shares the kernel has unpacked it
        operator.inputs[place] = graph.added[weight, "float32"]
        return [operator]
    unpacked = graph.tensor(graph.shape(weight))
    operator.inputs[place] = graph.added[weight, "float32"] = unpacked
    version = {16: 3, 8: 5, 4: 6}[bits]  # 5: a scale per channel
    return [graph.operator("DEQUANTIZE", [weight], unpacked, version), operator]


def digits(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """FULLY_CONNECTED in int8 arithmetic, to float32 accuracy: the input as three int8 digits.

    `x = s (d0 + d1 / 254 + d2 / 254^2)` with `s = max|x| / 127`, so `W x = s (W d0 + ...)`. A row
    of digits has four more entries, which meet zero weights: -128 and 127 among them make the
    runtime choose the scale 1 and the zero point 0, so that it rounds nothing.
    """
    weight = kernel.add_as_matrix(graph, bits, extra=len(RANGE_PINS))  # o i+4
    units, width = graph.shape(weight)
    write, out = Writer(graph), operator.outputs[0]
    rows, scale = _digit_rows(write, operator.inputs[0], width)
    # INT2 is fastest a row at a time, INT8 with all rows at once (see docs/export-benchmark.md).
    sum_digits = _one_by_one if bits == 2 else _stacked
    y = sum_digits(write, rows, weight, units)
    y = write("MUL", [y, scale], (-1, units))
    y = write.reshape(y, graph.shape(out))
    bias = _bias(operator) if _bias(operator) >= 0 else write.float32(0.0)
    write("ADD", [y, bias], out, fusedActivationFunction=_activation(operator))
    return write.operators


def _digit_rows(write, x, width):
    fan_in, rows = width - len(RANGE_PINS), []
    x = write.reshape(x, (-1, fan_in))
    peak = write("ABS", [x], (-1, fan_in))
    peak = write("REDUCE_MAX", [peak, write.int32([1])], (-1, 1), keepDims=True)
    scale = write("MUL", [peak, write.float32(1 / 127)], (-1, 1))
    scale = write("MAXIMUM", [scale, write.float32(SMALLEST_SCALE)], (-1, 1))
    pins = write(
        "MUL", [scale, write.float32(np.zeros((1, len(RANGE_PINS))))], (-1, len(RANGE_PINS))
    )
    pins = write(
        "ADD", [pins, write.float32(RANGE_PINS)], (-1, len(RANGE_PINS))
    )  # a row per sample
    digit = rest = write("DIV", [x, scale], (-1, fan_in))
    for place in range(DIGITS):
        if place < DIGITS - 1:
            digit = write("ROUND", [rest], (-1, fan_in))
            rest = write("SUB", [rest, digit], (-1, fan_in))
            rest = write("MUL", [rest, write.float32(DIGIT_BASE)], (-1, fan_in))
        rows.append(write("CONCATENATION", [digit, pins], (-1, width), axis=1))
        digit = rest
    return rows, scale


def _one_by_one(write, rows, weight, units):
    *parts, y = [_fully_connected(write, [row, weight, -1], (-1, units)) for row in rows]
    for part in reversed(parts):
        y = write("MUL", [y, write.float32(1 / DIGIT_BASE)], (-1, units))
        y = write("ADD", [y, part], (-1, units))
    return y


def _stacked(write, rows, weight, units):
    width = write.graph.shape(weight)[1]
    rows = write("CONCATENATION", rows, (-1, DIGITS * width), axis=1)
    rows = write.reshape(rows, (-1, width))  # bd i
    y = _fully_connected(write, [rows, weight, -1], (-1, units))
    y = write.reshape(y, (-1, DIGITS, units))
    places = np.reshape(DIGIT_BASE ** -np.arange(DIGITS), (1, DIGITS, 1))
    y = write("MUL", [y, write.float32(places)], (-1, DIGITS, units))
    return write("SUM", [y, write.int32([1])], (-1, units))


def pointwise(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """A 1x1 CONV_2D of stride 1 as FULLY_CONNECTED over the last axis."""
    weight = kernel.add_as_matrix(graph, bits)
    write = Writer(graph)
    inputs = [operator.inputs[0], weight, _bias(operator)]
    activation = _activation(operator)
    _fully_connected(
        write, inputs, operator.outputs[0], keepNumDims=True, fusedActivationFunction=activation
    )
    return write.operators


def im2col(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """CONV_2D as a GATHER of the taps of each output pixel and a FULLY_CONNECTED.

    The runtime quantizes the taps of each pixel to int8.
    """
    weight = kernel.add_as_matrix(graph, bits)  # o ti
    out = operator.outputs[0]
    write = Writer(graph)
    x = _gather_patches(write, operator, operator.inputs[0], kernel.taps)  # bp ti
    inputs, shape = [x, weight, _bias(operator)], (-1, graph.shape(weight)[0])
    y = _fully_connected(write, inputs, shape, fusedActivationFunction=_activation(operator))
    write.reshape(y, graph.shape(out), out)
    return write.operators


def im2col_int8(graph: Graph, operator: Any, kernel: Kernel, bits: int, ranges: Any) -> list:
    """Does what `im2col` does with int8 taps, a quarter of the bytes to gather, and an int8 output.

    `ranges` has the (low, high) of the input and of the output, measured on data.
    """
    kinds = [graph.tensor((1,), "INT8", quantization=affine(*r)) for r in ranges]
    input_scale, units = graph.tensors[kinds[0]].quantization.scale[0], len(kernel.grid.scale)
    bias = np.zeros(units) if _bias(operator) < 0 else graph.values(_bias(operator))
    kernel = kernel.beside_bias(bias, input_scale)
    weight = kernel.add_as_matrix(graph, bits)
    x, out = operator.inputs[0], operator.outputs[0]
    write = Writer(graph)
    x = write("QUANTIZE", [x], graph.shape(x), like=kinds[0])
    x = _gather_patches(write, operator, x, kernel.taps)
    bias_scale = input_scale * kernel.grid.scale
    bias = np.rint(bias / bias_scale.astype(np.float64)).astype(np.int32)
    bias = graph.constant(bias, f"{kernel.layer}/bias", per_channel(bias_scale))
    y = write(
        "FULLY_CONNECTED",
        [x, weight, bias],
        (-1, units),
        version=_product_version(graph, weight, static=True),
        like=kinds[1],
        fusedActivationFunction=_activation(operator),
    )
    y = write("DEQUANTIZE", [y], (-1, units), version=2)
    write.reshape(y, graph.shape(out), out)
    return write.operators


def affine(low: float, high: float) -> Any:
    """The int8 quantization parameters of a range, which is widened to hold zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, SMALLEST_SCALE)
    return per_channel(scale, zero_point=int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def padding(size: Shape, out: Shape, taps: Shape, options: Any) -> list[tuple[int, int]]:
    """The zeros (before, after) along each axis of space, for `same` and `valid` alike."""
    steps = zip(size, out, taps, _strides(options), _rates(options), strict=True)
    needs = [max((m - 1) * s + (k - 1) * r + 1 - n, 0) for n, m, k, s, r in steps]
    return [(need // 2, need - need // 2) for need in needs]


def patch_index(width: int, out: Shape, taps: Shape, options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The places of each output pixel's taps in the padded image, as two parts of a sum.

    The file holds the two parts, `p + t` numbers, and the runtime adds them once to `p t` places.

    Args:
        width: the width of the padded image.
        out: the (h, w) of the output.
        taps: the (h, w) of the filter.

    Returns:
        Two int32 arrays, [p, 1] and [1, t].
    """

    def places(counts, steps):
        rows, columns = (np.arange(n) * step for n, step in zip(counts, steps, strict=True))
        return (rows[:, None] * width + columns).astype(np.int32).ravel()

    return places(out, _strides(options))[:, None], places(taps, _rates(options))[None, :]


def _strides(options):
    return options.strideH, options.strideW


def _rates(options):
    return options.dilationHFactor, options.dilationWFactor


def _gather_patches(write, operator, x, taps):
    graph, source, options = write.graph, x, operator.builtinOptions
    (_, *size, channels), (_, *out, _) = graph.shape(x), graph.shape(operator.outputs[0])
    pads = padding(size, out, taps, options)
    if np.any(pads):
        size = [n + sum(pad) for n, pad in zip(size, pads, strict=True)]
        table = write.int32([(0, 0), *pads, (0, 0)])
        x = write("PAD", [x, table], (-1, *size, channels), version=2, like=source)
    x = write.reshape(x, (-1, size[0] * size[1], channels), like=source)
    first, step = (write.constant(part) for part in patch_index(size[1], out, taps, options))
    shape = graph.shape(first)[0], graph.shape(step)[1]  # p t
    index = write("ADD", [first, step], shape, like=first)
    x = write("GATHER", [x, index], (-1, *shape, channels), version=2, like=source, axis=1)
    return write.reshape(x, (-1, shape[1] * channels), like=source)


def _fully_connected(write, inputs, output, **options):
    version = _product_version(write.graph, inputs[1])
    options["asymmetricQuantizeInputs"] = True
    return write("FULLY_CONNECTED", inputs, output, version, **options)


def _product_version(graph, weight, static=False):
    """The lowest version of FULLY_CONNECTED that knows the type of a kernel."""
    if graph.type(weight) == "INT2":
        return 14
    return 10 if static else 12  # 10: INT4, int8 activations; 12: a scale per channel, float32


def _bias(operator):
    return operator.inputs[2] if len(operator.inputs) > 2 else -1


def _activation(operator):
    return operator.builtinOptions.fusedActivationFunction
