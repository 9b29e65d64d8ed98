"""Full-integer files: int8 activations with fixed ranges, and exact low-bit kernels."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.export.convert.ranges import measure_ranges, normalized_later
from tfcompress.export.convert.stock import convert, name_inputs_and_outputs
from tfcompress.export.exported import Exported
from tfcompress.export.kernels.kernel import Kernel, channel_axis, find_kernel, kernel_rows
from tfcompress.export.lower.lower import with_chains
from tfcompress.graph.private_keras import layers_in
from tfcompress.layers.discrete.fake_quant import ClipToRange, FakeQuant
from tfcompress.tflite.graph_editor import Graph, per_channel
from tfcompress.tflite.reader import operator_name, read, schema
from tfcompress.tflite.writer import write
from tfcompress.utils.errors import ExportError
from tfcompress.utils.types import Path

EXACT = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")  # get their exact kernels
IO_TYPES = {"float32": tf.float32, "int8": tf.int8}


def clip_ranges(model: keras.Model) -> Any:
    """The model with `FakeQuant` layers that clip without rounding; itself if it has none."""
    clips = {
        layer: [ClipToRange.from_config(layer.get_config())]
        for layer in layers_in(model)
        if type(layer) is FakeQuant
    }
    return with_chains(model, clips) if clips else model


def convert_static(model: Exported, batches: list, io: str) -> Any:
    """A full-integer file, a `ModelT`, with the ranges of `FakeQuant` layers; others are measured.

    The stock converter's calibrator ends the process on loops and on some numbers. So the ranges
    are measured here and written into the float32 file, and the converter only quantizes it. The
    bodies of loops have no ranges and stay in float32.

    Args:
        batches: lists of arrays, one for each input, on which the ranges are measured.
        io: `"float32"` or `"int8"`, the type of the inputs and outputs.

    Raises:
        ExportError: an int8 input cannot hold columns of such different sizes; or the converter
            does not quantize the model.
    """
    file = convert(model)
    outputs = [entry.name.decode() for entry in file.signatureDefs[0].outputs]
    _move_ranges_to_tensors(file)
    graph = Graph(read(write(file)))  # without unused tensors, so indices hold from here on
    measured = measure_ranges(write(graph.model), batches)
    before = normalized_later(graph, measured)
    if before and io == "int8":
        raise ExportError(
            "An input that is normalized has columns of too different sizes for int8 numbers with "
            "one scale. Use `io='float32'`, or normalize before."
        )
    for index in measured.keys() - before:
        if not _has_range(graph.tensors[index]):
            _set_range(graph.tensors[index], *measured[index])
    file = _quantized(graph.model, io)
    file.signatureDefs = []  # the next line keeps the order of inputs and outputs then
    name_inputs_and_outputs(file, model.input_names(), outputs)
    return file


def _quantized(file, io):
    from tensorflow.lite.python.convert import mlir_quantize

    types = {"input_data_type": IO_TYPES[io], "output_data_type": IO_TYPES[io]}
    try:
        return read(mlir_quantize(write(file), **types))
    except Exception as error:  # the converter raises its own and plain ones
        text = str(error).strip()[-400:]
        raise ExportError(f"The stock converter cannot quantize the model: {text}") from error


def _move_ranges_to_tensors(file) -> None:
    """Moves the range of each QUANTIZE, which a `FakeQuant` becomes, to the tensor it reads."""
    graph, same, kept = file.subgraphs[0], {}, []
    for operator in graph.operators:
        code = operator_name(file, operator)
        operator.inputs = [same.get(int(i), int(i)) for i in operator.inputs]
        if code == "QUANTIZE":
            table = graph.tensors[operator.outputs[0]].quantization
            scale, zero = float(table.scale[0]), int(table.zeroPoint[0])
            _set_range(graph.tensors[operator.inputs[0]], -zero * scale, (255 - zero) * scale)
        if code in ("QUANTIZE", "DEQUANTIZE"):
            same[int(operator.outputs[0])] = operator.inputs[0]
        else:
            kept.append(operator)
    graph.operators = kept
    graph.outputs = [same.get(int(i), int(i)) for i in graph.outputs]
    file.signatureDefs = []


def _set_range(tensor, low, high) -> None:
    tensor.quantization = schema().QuantizationParametersT()
    tensor.quantization.min, tensor.quantization.max = [low], [max(high, low + 1e-6)]


def _has_range(tensor) -> bool:
    return tensor.quantization is not None and tensor.quantization.min is not None


def store_exact(file: Any, plain: Path, int2: bool) -> None:
    """Puts the exact integers of each low-bit kernel in place of the converter's rounded ones.

    The converter's scale is the largest weight of a channel over 127, whose multiples are only near
    levels such as 1/7 of that weight. FULLY_CONNECTED takes 2- and 4-bit kernels too, convolutions
    take 8-bit ones alone.
    """
    graph, kernels = Graph(file), _low_bit_kernels(plain)
    for operator in graph.subgraph.operators:
        code = operator_name(file, operator)
        if code not in EXACT or graph.type(operator.inputs[1]) != "INT8":
            continue
        kernel = _matching_kernel(graph, operator, code, kernels)
        if kernel is None:
            continue
        kernel = _with_scales_of_zeros(kernel, graph.tensors[operator.inputs[1]])
        bits = kernel.bits_for(int2) if code == "FULLY_CONNECTED" else 8
        operator.inputs[1] = kernel.add_as_is(graph, bits)
        version = {2: 14, 4: 10, 8: 4}[bits] if code == "FULLY_CONNECTED" else 3
        graph.set_version(operator, code, version)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            operator.inputs[2] = _rescaled_bias(graph, operator, kernel)


def _low_bit_kernels(plain) -> list[Kernel]:
    graph = Graph(read(plain))
    found = [find_kernel(graph, operator, {}) for operator in graph.subgraph.operators]
    return [kernel for kernel in found if kernel is not None and kernel.grid is not None]


def _matching_kernel(graph, operator, code, kernels) -> Kernel | None:
    """The low-bit kernel of which the converter's rounding has made this operator's constant."""
    weight = graph.tensors[operator.inputs[1]]
    values = graph.values(operator.inputs[1])
    if values is None:
        return None
    rows = kernel_rows(values, channel_axis(graph, operator))
    scale = np.broadcast_to(weight.quantization.scale, len(rows))[:, None]
    for kernel in kernels:
        same = kernel.code == code and kernel.shape == values.shape
        if same and np.all(np.abs(kernel.grid.decode() - rows * scale) <= 0.51 * scale):
            return kernel
    return None


def _with_scales_of_zeros(kernel, tensor) -> Kernel:
    """The kernel with the converter's scales for rows of zeros: the delegate refuses a scale of 1.

    The delegate wants the scales of input and kernel together to be like that of the output.
    """
    used = kernel.grid.values.any(axis=1)
    given = np.broadcast_to(tensor.quantization.scale, len(used))
    scale = np.where(used, kernel.grid.scale, given).astype(np.float32)
    return replace(kernel, grid=replace(kernel.grid, scale=scale))


def _rescaled_bias(graph, operator, kernel) -> int:
    """The bias in units of the input scale times the new kernel scales."""
    old = graph.tensors[operator.inputs[2]]
    unit = graph.tensors[operator.inputs[0]].quantization.scale[0] * kernel.grid.scale
    values = graph.values(operator.inputs[2]) * np.float64(old.quantization.scale)
    values = np.rint(values / unit).astype(np.int32)
    return graph.constant(values, f"{kernel.layer}/bias", per_channel(unit))
