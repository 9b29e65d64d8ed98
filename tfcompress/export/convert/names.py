"""Names the kernels of a .tflite file by the Keras layers that they belong to."""

from typing import Any

import keras
import numpy as np

from tfcompress.export.kernels.kernel import CHANNEL_AXIS, kernel_rows
from tfcompress.graph.paths import walk
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name
from tfcompress.utils.arrays import to_numpy

TOLERANCE = 5e-3  # more than rounding to 8 bits changes, 1/254
COMPARED_ROWS = 16  # enough to tell kernels of the same shape apart


def name_kernels(file: Any, model: keras.Model) -> None:
    """Renames each constant kernel to `path/kernel` and its bias to `path/bias`.

    A constant belongs to the layer whose kernel it equals up to a factor per output channel.
    Kernels that `put_kernels` has added have their names already.
    """
    layers = {path: layer for path, (layer, _) in walk(model).items() if hasattr(layer, "kernel")}
    graph = Graph(file)
    for operator in graph.subgraph.operators:
        code = operator_name(file, operator)
        named = code in CHANNEL_AXIS and graph.is_lazy(operator.inputs[1])
        rows = None if named else _file_rows(graph, operator, code)
        path = None if rows is None else _path_of_layer(rows, layers)
        if path is not None:
            for index, name in zip(operator.inputs[1:], ("kernel", "bias"), strict=False):
                if index >= 0:
                    graph.tensors[index].name = f"{path}/{name}".encode()


def _path_of_layer(rows, layers) -> str | None:
    for path, layer in layers.items():
        if np.prod(layer.kernel.shape) == rows.size:
            other = layer_rows(layer)  # views as long as that is possible: kernels can be large
            same = other.shape == rows.shape
            if same and np.allclose(
                _scaled_to_peak(rows[:COMPARED_ROWS]),
                _scaled_to_peak(other[:COMPARED_ROWS]),
                atol=TOLERANCE,
            ):
                return path
    return None


def _file_rows(graph, operator, code):
    if code not in CHANNEL_AXIS:
        return None
    values, tensor = graph.values(operator.inputs[1]), graph.tensors[operator.inputs[1]]
    if values is None:
        return None
    rows = kernel_rows(values, code).astype(np.float32, copy=False)
    if tensor.quantization is not None and tensor.quantization.scale is not None:
        rows = rows * np.broadcast_to(tensor.quantization.scale, len(rows))[:, None]
    return rows


def layer_rows(layer: keras.layers.Layer) -> np.ndarray:
    """The kernel of a layer as a matrix with a row per output channel."""
    kernel = to_numpy(layer.kernel)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]).T
    return np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)


def _scaled_to_peak(rows):
    peak = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    return rows / np.where(peak == 0, 1, peak)  # rows of zeros stay zero
