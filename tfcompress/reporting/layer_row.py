"""What one layer of a model takes, as a row of its report."""

import dataclasses
import math

import keras
import numpy as np

from tfcompress.graph.paths import walk
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.measure.macs import matrices
from tfcompress.utils.arrays import to_numpy


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer with a kernel (a matrix or a larger array of weights).

    Attributes:
        path: the path of the layer (see `tfcompress.walk`).
        method: the name of its class.
        kernel_shape: the shape of the kernel; several for a separable or a recurrent layer.
        bits: the bits of the kernel as stored, without the bias.
        float_bits: the bits of the kernel in float32, or with a baseline of its layer of that path;
            0 for a layer that it does not have.
        macs: multiply-accumulates per sample, None if unknown.
        numbers: how many numbers are stored.
        nonzero: the share of them that are not zero.
        parts: with a baseline, the rows of the layers that stand in the place of one of its layers,
            if they are several or inside it; the row itself is their sum.
        file_bytes: the bytes of the layer's constants in the .tflite file; None without a file, or
            if no constant in it belongs to the layer.
        encodings: the types of these constants, that of the largest first.
        subgraphs: the numbers of the graphs of the file that hold them: 0 is the main one, others
            are bodies of loops.
        full_size: whether the layer is compressed, but the file holds a float32 constant as large
            as its ordinary kernel.
    """

    path: str
    method: str
    kernel_shape: tuple
    bits: int
    float_bits: int
    macs: int | None
    numbers: int
    nonzero: float
    file_bytes: int | None = None
    encodings: tuple[str, ...] = ()
    subgraphs: tuple[int, ...] = ()
    full_size: bool = False
    parts: tuple["LayerRow", ...] = ()

    @property
    def ratio(self) -> float:
        """How many times fewer bits than in float32."""
        return self.float_bits / max(self.bits, 1)


def float_kernels(model: keras.Model) -> dict[str, int]:
    """The bits of the kernel of each layer in float32."""
    return {
        path: 32 * _count(layer) for path, (layer, _) in walk(model).items() if kernels_of(layer)
    }


def layer_row(path: str, layer: keras.layers.Layer, cost: int | None) -> LayerRow:
    """The row of one layer."""
    if isinstance(layer, CompressedLayer):
        bits, arrays = layer.bits, list(layer.stored().values())
        shape = layer.kernel_shape(layer.get_build_config()["input_shape"])
    else:
        bits = sum(variable_bits(v) for v in kernels_of(layer))
        arrays = [to_numpy(v) for v in kernels_of(layer)]
        shape = _only([tuple(v.shape) for v in kernels_of(layer)])
    return LayerRow(
        path=path,
        method=type(layer).__name__,
        kernel_shape=shape,
        bits=bits,
        float_bits=32 * _count(layer),
        macs=cost,
        numbers=sum(a.size for a in arrays),
        nonzero=sum(np.count_nonzero(a) for a in arrays) / sum(a.size for a in arrays),
    )


def rows_by_original(
    rows: list[LayerRow], before: dict[str, int], owners: dict[str, str]
) -> list[LayerRow]:
    """One row for each layer of a baseline, then those of the layers that it does not have.

    Args:
        rows: of the layers of a model.
        before: the float32 bits of the kernels of the baseline, by path.
        owners: the layers of the baseline in whose places chains stand, as from `link_owners`.
    """
    groups = {path: [] for path in before}
    for row in rows:
        around = [o for o in before if row.path == o or row.path.startswith(f"{o}/")]
        owner = max(around, key=len, default=owners.get(row.path))
        groups.setdefault(owner if owner in before else row.path, []).append(row)
    return [_sum(path, parts, before.get(path, 0)) for path, parts in groups.items()]


def _sum(path, parts, float_bits):
    """The row of an original layer from those of the layers in its place."""
    if [part.path for part in parts] == [path]:
        return dataclasses.replace(parts[0], float_bits=float_bits)
    numbers = sum(part.numbers for part in parts)
    costs = [part.macs for part in parts]
    return LayerRow(
        path=path,
        method=" + ".join(part.method for part in parts) or "removed",
        kernel_shape=tuple(part.kernel_shape for part in parts),
        bits=sum(part.bits for part in parts),
        float_bits=float_bits,
        macs=None if None in costs else sum(costs),
        numbers=numbers,
        nonzero=sum(part.numbers * part.nonzero for part in parts) / max(numbers, 1),
        parts=tuple(parts),
    )


def kernels_of(layer: keras.layers.Layer) -> list:
    """The variables that hold the kernels of a layer, as stored."""
    return list(layer.parts.values()) if isinstance(layer, CompressedLayer) else matrices(layer)


def _count(layer) -> int:
    """The number of entries of the ordinary kernel."""
    if isinstance(layer, CompressedLayer):
        return math.prod(layer.kernel_shape(layer.get_build_config()["input_shape"]))
    return sum(math.prod(v.shape) for v in kernels_of(layer))


def variable_bits(variable: keras.Variable) -> int:
    """The bits of a variable; bool takes a byte for each value, as in memory."""
    bits = {"bool": 8, "bfloat16": 16}.get(variable.dtype) or 8 * np.dtype(variable.dtype).itemsize
    return bits * math.prod(variable.shape)


def _only(items):
    return items[0] if len(items) == 1 else tuple(items)


def why_left(layer: keras.layers.Layer) -> str | None:
    """Why a layer is not compressed, or None if it is."""
    if isinstance(layer, CompressedLayer):
        return None
    dtypes = {v.dtype for v in kernels_of(layer)}
    return f"ordinary {', '.join(sorted(dtypes))}" if dtypes else "no kernel"
