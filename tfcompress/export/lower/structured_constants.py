"""Names the constants of layers that were lowered to operators, and stores signs in 4 bits."""

import re

import numpy as np

from tfcompress.export.draft import Draft
from tfcompress.export.lower.circulant import CirculantOperations
from tfcompress.graph.chain import unchained
from tfcompress.layers.shared.tile_hashed import TileHashedDense
from tfcompress.tflite.graph_editor import Graph, per_channel
from tfcompress.utils.arrays import to_numpy

LEAST_NAMED_SIZE = 16  # entries of a constant that gets a name


def name_structured_constants(draft: Draft) -> None:
    """Names the constants of lowered layers, and stores signs in 4 bits.

    The other tensors of these layers lose their names, which would take as many bytes as the
    constants.
    """
    found = {path: _constants(layer) for path, layer in unchained(draft.lowered).items()}
    found = {path: arrays for path, arrays in found.items() if arrays}
    if not found:
        return
    graph = Graph(draft.file)
    _drop_names(graph, {path.split("/")[-1] for path in found})
    for index, tensor in enumerate(graph.tensors):
        values = graph.values(index)
        if values is not None and values.size >= LEAST_NAMED_SIZE and values.dtype.kind in "fc":
            name = _constant_name(values, found)
            if name:
                tensor.name = name.encode()
    _pack_signs(graph)


def _constants(layer) -> dict:
    if isinstance(layer, CirculantOperations):
        return layer.constants
    if not isinstance(layer, TileHashedDense):
        return {}
    bank = to_numpy(layer.parts["bank"])  # u s t
    bank = np.moveaxis(bank, 0, 1).reshape(layer.tile, -1)
    bias = {} if layer.bias is None else {"bias": to_numpy(layer.bias)}
    return {"tiles": bank, "places": layer.signs(), **bias}


def _constant_name(values, found) -> str | None:
    for path, arrays in found.items():
        for name, array in arrays.items():
            if array.size == values.size and any(
                np.array_equal(values.ravel(), way.ravel()) for way in (array, array.T)
            ):
                return f"{path}/{name}"
    return None


def _drop_names(graph, names) -> None:
    own = re.compile(rf"/({'|'.join(map(re.escape, names))})(_\d+)?/")
    ends = {int(i) for i in (*graph.subgraph.inputs, *graph.subgraph.outputs)}
    for index, tensor in enumerate(graph.tensors):
        inner = own.search(graph.name(index)) or graph.name(index).startswith("arith.constant")
        if index not in ends and inner:
            tensor.name = b""


def _pack_signs(graph) -> None:
    """Stores the signs -1 and +1 as INT4, which is unpacked when the file is loaded."""
    operators, unpacked = [], {}
    for operator in graph.subgraph.operators:
        for place, index in enumerate(operator.inputs):
            if index < 0 or not graph.name(index).endswith("/signs"):
                continue
            if index not in unpacked:
                values, name = graph.values(index), graph.name(index)
                signs = graph.integers(values.astype(np.int8), 4, name, per_channel(1.0))
                unpacked[index] = graph.tensor(values.shape)
                operators.append(graph.operator("DEQUANTIZE", [signs], unpacked[index], 6))
            operator.inputs[place] = unpacked[index]
        operators.append(operator)
    graph.subgraph.operators = operators
