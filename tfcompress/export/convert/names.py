"""Names the kernels of a .tflite file by the Keras layers that they belong to."""

import math
from collections.abc import Iterator

import keras
import numpy as np

from tfcompress.export.draft import Draft
from tfcompress.export.kernels.kernel import channel_axis, kernel_rows, weight_place
from tfcompress.graph.chain import unchained
from tfcompress.measure.macs import matrices
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name
from tfcompress.utils.arrays import to_numpy

TOLERANCE = 5e-3  # more than rounding to 8 bits changes, 1/254
COMPARED_ROWS = 16  # enough to tell kernels of the same shape apart
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
BIAS_PLACE = {
    **{"FULLY_CONNECTED": 2, "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2},
    **{"CONV_3D": 2, "TRANSPOSE_CONV": 3},
}


def name_kernels(draft: Draft) -> None:
    """Renames each constant kernel to `path/kernel` and its bias to `path/bias`.

    A constant belongs to the layer one of whose weights it equals up to a factor per output
    channel; it gets the name of that weight, which is `kernel` for most layers. Kernels that
    `put_kernels` has added have their names already.
    """
    weights = {
        f"{path}/{variable.name}": (layer, variable)
        for path, layer in unchained(draft.lowered).items()
        for variable in matrices(layer)
    }
    for index in range(len(draft.file.subgraphs)):
        graph = Graph(draft.file, index)
        for operator in graph.subgraph.operators or []:
            _name_kernel(graph, operator, weights)


def drop_names(draft: Draft) -> None:
    """Takes away the names of activations and integers, which take as many bytes as small kernels.

    Inputs and outputs keep theirs, and so do constants of floats, whose names tell what they are.
    """
    for index in range(len(draft.file.subgraphs)):
        graph = Graph(draft.file, index)
        ends = {int(i) for i in (*graph.subgraph.inputs, *graph.subgraph.outputs)}
        for place, tensor in enumerate(graph.tensors):
            if not _holds_weights(graph, place) and (index or place not in ends):
                tensor.name = b""


def _holds_weights(graph, index) -> bool:
    if graph.is_lazy(index):
        return True
    values, table = graph.values(index), graph.tensors[index].quantization
    scaled = table is not None and table.scale is not None
    return values is not None and (scaled or values.dtype.kind in "fc")


def _name_kernel(graph, operator, weights) -> None:
    axis, code = channel_axis(graph, operator), operator_name(graph.model, operator)
    place = weight_place(code)
    if axis is None or graph.is_lazy(operator.inputs[place]):
        return
    rows = _file_rows(graph, operator.inputs[place], axis)
    name = None if rows is None else _name_of_weight(rows, weights)
    if name is not None:
        graph.tensors[operator.inputs[place]].name = name.encode()
        place = BIAS_PLACE.get(code, len(operator.inputs))
        if place < len(operator.inputs) and operator.inputs[place] >= 0:
            bias = f"{name.rpartition('/')[0]}/bias"
            graph.tensors[operator.inputs[place]].name = bias.encode()


def _name_of_weight(rows, weights) -> str | None:
    for name, (layer, variable) in weights.items():
        if math.prod(variable.shape) == rows.size or _is_split(layer, variable):
            for other in weight_rows(layer, variable):
                if other.shape == rows.shape and _same(rows, other):
                    return name
    return None


def _is_split(layer, variable) -> bool:
    """Whether a weight is the kernel of two products: of the gates, and of the candidate."""
    gru = isinstance(layer, keras.layers.GRUCell) and not layer.reset_after
    return gru and variable is layer.recurrent_kernel


def _same(rows, other) -> bool:
    """Whether the first rows are equal up to a factor for each."""
    rows, other = (_scaled_to_peak(some[:COMPARED_ROWS]) for some in (rows, other))
    signs = np.where((rows * other).sum(axis=1, keepdims=True) < 0, -1, 1)
    return np.allclose(rows * signs, other, atol=TOLERANCE)


def _file_rows(graph, index, axis):
    values, tensor = graph.values(index), graph.tensors[index]
    if values is None or values.size == 0:
        return None
    rows = kernel_rows(values, axis).astype(np.float32, copy=False)
    if tensor.quantization is not None and tensor.quantization.scale is not None:
        scale = tensor.quantization.scale
        scale = scale if len(scale) == len(rows) else scale[:1]
        rows = rows * np.broadcast_to(scale, len(rows))[:, None]
    return rows


def weight_rows(layer: keras.layers.Layer, variable: keras.Variable) -> Iterator[np.ndarray]:
    """A weight of a layer as matrices with a row per output channel, as a file may hold it.

    They are views as long as that is possible: kernels can be large.
    """
    values = to_numpy(variable)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    if depthwise or variable is getattr(layer, "depthwise_kernel", None):
        yield values.reshape(-1, values.shape[-2] * values.shape[-1]).T
    elif isinstance(layer, keras.layers.EinsumDense):
        inputs, kernel = layer.equation.split("->")[0].split(",")
        kept = [axis for axis, letter in enumerate(kernel.strip()) if letter not in inputs]
        moved = np.moveaxis(values, kept, range(len(kept)))
        yield moved.reshape(math.prod(moved.shape[: len(kept)]), -1)
    elif isinstance(layer, TRANSPOSED):
        yield kernel_rows(values, -2)
    else:
        yield kernel_rows(values, -1)
        if _is_split(layer, variable):
            yield from (values.T[: 2 * layer.units], values.T[2 * layer.units :])
        yield values.reshape(len(values), -1)  # a table, or a kernel that was made transposed


def layer_rows(layer: keras.layers.Layer) -> np.ndarray:
    """The kernel of a layer as a matrix with a row per output channel."""
    return next(weight_rows(layer, layer.kernel))


def _scaled_to_peak(rows):
    peak = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    return rows / np.where(peak == 0, 1, peak)  # rows of zeros stay zero
