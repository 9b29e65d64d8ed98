"""Read .tflite files, and pack the small integers in them.

A file is read into the object form of its schema (`ai_edge_litert.schema_py_generated`):
`model.subgraphs`, `.tensors`, `.operators`, `.buffers`. Reading checks the file, so that what
comes later can trust it.
"""

import copy
import math
import mmap
import os
import reprlib
from functools import cache
from typing import Any

import numpy as np

from tfcompress.tflite.unpacked_size import check_unpacked_size
from tfcompress.utils.types import Path

BITS = {
    **{"FLOAT64": 64, "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "BOOL": 8},
    **{"INT64": 64, "INT32": 32, "INT16": 16, "INT8": 8, "INT4": 4, "INT2": 2},
    **{"UINT64": 64, "UINT32": 32, "UINT16": 16, "UINT8": 8, "UINT4": 4},
    **{"COMPLEX64": 64, "COMPLEX128": 128},
}
# What is read of operators: the least inputs and outputs, and the options.
PARTS = {
    "CALL_ONCE": (0, 0, "CallOnceOptions"),
    **dict.fromkeys(("DEQUANTIZE", "DENSIFY"), (1, 1, None)),
    "FULLY_CONNECTED": (2, 1, "FullyConnectedOptions"),
    "GATHER": (2, 1, "GatherOptions"),
    "BATCH_MATMUL": (2, 1, "BatchMatMulOptions"),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV"), (2, 1, None)),
}


@cache
def schema() -> Any:
    """The generated module of the .tflite schema."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def type_name(tensor: Any) -> str:
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
    with _opened(source) as file:
        return file.read()


def check_source(source: Path | bytes, name: str = "tflite") -> None:
    """Raises unless a .tflite file is given as bytes, or as the path of a file that exists.

    >>> check_source("small.tflite")
    Traceback (most recent call last):
    ...
    FileNotFoundError: There is no such file: small.tflite
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"Expected `{name}` to be the bytes of a .tflite file or its path. "
            f"Received: {reprlib.repr(source)}"
        )
    if not os.path.isfile(source):
        what = "A folder is no .tflite file" if os.path.isdir(source) else "There is no such file"
        raise FileNotFoundError(f"{what}: {os.fspath(source)}")


def _opened(source):
    check_source(source)
    return open(os.fspath(source), "rb")


def _mapped_bytes(path):
    """The bytes of a file, mapped into memory: only what is read gets loaded."""
    with _opened(path) as file:
        whole = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if whole else b""


def read(source: Path | bytes) -> Any:
    """Reads a .tflite file and checks it.

    Args:
        source: the file's bytes or its path. The file behind a path must not change while the
            result is in use, whose arrays are views of it.

    Returns:
        The file as a `ModelT` of the schema, whose buffers are NumPy views.

    Raises:
        ValueError: the bytes are not a .tflite file, or a part of one.
    """
    in_memory = isinstance(source, (bytes, bytearray, memoryview))
    blob = load(source) if in_memory else _mapped_bytes(source)
    if len(blob) < 8 or blob[4:8] != b"TFL3":
        raise ValueError(
            "Expected a .tflite file, which has `TFL3` in its bytes 4 to 8. "
            f"Received: {len(blob)} bytes that begin with {blob[:8]!r}"
        )
    try:
        check_unpacked_size(schema(), blob)
        model = schema().ModelT.InitFromPackedBuf(blob, 0)
        for operator in (o for graph in model.subgraphs or [] for o in graph.operators or []):
            operator.inputs = _index_list(operator.inputs)
            operator.outputs = _index_list(operator.outputs)
        problem = _what_is_wrong(model)
    except Exception as error:  # a wrong offset can surface as any error of struct, NumPy or Python
        problem = f"it cannot be parsed ({type(error).__name__}: {error})"
    if problem:
        raise ValueError(
            f"Expected a whole .tflite file, but {problem}. The file is truncated or damaged: "
            f"export or copy it again. Received: {len(blob)} bytes"
        )
    return model


def duplicate(source: Any) -> Any:
    """A `ModelT` whose graphs may be changed: of a file's bytes or its path, or of a `ModelT`.

    Of the last it is a copy, which shares the bytes of the constants.
    """
    if not hasattr(source, "subgraphs"):
        return read(source)
    return copy.deepcopy(source, {id(buffer): buffer for buffer in source.buffers})


