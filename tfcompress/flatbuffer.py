"""Read, change and write .tflite files, and list what they store.

A file is read into the object form of its schema (`ai_edge_litert.schema_py_generated`):
`model.subgraphs`, `.tensors`, `.operators`, `.buffers`. Reading checks the file, so that what
comes later can trust it.
"""

import hashlib
import io
import math
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

BITS = {
    **{"FLOAT64": 64, "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "BOOL": 8},
    **{"INT64": 64, "INT32": 32, "INT16": 16, "INT8": 8, "INT4": 4, "INT2": 2},
    **{"UINT64": 64, "UINT32": 32, "UINT16": 16, "UINT8": 8, "UINT4": 4},
    **{"COMPLEX64": 64, "COMPLEX128": 128},
}
LARGEST = 2**31 - 1  # of a file: its offsets have a sign


@dataclass(frozen=True)
class LazyBuffer:
    """A buffer of a `ModelT` whose data are computed each time that they are asked for.

    Attributes:
        length: in bytes.
        compute: gives the array.
    """

    length: int
    compute: Callable

    @property
    def data(self) -> np.ndarray:
        return np.ascontiguousarray(self.compute()).reshape(-1).view(np.uint8)


class _Slot:
    """Packs a buffer without its data, whose offset is written later."""

    def __init__(self, filled):
        self.filled = filled

    def Pack(self, builder):
        schema().BufferStart(builder)
        if self.filled:
            builder.PrependUint32Slot(0, 1, 0)
        return schema().BufferEnd(builder)


def _length(buffer) -> int:
    if isinstance(buffer, LazyBuffer):
        return buffer.length
    return 0 if buffer.data is None else len(buffer.data)


@dataclass(frozen=True)
class StoredTensor:
    """One constant of a .tflite file.

    Attributes:
        layer: the tensor's name; the exporter names a kernel by its layer's path.
        encoding: its type, `"INT2"`, `"FLOAT32"`, ..., `"SPARSE INT8"`; `"graph"` for the rest.
        shape: of the constant.
        bytes: its buffer, its scales and zero points and the places of its nonzero entries. What
            several tensors share counts once.
        float_bytes: what a float32 tensor of that shape would take (the same `bytes` for a
            constant that is not a kernel, such as a shape).
    """

    layer: str
    encoding: str
    shape: tuple[int, ...]
    bytes: int
    float_bytes: int


@cache
def schema():
    """The generated module of the .tflite schema."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def type_name(tensor) -> str:
    """The name of a tensor's type: `"FLOAT32"`, `"INT2"`, ..."""
    return _names("TensorType")[tensor.type]


def operator_name(model, operator) -> str:
    """The name of an operator: `"CONV_2D"`, or a custom operator's own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    name = _names("BuiltinOperator")[builtin_code(code)]
    return code.customCode.decode() if name == "CUSTOM" and code.customCode else name


def builtin_code(code) -> int:
    """An operator code's builtin operator; old files hold it in the deprecated byte."""
    return max(code.builtinCode, code.deprecatedBuiltinCode)


@cache
def _names(enum):
    return {v: k for k, v in vars(getattr(schema(), enum)).items() if isinstance(v, int)}


def load(source) -> bytes | bytearray:
    """The bytes of a .tflite file given as bytes or as a path."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source) if isinstance(source, memoryview) else source
    with open(os.fspath(source), "rb") as file:
        return file.read()


def _mapped(path):
    """The bytes of a file, of which the system loads what is looked at."""
    with open(os.fspath(path), "rb") as file:
        whole = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if whole else b""


def read(source):
    """Reads a .tflite file and checks it.

    Args:
        source: the file's bytes, or its path: then the file must stay as it is while the result is
            in use.

    Returns:
        The file as a `ModelT` of the schema, whose buffers are NumPy views.

    Raises:
        ValueError: the bytes are not a .tflite file, or a part of one.
    """
    blob = load(source) if isinstance(source, (bytes, bytearray, memoryview)) else _mapped(source)
    if len(blob) < 8 or blob[4:8] != b"TFL3":
        raise ValueError(
            "Expected a .tflite file, which has `TFL3` in its bytes 4 to 8. "
            f"Received: {len(blob)} bytes that begin with {blob[:8]!r}"
        )
    try:
        model = schema().ModelT.InitFromPackedBuf(blob, 0)
        for operator in (o for graph in model.subgraphs or [] for o in graph.operators or []):
            operator.inputs, operator.outputs = _list(operator.inputs), _list(operator.outputs)
        problem = _problem(model)
    except Exception as error:  # a wrong offset can surface as any error of struct, NumPy or Python
        problem = f"it cannot be parsed ({type(error).__name__}: {error})"
    if problem:
        raise ValueError(
            f"Expected a whole .tflite file, but {problem}. The file is truncated or damaged: "
            f"export or copy it again. Received: {len(blob)} bytes"
        )
    return model


def _problem(model) -> str | None:
    """What is wrong with a file that can be parsed, or None."""
    if not model.subgraphs or not model.buffers:
        return "it has no graph"
    for graph in model.subgraphs:
        tensors, count = graph.tensors or [], len(graph.tensors or [])
        for tensor in tensors:
            if not 0 <= tensor.buffer < len(model.buffers):
                return f"tensor {tensor.name} has no buffer"
            data = model.buffers[tensor.buffer].data
            bits = BITS.get(type_name(tensor))
            if data is not None and len(data) and bits and tensor.sparsity is None:
                expected = math.ceil(math.prod(_shape(tensor)) * bits / 8)
                if len(data) != expected:
                    return f"tensor {tensor.name} has {len(data)} bytes in place of {expected}"
        uses = [(graph.inputs, 0), (graph.outputs, 0)]
        for operator in graph.operators or []:
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes or []):
                return "an operator has no code"
            operator_name(model, operator)
            uses += [(operator.inputs, -1), (operator.outputs, 0)]
        for indices, low in uses:
            if indices is not None and any(not low <= i < count for i in indices):
                return "an operator refers to a missing tensor"
    return None


def write(model) -> bytes:
    """Writes a `ModelT` as a .tflite file without what is unused or there twice: tensors, buffers,
    operator codes, vectors and names."""
    file = io.BytesIO()
    write_to(file, model)
    return file.getvalue()


def write_to(file, model) -> None:
    """As `write`, into an open binary file, one buffer after the other behind the graph.

    Raises:
        ValueError: the file would be larger than the 2 GB that its offsets reach.
    """
    for index, graph in enumerate(model.subgraphs):
        _compact_tensors(graph, [s for s in model.signatureDefs or [] if s.subgraphIndex == index])
    _compact_buffers(model)
    _compact_codes(model)
    _lists_to_arrays(model)
    buffers, builder = model.buffers, _sharing_builder()()
    model.buffers = [_Slot(_length(buffer) > 0) for buffer in buffers]
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    model.buffers = buffers
    head = builder.Output()
    places, end = _place(head, buffers), len(head)
    file.write(head)
    for buffer, place in zip(buffers, places, strict=True):
        if place:
            data = np.ascontiguousarray(buffer.data)
            file.write(bytes(place - end) + struct.pack("<I", data.nbytes))
            file.write(data)
            end = place + 4 + data.nbytes


@cache
def _sharing_builder():
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        """Writes equal vectors and names once: zero points take twice the bytes of the scales."""

        def __init__(self):
            super().__init__()
            self.written = {}

        def CreateNumpyVector(self, x):
            key = x.dtype.str, x.tobytes()
            if key not in self.written:
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]

        def CreateString(self, s, *args):
            if s not in self.written:
                self.written[s] = super().CreateString(s, *args)
            return self.written[s]

    return SharingBuilder


def _lists_to_arrays(model):
    """The builder shares arrays."""
    for graph in model.subgraphs:
        holders = [(tensor, ("shape", "shapeSignature")) for tensor in graph.tensors]
        holders += [(operator, ("inputs", "outputs")) for operator in graph.operators or []]
        for holder, names in holders:
            for name in names:
                if getattr(holder, name) is not None:
                    setattr(holder, name, np.asarray(getattr(holder, name), np.int32))


def _place(head, buffers) -> list[int]:
    """Writes into the graph where the length and data of each buffer will be: 0 for empty ones."""
    root, end, places = schema().Model.GetRootAs(head, 0), len(head), []
    for index, buffer in enumerate(buffers):
        length = _length(buffer)
        place = -(-(end + 4) // 16) * 16 - 4 if length else 0  # the data behind it are aligned
        if place:
            table = root.Buffers(index)._tab
            field = table.Pos + table.Offset(4)
            struct.pack_into("<I", head, field, place - field)
            end = place + 4 + length
        places.append(place)
    if end > LARGEST:
        raise ValueError(f"A .tflite file holds at most {LARGEST:,} bytes. Received: {end:,} bytes")
    return places


def _compact_tensors(graph, signatures):
    holders = [(graph, "inputs"), (graph, "outputs")]
    for operator in graph.operators or []:
        holders += [(operator, "inputs"), (operator, "outputs"), (operator, "intermediates")]
    lists = [getattr(holder, name) for holder, name in holders]
    used = sorted({int(i) for indices in lists if indices is not None for i in indices if i >= 0})
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    for (holder, name), indices in zip(holders, lists, strict=True):
        if indices is not None:
            setattr(holder, name, [place[int(i)] for i in indices])
    for signature in signatures:
        for entry in [*(signature.inputs or []), *(signature.outputs or [])]:
            entry.tensorIndex = place[entry.tensorIndex]
    graph.tensors = [graph.tensors[i] for i in used]


def _compact_buffers(model):
    old, new, seen = model.buffers, [schema().BufferT()], {}
    holders = [t for graph in model.subgraphs for t in graph.tensors or []]
    for holder in holders + list(model.metadata or []):
        buffer = old[holder.buffer]
        if _length(buffer) == 0:
            holder.buffer = 0
            continue
        lazy = isinstance(buffer, LazyBuffer)
        key = id(buffer) if lazy else hashlib.sha256(buffer.data).digest()
        if key not in seen:
            seen[key] = len(new)
            new.append(buffer)
        holder.buffer = seen[key]
    model.buffers = new
    model.metadataBuffer = [m.buffer for m in model.metadata or []]


def _compact_codes(model):
    new, seen = [], {}
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            code = model.operatorCodes[operator.opcodeIndex]
            key = (builtin_code(code), code.version, code.customCode)
            if key not in seen:
                seen[key] = len(new)
                new.append(code)
            operator.opcodeIndex = seen[key]
    model.operatorCodes = new


def constant(model, tensor) -> np.ndarray | None:
    """The values of a constant tensor as stored (4- and 2-bit ones as int8), or None."""
    data = model.buffers[tensor.buffer].data
    name = type_name(tensor)
    if data is None or len(data) == 0 or name not in BITS or tensor.sparsity is not None:
        return None
    if name in ("INT4", "INT2"):
        return unpack(data, BITS[name], math.prod(_shape(tensor))).reshape(_shape(tensor))
    if name == "BFLOAT16" or name == "UINT4":
        return None
    return np.frombuffer(data, np.dtype(name.lower())).reshape(_shape(tensor))


def pack(values, bits) -> np.ndarray:
    """Packs small signed integers into bytes, the first one in the low bits.

    Args:
        values: integers in the range of `bits` bits, any shape.
        bits: 2, 4 or 8.

    Returns:
        uint8 array of `ceil(size * bits / 8)` bytes.

    Example:

    >>> [hex(byte) for byte in pack([1, -1, 0, -2, 1], 2)]
    ['0x8d', '0x1']
    """
    values = np.asarray(values, np.int8).ravel()
    per_byte = 8 // bits
    codes = np.zeros(math.ceil(values.size / per_byte) * per_byte, np.uint8)
    codes[: values.size] = values.view(np.uint8) & (2**bits - 1)
    packed = np.zeros(codes.size // per_byte, np.uint8)
    for place in range(per_byte):
        packed |= codes[place::per_byte] << (place * bits)
    return packed


def unpack(raw, bits, count) -> np.ndarray:
    """The inverse of `pack`: int8 array of the first `count` integers."""
    raw = np.frombuffer(raw, np.uint8)
    per_byte = 8 // bits
    codes = np.empty(raw.size * per_byte, np.uint8)
    for place in range(per_byte):
        codes[place::per_byte] = raw << (8 - bits - place * bits)  # the code in the high bits
    return (codes.view(np.int8) >> (8 - bits))[:count]


def stored_tensors(source) -> list[StoredTensor]:
    """Lists what a .tflite file stores; the last row is the rest: the sum is the file's size.

    Args:
        source: the file's bytes, or its path.

    Raises:
        ValueError: the bytes are not a .tflite file.
    """
    blob = load(source)
    model, rows, counted, shared = read(blob), [], {0}, set()
    root = schema().Model.GetRootAs(blob, 0)
    for place, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors or []):
            data = model.buffers[tensor.buffer].data
            if data is None or len(data) == 0:
                continue
            size = 0 if tensor.buffer in counted else len(data) + _sparsity_bytes(tensor)
            counted.add(tensor.buffer)
            size += _scale_bytes(root.Subgraphs(place).Tensors(index).Quantization(), shared)
            scales = tensor.quantization.scale if tensor.quantization else None
            shape, encoding = _shape(tensor), type_name(tensor)
            encoding = encoding if tensor.sparsity is None else f"SPARSE {encoding}"
            kernel = scales is not None or "FLOAT" in encoding
            float_bytes = 4 * math.prod(shape) if kernel else size
            name = (tensor.name or b"").decode() or "(constant)"
            rows.append(StoredTensor(name, encoding, shape, size, float_bytes))
    rest = len(blob) - sum(row.bytes for row in rows)
    return [*rows, StoredTensor("(operators, names, shapes)", "graph", (), rest, rest)]


def _scale_bytes(table, counted) -> int:
    """What scales and zero points take that no tensor before has; `counted`: their places."""
    total = 0
    for slot, width in ((8, 4), (10, 8)):  # of the vectors in the table; float32 and int64
        field = 0 if table is None else table._tab.Offset(slot)
        place = table._tab.Vector(field) if field else None
        if field and place not in counted:
            counted.add(place)
            total += width * table._tab.VectorLen(field)
    return total


def _sparsity_bytes(tensor) -> int:
    """What the places of the nonzero entries of a tensor take."""
    dimensions = [] if tensor.sparsity is None else tensor.sparsity.dimMetadata
    vectors = [v for d in dimensions for v in (d.arraySegments, d.arrayIndices) if v is not None]
    return sum(np.asarray(vector.values).nbytes for vector in vectors)


def _list(indices) -> list[int]:
    return [] if indices is None else [int(index) for index in indices]


def _shape(tensor) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
