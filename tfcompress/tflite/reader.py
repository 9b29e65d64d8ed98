"""Read .tflite files, and list what they store.

A file is read into the object form of its schema (`ai_edge_litert.schema_py_generated`):
`model.subgraphs`, `.tensors`, `.operators`, `.buffers`. Reading checks the file, so that what
comes later can trust it.
"""

import math
import mmap
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tfcompress.utils.types import Path, Tensor

BITS = {
    **{"FLOAT64": 64, "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "BOOL": 8},
    **{"INT64": 64, "INT32": 32, "INT16": 16, "INT8": 8, "INT4": 4, "INT2": 2},
    **{"UINT64": 64, "UINT32": 32, "UINT16": 16, "UINT8": 8, "UINT4": 4},
    **{"COMPLEX64": 64, "COMPLEX128": 128},
}


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
def schema() -> Any:
    """The generated module of the .tflite schema."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def type_name(tensor: Tensor) -> str:
    """The name of a tensor's type: `"FLOAT32"`, `"INT2"`, ..."""
    return _names("TensorType")[tensor.type]


def operator_name(model: Any, operator: Any) -> str:
    """The name of an operator: `"CONV_2D"`, or a custom operator's own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    name = _names("BuiltinOperator")[builtin_code(code)]
    return code.customCode.decode() if name == "CUSTOM" and code.customCode else name


def builtin_code(code: Any) -> int:
    """An operator code's builtin operator; old files hold it in the deprecated byte."""
    return max(code.builtinCode, code.deprecatedBuiltinCode)


@cache
def _names(enum):
    return {v: k for k, v in vars(getattr(schema(), enum)).items() if isinstance(v, int)}


def load(source: Path | bytes) -> bytes | bytearray:
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


def read(source: Path | bytes) -> Any:
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


def constant(model: Any, tensor: Tensor) -> np.ndarray | None:
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


def pack(values: np.ndarray, bits: int) -> np.ndarray:
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


def unpack(raw: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `pack`: int8 array of the first `count` integers."""
    raw = np.frombuffer(raw, np.uint8)
    per_byte = 8 // bits
    codes = np.empty(raw.size * per_byte, np.uint8)
    for place in range(per_byte):
        codes[place::per_byte] = raw << (8 - bits - place * bits)  # the code in the high bits
    return (codes.view(np.int8) >> (8 - bits))[:count]


def stored_tensors(source: Path | bytes) -> list[StoredTensor]:
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