def _what_is_wrong(model) -> str | None:
    """What is wrong with a file that can be parsed, or None."""
    if not model.subgraphs or not model.buffers:
        return "it has no graph"
    for graph in model.subgraphs:
        tensors, count = graph.tensors or [], len(graph.tensors or [])
        for tensor in tensors:
            if not 0 <= tensor.buffer < len(model.buffers):
                return f"tensor {tensor.name} has no buffer"
            (tensor.name or b"").decode()  # raises for what is not UTF-8
            if not _is_sparse_whole(tensor):
                return f"tensor {tensor.name} is sparse and does not say where its entries are"
            data = model.buffers[tensor.buffer].data
            bits = BITS.get(type_name(tensor))
            if data is not None and len(data) and bits and tensor.sparsity is None:
                expected = math.ceil(math.prod(stored_shape(tensor)) * bits / 8)
                if len(data) != expected:
                    return f"tensor {tensor.name} has {len(data)} bytes in place of {expected}"
        uses = [(graph.inputs, 0), (graph.outputs, 0)]
        for operator in graph.operators or []:
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes or []):
                return "an operator has no code"
            if problem := _what_an_operator_lacks(model, operator):
                return problem
            uses += [(operator.inputs, -1), (operator.outputs, 0)]
        for indices, low in uses:
            if indices is not None and any(not low <= i < count for i in indices):
                return "an operator refers to a missing tensor"
    for signature in model.signatureDefs or []:
        if not 0 <= signature.subgraphIndex < len(model.subgraphs):
            return "a signature refers to a missing graph"
        count = len(model.subgraphs[signature.subgraphIndex].tensors or [])
        for entry in (*(signature.inputs or []), *(signature.outputs or [])):
            (entry.name or b"").decode()
            if not entry.name or not 0 <= entry.tensorIndex < count:
                return "a signature refers to a missing tensor"
    return None


def _what_an_operator_lacks(model, operator) -> str | None:
    """Gives an operator without options those that LiteRT takes then."""
    name = operator_name(model, operator)
    inputs, outputs, options = PARTS.get(name, (0, 0, None))
    given = [index for index in operator.inputs[:inputs] if index >= 0]
    if len(given) < inputs or len(operator.outputs) < outputs:
        return f"an operator {name} lacks inputs or outputs"
    if options is not None and operator.builtinOptions is None and name != "CALL_ONCE":
        operator.builtinOptions = getattr(schema(), f"{options}T")()
        operator.builtinOptionsType = getattr(schema().BuiltinOptions, options)
    if options is not None and type(operator.builtinOptions).__name__ != f"{options}T":
        return f"an operator {name} lacks its options"
    if name == "CALL_ONCE" and not (
        0 <= operator.builtinOptions.initSubgraphIndex < len(model.subgraphs)
    ):
        return "a CALL_ONCE refers to a missing graph"
    return None


def _is_sparse_whole(tensor) -> bool:
    """Whether a sparse tensor tells where its entries are, so that its bytes can be counted."""
    if tensor.sparsity is None:
        return True
    dimensions = tensor.sparsity.dimMetadata
    parts = [v for d in dimensions or [] for v in (d.arraySegments, d.arrayIndices)]
    return bool(dimensions) and all(part is None or part.values is not None for part in parts)


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """The values of a constant tensor as stored (4- and 2-bit integers as int8), or None."""
    data = model.buffers[tensor.buffer].data
    name = type_name(tensor)
    if data is None or len(data) == 0 or name not in BITS or tensor.sparsity is not None:
        return None
    if name in ("INT4", "INT2"):
        shape = stored_shape(tensor)
        return unpack_integers(data, BITS[name], math.prod(shape)).reshape(shape)
    if name == "BFLOAT16" or name == "UINT4":
        return None
    return np.frombuffer(data, np.dtype(name.lower())).reshape(stored_shape(tensor))


def pack_integers(values: np.ndarray | list[int], bits: int) -> np.ndarray:
    """Packs small signed integers into bytes, the first one in the low bits.

    Args:
        values: integers in the range of `bits` bits, any shape.
        bits: 2, 4 or 8.

    Returns:
        uint8 array of `ceil(size * bits / 8)` bytes.

    Example:

    >>> [hex(byte) for byte in pack_integers([1, -1, 0, -2, 1], 2)]
    ['0x8d', '0x1']
    """
    values = np.asarray(values, np.int8).ravel()
    per_byte = 8 // bits
    codes = np.zeros(math.ceil(values.size / per_byte) * per_byte, np.uint8)
    # The low bits of a negative number in two's complement are its code.
    codes[: values.size] = values.view(np.uint8) & (2**bits - 1)
    packed = np.zeros(codes.size // per_byte, np.uint8)
    for place in range(per_byte):
        packed |= codes[place::per_byte] << (place * bits)
    return packed


def unpack_integers(raw: bytes | np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `pack_integers`: int8 array of the first `count` integers."""
    raw = np.frombuffer(raw, np.uint8)
    per_byte = 8 // bits
    codes = np.empty(raw.size * per_byte, np.uint8)
    for place in range(per_byte):
        codes[place::per_byte] = raw << (8 - bits - place * bits)  # the code in the high bits
    return (codes.view(np.int8) >> (8 - bits))[:count]  # a signed shift copies the sign bit


def _index_list(indices) -> list[int]:
    return [] if indices is None else [int(index) for index in indices]


def stored_shape(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor, in which sizes that are free are 1."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
