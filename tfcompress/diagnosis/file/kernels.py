"""The kernels that a .tflite file holds, as those of the layers that they belong to."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.diagnosis.case import kernel_in
from tfcompress.export.convert.names import BIAS_PLACE
from tfcompress.export.kernels.kernel import channel_axis, kernel_rows, layer_of, weight_place
from tfcompress.measure.rows import as_kernel, fan_in_first
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name
from tfcompress.tflite.taps import constant_scales, real_constant


@dataclass(frozen=True, eq=False)
class FileKernel:
    """The kernel of one layer as the file holds it.

    Attributes:
        layer: of the Keras model.
        values: in the layout of the layer's kernel.
        scales: of integers, that of each entry; 1 of floats.
        bias: of the operator, or None.
        operator: that multiplies by it.
        main: whether it is in the main graph, and not in the body of a loop.
    """

    layer: keras.layers.Layer
    values: np.ndarray
    scales: np.ndarray | float
    bias: np.ndarray | None
    operator: Any
    main: bool

    def change(self, factor: np.ndarray | float = 1.0) -> float:
        """How far it is from the layer's own kernel, as a share of the norm of that.

        Args:
            factor: for each output, by which the file's kernel was multiplied.
        """
        own = kernel_in([self.layer])
        norm = max(float(np.linalg.norm(own)), 1e-30)
        return float(np.linalg.norm(self.values / factor - own)) / norm


def file_kernels(file: Any, layers: dict[str, keras.layers.Layer]) -> dict[str, FileKernel]:
    """The kernels of layers that stand in the file by their names, in the layers' own layouts.

    Args:
        file: a `ModelT`.
        layers: of the Keras model, by path.
    """
    found = {}
    for place in range(len(file.subgraphs)):
        graph = Graph(file, place)
        unpacked = {
            int(operator.outputs[0]): int(operator.inputs[0])
            for operator in graph.subgraph.operators or []
            if _code(graph, operator) == "DEQUANTIZE"
        }
        for operator in graph.subgraph.operators or []:
            axis = channel_axis(graph, operator)
            index = None if axis is None else operator.inputs[weight_place(_code(graph, operator))]
            if index is None or index < 0:
                continue
            index = unpacked.get(index, index)
            path = _path(graph.name(index), layers)
            stored = None if path is None else real_constant(graph, index)
            if stored is None:
                continue
            code, scales = _code(graph, operator), constant_scales(graph, index)
            values = _in_layout(layers[path], stored, axis, code)
            if values is not None:
                scales = 1.0 if scales is None else _in_layout(layers[path], scales, axis, code)
                known = values, scales, _bias(graph, operator)
                found[path] = FileKernel(layers[path], *known, operator, place == 0)
    return found


def _code(graph, operator) -> str:
    return operator_name(graph.model, operator)


def _path(name, layers) -> str | None:
    """The layer that a constant's name means: `"fc/kernel"`, or for a part of a cell its path."""
    return next((path for path in (name, layer_of(name)) if path in layers), None)


def _in_layout(layer, values, axis, code):
    own = kernel_in([layer])
    if own is None or own.size != values.size:  # several constants hold the kernel
        return None
    if code == "GATHER":
        return values.reshape(own.shape)
    shape = fan_in_first(layer, own).shape
    return as_kernel(layer, kernel_rows(values, axis).T.reshape(shape))


def _bias(graph, operator):
    place = BIAS_PLACE.get(_code(graph, operator), len(operator.inputs))
    if place >= len(operator.inputs) or operator.inputs[place] < 0:
        return None
    return real_constant(graph, operator.inputs[place])
