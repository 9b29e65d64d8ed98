"""Forms whose kernel the runtime unpacks once, with builtin operators.

LiteRT computes GATHER, TILE, RESHAPE, CONCATENATION and STRIDED_SLICE of constants once, in
AllocateTensors, and keeps the result. It does not do so for integer arithmetic: a subgraph that
CALL_ONCE runs in the first call computes the places, and a variable keeps the kernel. The delegate
takes no computed kernels, so the builtin kernels run these products.
"""

import math
from typing import Any

import numpy as np

from tfcompress.export.kernels.kernel import Kernel
from tfcompress.numerics.hashing import C1, C2, C3, seed_word
from tfcompress.tflite.graph_editor import Graph, Writer, per_channel

INDEX_BITS = 15  # of an int16 index, which must not be negative
MOST_CODE_BITS = 5
GROUP_BITS = 5  # of the part of an index that one constant decodes: 32 rows, less than an operator


def code_bits(kernel: Kernel) -> int | None:
    """The bits of a code for each of the kernel's distinct integers, or None for too many."""
    bits = max(len(kernel.levels()) - 1, 1).bit_length()
    return bits if bits <= MOST_CODE_BITS else None


def coded_bytes(graph: Graph, kernel: Kernel, bits: int) -> float:
    """Bytes of `coded` without the scales: the indices, and the table if no other kernel has it."""
    table = (
        0
        if table_key(kernel.levels(), bits) in graph.added
        else 250 + 330 * len(_codes_per_constant(bits))
    )
    return 2 * kernel.size / (INDEX_BITS // bits) + 1200 + table


def table_key(levels: str, bits: int) -> Any:
    """The key in `Graph.added` of a table that kernels with the same levels share."""
    return "table", tuple(levels), bits


def _codes_per_constant(bits) -> list[int]:
    """The numbers of codes that each of the constants behind a table decodes."""
    count, most = INDEX_BITS // bits, GROUP_BITS // bits
    return [min(most, count - place) for place in range(0, count, most)]


def computed_bytes(kernel: Kernel, bits: int) -> float:
    """Bytes of `computed`."""
    one = bits == 32 or np.all(kernel.grid.scale == kernel.grid.scale[0])
    count, sides = len(kernel.shared.table) // 2, kernel.units + kernel.shape[-1]
    vectors = 0 if kernel.shared.hashed else 8 * sides
    return bits / 8 * count + vectors + 12 * (1 if one else kernel.units) + 5000


def coded(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """Codes of `bits` bits and a list of integers: 15 // bits codes to one int16 index.

    A GATHER turns each index into the integers of its codes, from a table with a row for each
    index that a few operators make of the list. Bytes: `2 size / (15 // bits)`, against `size / 4`
    for INT2.
    """
    key = (kernel.tensor, "coded")
    write = Writer(graph)
    if key not in graph.added:
        levels = kernel.levels()
        codes = np.searchsorted(levels, kernel.grid.values.ravel())
        graph.added[key] = _decode(write, kernel, codes, levels, bits)
    return [*write.operators, *_reading(graph, operator, kernel, graph.added[key])]


def computed(graph: Graph, operator: Any, kernel: Kernel, bits: int) -> list:
    """A bank of int8 (`bits` 8) or float32 numbers; the runtime computes the places of the weights.

    Nothing is stored per weight. The places are hashes, or those of circulant blocks, and are
    computed in the first call. For hashes this was measured to take 0.02 to 0.1 microseconds and a
    peak of 22 to 24 bytes of memory per weight.
    """
    key = (kernel.tensor, "computed")
    if key not in graph.added:
        _fill_variable(graph, kernel, bits)
        call = graph.operator("CALL_ONCE", [], None)
        call.builtinOptions.initSubgraphIndex = len(graph.model.subgraphs) - 1
        write, weight = Writer(graph), _kernel_tensor(graph, kernel, bits)
        handle = _variable_handle(write, kernel)
        graph.added[key] = write("READ_VARIABLE", [handle], weight)
        operators = [call, *write.operators]
    else:
        operators = []
    return [*operators, *_reading(graph, operator, kernel, graph.added[key])]


def _reading(graph, operator, kernel, weight) -> list:
    """The operator, which reads a computed kernel from now on."""
    if kernel.code == "GATHER":
        return _read_rows(graph, operator, weight)
    operator.inputs[1] = weight
    if graph.type(weight) == "FLOAT32":
        return [operator]
    if kernel.code == "FULLY_CONNECTED":
        operator.builtinOptions.asymmetricQuantizeInputs = True
    graph.set_version(operator, kernel.code, 12 if kernel.code == "FULLY_CONNECTED" else 5)
    return [operator]


def _read_rows(graph, operator, table) -> list:
    """The GATHER of a computed table, and the DEQUANTIZE of integers."""
    operator.inputs[0], out = table, operator.outputs[0]
    if graph.type(table) == "FLOAT32":
        return [operator]
    read = graph.tensor(
        graph.shape(out), "INT8", quantization=per_channel(graph.tensors[table].quantization.scale)
    )
    operator.outputs = [read]
    graph.set_version(operator, "GATHER", 2)
    return [operator, graph.operator("DEQUANTIZE", [read], out, 2)]


def _kernel_tensor(graph, kernel, bits) -> int:
    """Adds an empty tensor for the kernel, in the operator's layout.

    It alone has scales among the tensors of its chain: otherwise the delegate would take over the
    chain and run it in each call.
    """
    if bits == 32:
        return graph.tensor(kernel.shape)
    scale = kernel.grid.scale
    one = kernel.code in ("FULLY_CONNECTED", "GATHER") and np.all(scale == scale[0])
    return graph.tensor(kernel.shape, "INT8", quantization=per_channel(scale[0] if one else scale))


def _decode(write, kernel, codes, levels, bits) -> int:
    graph, per_index = write.graph, INDEX_BITS // bits
    codes = np.pad(codes, (0, -len(codes) % per_index)).reshape(-1, per_index)
    index = (codes << (bits * np.arange(per_index))).sum(axis=1).astype(np.int16)
    table = _code_table(write, levels, bits, per_index)
    index = graph.constant(index, kernel.name)
    entries = write("GATHER", [table, index], (len(codes), per_index), version=2, like=table)
    entries = _first_entries(write, entries, codes.size, kernel.size, like=table)
    return write.reshape(entries, kernel.shape, _kernel_tensor(graph, kernel, 8))


def _first_entries(write, entries, count, size, like) -> int:
    """The first `size` of `count` entries."""
    if count == size:
        return entries
    entries = write.reshape(entries, (count,), like=like)
    ends = [write.int32([end]) for end in (0, size, 1)]
    return write("STRIDED_SLICE", [entries, *ends], (size,), version=2, like=like)


def _code_table(write, levels, bits, per_index) -> int:
    """The table whose row `r` holds the levels of the codes in the bits of `r`, lowest first."""
    graph, count, key = write.graph, 1 << bits, table_key(levels, bits)
    if key not in graph.added:
        padded = np.pad(levels, (0, count - len(levels)), mode="edge")
        columns, place = [], 0
        for codes in _codes_per_constant(bits):
            rows = np.arange(count**codes)[:, None] >> (bits * np.arange(codes))
            part = write.constant(padded[rows & (count - 1)].reshape(1, -1, 1, codes))
            low, high = count**place, count ** (per_index - place - codes)
            shape = high, count**codes, low, codes
            tiled = write("TILE", [part, write.int32([high, 1, low, 1])], shape, like=part)
            columns.append(write.reshape(tiled, (count**per_index, codes), like=part))
            place += codes
        shape = count**per_index, per_index
        graph.added[key] = write("CONCATENATION", columns, shape, like=columns[0], axis=1)
    return graph.added[key]


def _variable_handle(write, kernel) -> int:
    handle = write.graph.tensor((1,), "RESOURCE")
    name = kernel.name
    return write("VAR_HANDLE", [], handle, container="", sharedName=name)


def _fill_variable(graph, kernel, bits) -> None:
    """Adds a subgraph that computes the kernel and assigns it to the variable."""
    inner = graph.subgraph_of(f"kernel of {kernel.layer}")
    write, shared = Writer(inner), kernel.shared
    layer, count = shared.layer, len(shared.table) // 2
    run = layer.blocks if shared.hashed else 1
    runs = -(-kernel.size // run)
    if shared.hashed:
        ends = [write.constant(np.array(n, np.int32)) for n in (0, runs, 1)]
        positions = write("RANGE", ends, (runs,), like=ends[0])
        codes = hashed_places(write, positions, count // run, layer.seed)
    else:
        codes = _circulant_places(write, layer, kernel.size)
    bank = shared.table if bits == 32 else shared.integers()
    bank = inner.constant(bank[:count], kernel.name)
    table = _with_negated(write, bank, count)
    if run > 1:
        table = write.reshape(table, (2 * count // run, run), like=bank)
    shape = (runs, run) if run > 1 else (runs,)
    values = write("GATHER", [table, codes], shape, version=2, like=bank)
    values = _first_entries(write, values, runs * run, kernel.size, like=bank)
    weight = _kernel_tensor(inner, kernel, bits)
    if shared.by_columns:
        values = write.reshape(values, kernel.shape[::-1], like=bank)
        values = write("TRANSPOSE", [values, write.int32([1, 0])], weight, version=2)
    else:
        values = write.reshape(values, kernel.shape, weight)
    handle = _variable_handle(write, kernel)
    inner.subgraph.operators = [
        *write.operators,
        inner.operator("ASSIGN_VARIABLE", [handle, values], None),
    ]


def hashed_places(write: Writer, positions: int, buckets: int, seed: int) -> int:
    """The places of `tfcompress.numerics.hashing.signed_codes`, in int32 operators."""

    def step(code, a, b):
        b = write.int32([b]) if isinstance(b, np.int32) else b
        return write(code, [a, b], write.graph.shape(positions), like=positions)

    v = step("MUL", positions, C1)
    v = step("BITWISE_XOR", v, seed_word(seed))
    v = step("BITWISE_XOR", v, step("RIGHT_SHIFT", v, np.int32(16)))
    v = step("MUL", v, C2)
    v = step("BITWISE_XOR", v, step("RIGHT_SHIFT", v, np.int32(13)))
    v = step("MUL", v, C3)
    v = step("BITWISE_XOR", v, step("RIGHT_SHIFT", v, np.int32(16)))
    return step("FLOOR_MOD", v, np.int32(2 * buckets))


def _circulant_places(write, layer, size) -> int:
    """The places of a `CirculantConv2D`: a sum of parts that depend on one or two axes each."""
    *space, q, p, n = layer.parts["circulants"].shape
    i, o, taps = np.arange(layer.inputs), np.arange(layer.outputs), np.arange(math.prod(space))
    negative = np.where(layer._signs < 0, len(taps) * q * p * n, 0)
    shape, first = (len(o), len(taps), len(i)), write.constant(np.array(0, np.int32))

    def along(values, axis):
        sides = [len(values) if k == axis else 1 for k in range(3)]
        return write.constant(values.astype(np.int32).reshape(sides))

    def step(code, a, b, taps=1):
        return write(code, [a, b], (shape[0], taps, shape[2]), like=first)

    inside = step("FLOOR_MOD", step("SUB", along(o, 0), along(i, 2)), write.int32(n))
    block = step("ADD", along(o // n * p * n, 0), along(i // n * n + negative, 2))
    codes = step("ADD", step("ADD", inside, block), along(taps * q * p * n, 1), len(taps))
    return write.reshape(codes, (size,), like=first)


def _with_negated(write, bank, count) -> int:
    """The bank and behind it the bank negated, by way of int32: MUL and NEG take no plain int8."""
    graph, shape = write.graph, (count,)
    if graph.type(bank) == "FLOAT32":
        negated = write("MUL", [bank, write.float32([-1.0])], shape)
    else:
        wide, one = write.cast(bank, "INT32"), write.int32([-1])
        negated = write.cast(write("MUL", [wide, one], shape, like=wide), "INT8")
    return write("CONCATENATION", [bank, negated], (2 * count,), like=bank, axis=0)
