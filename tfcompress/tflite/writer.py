"""Write .tflite files from the object form that `tfcompress.tflite.reader.read` returns."""

import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tfcompress.tflite.reader import builtin_code, schema

LARGEST_FILE = 2**31 - 1  # of a file: its offsets have a sign


@dataclass(frozen=True)
class LazyBuffer:
    """A buffer of a `ModelT` whose data are computed each time they are read.

    Attributes:
        length: its length in bytes.
        compute: a function without arguments that returns the array.
    """

    length: int
    compute: Callable

    @property
    def data(self) -> np.ndarray:
        return np.ascontiguousarray(self.compute()).reshape(-1).view(np.uint8)


class _EmptyBuffer:
    """Packs the entry of a buffer into the graph; its data and their offset are written later."""

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


def write(model: Any) -> bytes:
    """Writes a `ModelT` as a .tflite file.

    Unused tensors, buffers and operator codes are left out, and equal buffers, operator codes,
    vectors and names are written once.
    """
    file = io.BytesIO()
    write_to(file, model)
    return file.getvalue()


def write_to(file: Any, model: Any) -> None:
    """Does what `write` does, into an open binary file.

    The buffers follow the graph, one after the other, so that one `LazyBuffer` at a time is in
    memory.

    Raises:
        ValueError: the file would be larger than the 2 GB that its offsets reach.
    """
    for index, graph in enumerate(model.subgraphs):
        _compact_tensors(graph, [s for s in model.signatureDefs or [] if s.subgraphIndex == index])
    _compact_buffers(model)
    _compact_codes(model)
    _lists_to_arrays(model)
    buffers, builder = model.buffers, _sharing_builder()()
    model.buffers = [_EmptyBuffer(_length(buffer) > 0) for buffer in buffers]
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    model.buffers = buffers
    head = builder.Output()
    places, end = _place_buffers(head, buffers), len(head)
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
        """Writes equal vectors and names once: zero points alone take twice the bytes of scales."""

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
    """Turns lists of integers into arrays, which the builder writes once where they are equal."""
    for graph in model.subgraphs:
        holders = [(tensor, ("shape", "shapeSignature")) for tensor in graph.tensors]
        holders += [(operator, ("inputs", "outputs")) for operator in graph.operators or []]
        for holder, names in holders:
            for name in names:
                if getattr(holder, name) is not None:
                    setattr(holder, name, np.asarray(getattr(holder, name), np.int32))


def _place_buffers(head, buffers) -> list[int]:
    """Writes into the graph where each buffer will lie, and returns these places, 0 if empty."""
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
    if end > LARGEST_FILE:
        raise ValueError(
            f"A .tflite file holds at most {LARGEST_FILE:,} bytes. Received: {end:,} bytes"
        )
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
        # To compare lazy buffers would compute them all, so each counts as different.
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
