"""Forms that store the nonzero weights and their places.

The file holds, row by row, the number of nonzero entries (or blocks of entries) and the column of
each. Two such forms give right results with and without delegates: blocks that the builtin
FULLY_CONNECTED multiplies as they are, and any pattern, which DENSIFY unpacks once.
"""

from typing import Any

import numpy as np

from tfcompress.export.kernels.kernel import Kernel
from tfcompress.tflite.graph_editor import Graph, per_channel
from tfcompress.tflite.reader import schema

BLOCK_SIZE = {8: 16, 32: 4}  # entries of the blocks that the builtin kernel knows, by their bits
MOST_BLOCKS = 255  # of a row: the builtin int8 kernel counts and numbers them in 8 bits
SPARSE_VERSION = 8  # of FULLY_CONNECTED, which the delegate does not take over
DENSE, COMPRESSED = 0, 1  # the formats of an axis in the schema


def blocks(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """FULLY_CONNECTED over the blocks of 16 int8 or 4 float32 entries that are not all zero."""
    key = (kernel.tensor, "blocks", bits)
    if key not in graph.added:
        cut = _in_blocks(kernel.rows(bits), BLOCK_SIZE[bits])
        mask = cut.any(axis=2)
        table = _sparsity(
            [_dense_axis(len(cut)), _compressed_axis(mask), _dense_axis(BLOCK_SIZE[bits])], [1]
        )
        graph.added[key] = _constant(graph, kernel, bits, cut[mask], table)
    operator.inputs[1] = graph.added[key]
    if bits == 8:
        operator.builtinOptions.asymmetricQuantizeInputs = True
    graph.set_version(operator, kernel.code, SPARSE_VERSION)
    return [operator]


def densified(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """Any pattern of zeros, unpacked once by DENSIFY: exact, at float32 speed."""
    operators, weight = _densify(graph, kernel, bits)
    if bits == 8:
        key = (weight, "float32")
        if key not in graph.added:
            graph.added[key] = graph.tensor(kernel.shape)
            operators.append(graph.operator("DEQUANTIZE", [weight], graph.added[key], 5))
        weight = graph.added[key]
    operator.inputs[1] = weight
    return [*operators, operator]


def densified_hybrid(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """Any pattern of zeros for FULLY_CONNECTED in int8 arithmetic, by the builtin kernel."""
    operators, operator.inputs[1] = _densify(graph, kernel, bits)
    operator.builtinOptions.asymmetricQuantizeInputs = True
    graph.set_version(operator, kernel.code, SPARSE_VERSION)
    return [*operators, operator]


def block_bytes(kernel: Kernel, bits: int) -> float:
    """Bytes of `blocks`; infinite where this form cannot hold the kernel."""
    rows, size = kernel.rows(bits), BLOCK_SIZE[bits]
    if rows.shape[1] % size or not rows.any():
        return np.inf
    mask = _in_blocks(rows, size).any(axis=2)
    if bits == 8 and (mask.shape[1] > MOST_BLOCKS + 1 or mask.sum(axis=1).max() > MOST_BLOCKS):
        return np.inf
    return mask.sum() * size * bits / 8 + _index_bytes(mask)


def densified_bytes(kernel: Kernel, bits: int) -> float:
    """Bytes of `densified`."""
    mask = _in_operator_layout(kernel, bits) != 0
    return mask.sum() * bits / 8 + _index_bytes(mask) if mask.any() else np.inf


def _densify(graph, kernel, bits):
    key = (kernel.tensor, "densified", bits)
    operators = []
    if key not in graph.added:
        values = _in_operator_layout(kernel, bits)
        mask = values != 0
        table = _sparsity([*map(_dense_axis, mask.shape[:-1]), _compressed_axis(mask)], [])
        constant = _constant(graph, kernel, bits, values[mask], table)
        quantization = graph.tensors[constant].quantization
        type = graph.type(constant)
        graph.added[key] = graph.tensor(kernel.shape, type, quantization=quantization)
        operators.append(graph.operator("DENSIFY", [constant], graph.added[key]))
    return operators, graph.added[key]


def _in_operator_layout(kernel, bits):
    """The kernel in its operator's layout, which has the output channels first."""
    return kernel.rows(bits).reshape(kernel.shape)


def _in_blocks(rows, size):
    return rows.reshape(len(rows), -1, size)


def _constant(graph, kernel, bits, values, table):
    quantization = per_channel(kernel.grid.scale) if bits == 8 else None
    type, name = ("INT8" if bits == 8 else "FLOAT32"), kernel.name
    index = graph.tensor(kernel.shape, type, name, values.tobytes(), quantization)
    graph.tensors[index].sparsity = table
    return index


def _sparsity(dimensions, blocked):
    table = schema().SparsityParametersT()
    table.dimMetadata, table.blockMap = dimensions, blocked
    table.traversalOrder = list(range(len(dimensions)))
    return table


def _dense_axis(size):
    dimension = schema().DimensionMetadataT()
    dimension.format, dimension.denseSize = DENSE, int(size)
    return dimension


def _compressed_axis(mask):
    """The last axis of a mask: where each row begins, and the columns of its nonzero entries."""
    dimension = schema().DimensionMetadataT()
    dimension.format = COMPRESSED
    starts, columns = _starts_and_columns(mask)
    dimension.arraySegmentsType, dimension.arraySegments = _index_vector(starts)
    dimension.arrayIndicesType, dimension.arrayIndices = _index_vector(columns)
    return dimension


def _starts_and_columns(mask):
    counts = mask.reshape(-1, mask.shape[-1]).sum(axis=1)
    return np.concatenate([[0], np.cumsum(counts)]), np.nonzero(mask)[-1]


def _index_vector(values):
    dtype = np.dtype(_index_type(values))
    name = {"uint8": "Uint8Vector", "uint16": "Uint16Vector", "int32": "Int32Vector"}[dtype.name]
    vector = getattr(schema(), f"{name}T")()
    vector.values = values.astype(dtype)
    return getattr(schema().SparseIndexVector, name), vector


def _index_type(values):
    largest = values.max(initial=0)
    return "uint8" if largest < 2**8 else "uint16" if largest < 2**16 else "int32"


def _index_bytes(mask) -> int:
    return sum(v.size * np.dtype(_index_type(v)).itemsize for v in _starts_and_columns(mask))
