"""Refuses .tflite files that would become many times as large when they are read.

Offsets may lead to one place again and again, from which each time another object is made.
"""

from collections.abc import Iterator
from typing import Any

SHARED = 16  # how often a file may on average use a list or a name that it holds once
TABLE = 4 * SHARED  # a table counts as if the 4 bytes of its offset were shared
# The names in the options of operators.
NAMES_IN_OPTIONS = {
    "VarHandleOptions": ("Container", "SharedName"),
    "StableHLOCompositeOptions": ("Name",),
    "StablehloCustomCallOptions": ("CallTargetName", "BackendConfig"),
}


def check_unpacked_size(schema: Any, blob: bytes) -> None:
    """Raises `ValueError` for a file whose lists and names are more than fit into it.

    Args:
        schema: the generated module of the .tflite schema.
        blob: the bytes of the file.
    """
    left = SHARED * len(blob)
    for size in _sizes(schema, schema.Model.GetRootAs(blob, 0)):
        left -= size
        if left < 0:
            raise ValueError("its parts are more than fit into it")


def _sizes(schema, model) -> Iterator[int]:
    """Bytes of lists and names."""
    yield _length(model.Description())
    for code in _each(model, "OperatorCodes"):
        yield TABLE + _length(code.CustomCode())
    for graph in _each(model, "Subgraphs"):
        yield TABLE * (1 + graph.TensorsLength() + graph.OperatorsLength())
        yield _length(graph.Name()) + 4 * (graph.InputsLength() + graph.OutputsLength())
        for tensor in _each(graph, "Tensors"):
            sparsity = tensor.Sparsity()
            parts = 0 if sparsity is None else sparsity.DimMetadataLength()
            yield _length(tensor.Name()) + TABLE * (parts + tensor.VariantTensorsLength())
        for operator in _each(graph, "Operators"):
            yield 4 * (operator.InputsLength() + operator.OutputsLength())
            yield from map(_length, _names_in_options(schema, operator))
    for signature in _each(model, "SignatureDefs"):
        yield TABLE + _length(signature.SignatureKey())
        for entry in (*_each(signature, "Inputs"), *_each(signature, "Outputs")):
            yield TABLE + _length(entry.Name())
    for entry in _each(model, "Metadata"):
        yield TABLE + _length(entry.Name())
    if hasattr(model, "ExternalBuffers"):  # in newer schemas
        for group in _each(model, "ExternalBufferGroups"):
            yield TABLE + _length(group.Name())
        for buffer in _each(model, "ExternalBuffers"):
            yield TABLE + _length(buffer.Packing())


def _each(table, name) -> Iterator[Any]:
    """The tables in a list of a table, one at a time."""
    return map(getattr(table, name), range(getattr(table, f"{name}Length")()))


def _length(name) -> int:
    return len(name or b"")


def _names_in_options(schema, operator) -> Iterator[bytes]:
    for field in ("BuiltinOptions", "BuiltinOptions2"):
        kind, table = getattr(operator, f"{field}Type")(), getattr(operator, field)()
        for name, parts in NAMES_IN_OPTIONS.items():
            if table is not None and kind == getattr(getattr(schema, field), name, None):
                options = getattr(schema, name)()
                options.Init(table.Bytes, table.Pos)
                yield from (getattr(options, part)() for part in parts)
