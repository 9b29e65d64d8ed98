"""Puts exact low-bit kernels into full-integer files, in place of the converter's rounded ones."""

from dataclasses import replace

import numpy as np

from tfcompress.export.draft import Draft
from tfcompress.export.kernels.kernel import Kernel, channel_axis, find_kernel, kernel_rows
from tfcompress.tflite.graph_editor import Graph, per_channel
from tfcompress.tflite.reader import operator_name
from tfcompress.tflite.runtimes import INT2

EXACT = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")  # get their exact kernels


def store_exact(draft: Draft) -> None:
    """Puts the exact integers of each low-bit kernel in place of the converter's rounded ones.

    The converter's scale is the largest weight of a channel over 127, whose multiples are only near
    levels such as 1/7 of that weight. FULLY_CONNECTED takes 2- and 4-bit kernels too, convolutions
    take 8-bit ones alone. Products of int16 activations keep the converter's kernels.
    """
    if draft.activations != "static_int8":
        return
    graph, kernels = Graph(draft.file), _low_bit_kernels(draft.float32)
    for operator in graph.subgraph.operators:
        code = operator_name(graph.model, operator)
        if code not in EXACT or graph.type(operator.inputs[1]) != "INT8":
            continue
        kernel = _matching_kernel(graph, operator, code, kernels)
        if kernel is None:
            continue
        kernel = _with_scales_of_zeros(kernel, graph.tensors[operator.inputs[1]])
        has_bias = len(operator.inputs) > 2 and operator.inputs[2] >= 0
        if has_bias:
            bias, unit = _real_bias(graph, operator), _input_scale(graph, operator)
            kernel = kernel.beside_bias(bias, unit)
        bits = kernel.bits_for(draft.runtime >= INT2) if code == "FULLY_CONNECTED" else 8
        operator.inputs[1] = kernel.add_as_is(graph, bits)
        version = {2: 14, 4: 10, 8: 4}[bits] if code == "FULLY_CONNECTED" else 3
        graph.set_version(operator, code, version)
        if has_bias:
            scale = unit * kernel.grid.scale
            bias = np.rint(bias / scale).astype(np.int32)
            operator.inputs[2] = graph.constant(bias, f"{kernel.layer}/bias", per_channel(scale))


def _low_bit_kernels(file) -> list[Kernel]:
    graph = Graph(file)
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


def _real_bias(graph, operator) -> np.ndarray:
    scale = graph.tensors[operator.inputs[2]].quantization.scale
    return graph.values(operator.inputs[2]) * np.float64(scale)


def _input_scale(graph, operator) -> np.float32:
    return graph.tensors[operator.inputs[0]].quantization.scale[0]
