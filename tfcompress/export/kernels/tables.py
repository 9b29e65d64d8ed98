"""Forms of tables whose rows are looked up, as those of Embedding layers."""

from typing import Any

import numpy as np

from tfcompress.export.kernels.kernel import Kernel
from tfcompress.export.kernels.unpacked_forms import hashed_places
from tfcompress.tflite.graph_editor import Graph, Writer, per_channel

LOOKUP_VERSION = {8: 3, 4: 4, 2: 5}  # of EMBEDDING_LOOKUP


def looked_up(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """EMBEDDING_LOOKUP of rows of integers, each with its scale: exact.

    Takes 12 bytes for each row beside the integers, 8 of them for a zero point. A table that is
    also the kernel of a matrix product is stored once for both.
    """
    write = Writer(graph)
    table = kernel.add_as_is(graph, bits)
    rows = _rows(write, _vector(write, operator.inputs[1]), table, LOOKUP_VERSION[bits])
    _reshape_rows(write, rows, operator)
    return write.operators


def looked_up_twice(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """EMBEDDING_LOOKUP of rows of integers, and of their scales in a table of its own: exact.

    Takes 4 bytes for each row beside the integers, and 0.3 microseconds more than `looked_up`.
    """
    write, name = Writer(graph), f"{kernel.layer}/scales"
    ids = _vector(write, operator.inputs[1])
    table = graph.integers(kernel.grid.values, bits, kernel.name, per_channel(1.0))
    scales = graph.constant(kernel.grid.scale[:, None], name)
    rows = _rows(write, ids, table, LOOKUP_VERSION[bits])
    rows = write("MUL", [rows, _rows(write, ids, scales, 1)], (-1, kernel.shape[1]))
    _reshape_rows(write, rows, operator)
    return write.operators


def clustered(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """EMBEDDING_LOOKUP of rows of indices, and GATHER of their numbers in the codebook: exact."""
    write, shared, half = Writer(graph), kernel.shared, 2 ** (bits - 1)
    ids = _vector(write, operator.inputs[1])
    indices = (shared.codes - half).astype(np.int8)
    table = graph.integers(indices, bits, kernel.name, per_channel(1.0))
    codebook = graph.constant(shared.table, f"{kernel.layer}/codebook")
    rows = _rows(write, ids, table, LOOKUP_VERSION[bits])
    shape = graph.shape(rows)
    places = write.cast(write("ADD", [rows, write.float32([half])], shape), "INT32")
    _reshape_rows(write, write("GATHER", [codebook, places], shape), operator)
    return write.operators


def hashed(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """GATHER from the bank, of the places that the runtime computes for the rows it reads: exact.

    Nothing is stored per entry. See `choice` for the time that a row takes.
    """
    write, layer = Writer(graph), kernel.shared.layer
    bank = graph.constant(kernel.shared.table[: layer.buckets], kernel.name)
    ids = _checked(write, _vector(write, operator.inputs[1]), kernel.units)
    ids = write.reshape(ids, (-1, 1), like=ids)
    width, buckets = kernel.shape[1], layer.buckets // layer.blocks

    def step(code, a, b, like=ids):
        b = b if isinstance(b, int) else write.constant(b)
        return write(code, [a, b], (-1, width), like=like)

    # Entry (id, column) is number `id + column * ids` of the table, see `HashedKernel.codes`.
    columns = np.arange(width, dtype=np.int32)[None] * np.int32(kernel.units)
    places = step("ADD", ids, columns)
    run = np.array([[layer.blocks]], np.int32)
    runs = step("FLOOR_DIV", places, run) if layer.blocks > 1 else places
    codes = hashed_places(write, runs, buckets, layer.seed)
    one = np.array([[buckets]], np.int32)
    negative = write.cast(step("FLOOR_DIV", codes, one), "FLOAT32")
    entries = step("FLOOR_MOD", codes, one)
    if layer.blocks > 1:
        entries = step("MUL", entries, run)
        entries = step("ADD", entries, step("FLOOR_MOD", places, run))
    rows = write("GATHER", [bank, entries], (-1, width))
    sign = step("MUL", negative, np.array([[-2.0]], np.float32), like=None)
    sign = step("ADD", sign, np.array([[1.0]], np.float32), like=None)
    _reshape_rows(write, step("MUL", rows, sign, like=None), operator)
    return write.operators


def _checked(write, ids, count) -> int:
    """The ids as they are: the GATHER stops the run where one is no row of the table."""
    zeros = write("FILL", [write.int32([count]), write.constant(np.int32(0))], (count,), like=ids)
    zeros = write("GATHER", [zeros, ids], (-1,), like=ids)
    return write("ADD", [ids, zeros], (-1,), like=ids)


def index_bits(kernel: Kernel, int2: bool) -> int:
    """The bits of the indices of a codebook: 2, 4 or 8, see `Kernel.bits_for`."""
    count = len(kernel.shared.table)
    return kernel.whole_bytes(next(bits for bits in (2, 4, 8) if count <= 2**bits), int2)


def shared_bytes(kernel: Kernel, bits: int) -> float:
    """Bytes of `clustered` (`bits` of an index) or `hashed` (32)."""
    if kernel.shared.computed:
        return 4 * kernel.shared.layer.buckets + 3400
    return kernel.size * bits / 8 + 4 * len(kernel.shared.table) + 1100


def _vector(write, ids) -> int:
    """The ids as the vector that EMBEDDING_LOOKUP takes."""
    if write.graph.type(ids) != "INT32":
        ids = write.cast(ids, "INT32")
    return write.reshape(ids, (-1,), like=write.int32([0]))


def _rows(write, ids, table, version) -> int:
    width = write.graph.shape(table)[1]
    return write("EMBEDDING_LOOKUP", [ids, table], (-1, width), version)


def _reshape_rows(write, rows, operator) -> None:
    """Gives the rows the shape of the operator's output."""
    graph, ids, out = write.graph, operator.inputs[1], operator.outputs[0]
    if graph.shape(out).count(-1) <= 1:
        write.reshape(rows, graph.shape(out), out)
        return
    width, rank = write.int32(graph.shape(rows)[-1:]), len(graph.shape(ids))
    integers = graph.tensors[width].type
    shape = write("SHAPE", [ids], (rank,), like=width, outType=integers)
    shape = write("CONCATENATION", [shape, width], (rank + 1,), like=width, axis=0)
    write("RESHAPE", [rows, shape], out)


def gathered(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """GATHER of int8 rows that have one scale, and DEQUANTIZE of what was read."""
    key = (kernel.tensor, "gathered")
    scale = per_channel(kernel.grid.scale[0])
    if key not in graph.added:
        graph.added[key] = graph.integers(kernel.grid.values, 8, kernel.name, scale)
    operator.inputs[0], out = graph.added[key], operator.outputs[0]
    read = graph.tensor(graph.shape(out), "INT8", quantization=scale)
    operator.outputs = [read]
    graph.set_version(operator, "GATHER", 2)
    return [operator, graph.operator("DEQUANTIZE", [read], out, 2)]


def has_one_scale(kernel: Kernel) -> bool:
    """Whether all rows of a table have the same scale."""
    return bool(np.all(kernel.grid.scale == kernel.grid.scale[0]))
