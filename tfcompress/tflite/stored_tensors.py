"""Lists the constants of a .tflite file and the bytes that each of them takes."""

import math
from dataclasses import dataclass

import numpy as np

from tfcompress.tflite.reader import load, operator_name, read, schema, stored_shape, type_name
from tfcompress.utils.types import Path


@dataclass(frozen=True)
class StoredTensor:
    """One constant of a .tflite file.

    Attributes:
        layer: the tensor's name; the exporter names a kernel by its layer's path.
        encoding: its type, `"INT2"`, `"FLOAT32"`, ..., `"SPARSE INT8"`; `"graph"` for the last row.
        shape: the shape of the constant.
        bytes: the size of its buffer, its scales and zero points, and the places of its nonzero
            entries. What several tensors share counts once.
        float_bytes: the size of a float32 tensor of that shape; the same as `bytes` for a constant
            that is no kernel, such as a shape.
        subgraph: the number of the graph that holds it: 0 is the main one, others are conditions
            and bodies of loops, as of recurrent layers. What is computed in the first call alone
            counts to the main one.
    """

    layer: str
    encoding: str
    shape: tuple[int, ...]
    bytes: int
    float_bytes: int
    subgraph: int = 0


def stored_tensors(source: Path | bytes) -> list[StoredTensor]:
    """Lists the constants of a .tflite file.

    The last row is everything else in the file, so that the bytes add up to its size.

    Args:
        source: the file's bytes, or its path.

    Raises:
        ValueError: the bytes are not a .tflite file.
    """
    blob = load(source)
    model, rows, counted, shared = read(blob), [], {0}, set()
    root, once = schema().Model.GetRootAs(blob, 0), _called_once(model)
    for place, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors or []):
            data = model.buffers[tensor.buffer].data
            if data is None or len(data) == 0:
                continue
            size = 0 if tensor.buffer in counted else len(data) + _sparsity_bytes(tensor)
            counted.add(tensor.buffer)
            size += _scale_bytes(root.Subgraphs(place).Tensors(index).Quantization(), shared)
            scales = tensor.quantization.scale if tensor.quantization else None
            shape, encoding = stored_shape(tensor), type_name(tensor)
            encoding = encoding if tensor.sparsity is None else f"SPARSE {encoding}"
            kernel = scales is not None or "FLOAT" in encoding
            float_bytes = 4 * math.prod(shape) if kernel else size
            name = (tensor.name or b"").decode() or "(constant)"
            rows.append(
                StoredTensor(name, encoding, shape, size, float_bytes, once.get(place, place))
            )
    rest = len(blob) - sum(row.bytes for row in rows)
    return [*rows, StoredTensor("(operators, names, shapes)", "graph", (), rest, rest)]


def _called_once(model) -> dict[int, int]:
    """The main graph, for each graph that it calls once, to compute a kernel."""
    operators = model.subgraphs[0].operators or []
    calls = (o for o in operators if operator_name(model, o) == "CALL_ONCE")
    return {call.builtinOptions.initSubgraphIndex: 0 for call in calls}


def _scale_bytes(table, counted) -> int:
    """Bytes of scales and zero points whose places in the file are not in `counted` yet."""
    total = 0
    for slot, width in ((8, 4), (10, 8)):  # of the float32 scales and of the int64 zero points
        field = 0 if table is None else table._tab.Offset(slot)
        place = table._tab.Vector(field) if field else None
        if field and place not in counted:
            counted.add(place)
            total += width * table._tab.VectorLen(field)
    return total


def _sparsity_bytes(tensor) -> int:
    """Bytes of the places of a sparse tensor's nonzero entries."""
    dimensions = [] if tensor.sparsity is None else tensor.sparsity.dimMetadata
    vectors = [v for d in dimensions for v in (d.arraySegments, d.arrayIndices) if v is not None]
    return sum(np.asarray(vector.values).nbytes for vector in vectors)
