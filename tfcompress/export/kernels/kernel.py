"""A kernel of an operator that fewer bits hold, and the constants that hold it."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfcompress.export.kernels.integer_grid import Grid, find_grid
from tfcompress.export.kernels.shared_values import Shared, find_shared
from tfcompress.tflite.graph_editor import Graph, per_channel
from tfcompress.tflite.reader import operator_name

MOST_NONZERO = 0.6  # each entry of a sparse kernel takes 4 bytes, and about 2 for its place
CHANNEL_AXIS = {"FULLY_CONNECTED": 0, "CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}


@dataclass(frozen=True)
class Kernel:
    """The constant kernel of one operator, on its grid of small integers or in float16.

    Attributes:
        code: the name of the operator.
        tensor: the index of the float32 constant.
        shape: the shape of the constant, in the operator's layout.
        layer: the path of the Keras layer that it belongs to, or the constant's own name.
        grid: its integers [o, i] and scales, with a row per output channel, or None.
        half: its values in float16, if there is no grid and float16 holds them exactly.
        values: its values in float32 [o, i], if there is no grid.
        shared: the few numbers that its entries copy, if its layer stores it that way. The grid
            then holds these numbers rounded to int8.
    """

    code: str
    tensor: int
    shape: tuple[int, ...]
    layer: str
    grid: Grid | None = field(repr=False)
    half: np.ndarray | None = field(repr=False, default=None)
    values: np.ndarray | None = field(repr=False, default=None)
    shared: Shared | None = field(repr=False, default=None)

    @property
    def bits(self) -> int:
        """The fewest bits that hold the kernel: 2, 4, 8, 16 or 32."""
        if self.grid is not None:
            return self.grid.bits
        return 32 if self.half is None else 16

    def bits_for(self, int2: bool) -> int:
        """The fewest bits for a matrix product: the delegate takes rows of whole bytes alone.

        `int2` is whether the oldest runtime that must run the file knows 2-bit kernels.
        """
        bits = self.bits
        if bits == 2 and (self.fan_in % 4 or not int2):
            bits = 4
        return 8 if bits == 4 and self.fan_in % 2 else bits

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def units(self) -> int:
        return self.shape[CHANNEL_AXIS[self.code]]

    @property
    def fan_in(self) -> int:
        return self.size // self.units

    @property
    def taps(self) -> tuple[int, int]:
        return self.shape[1:3]

    def rows(self, bits: int) -> np.ndarray:
        """The kernel [o, i] as int8 (`bits` 8) or float32 numbers."""
        return self.grid.values if bits == 8 else self.values

    def levels(self) -> np.ndarray:
        """The distinct integers of the grid, int8, ascending."""
        return np.unique(self.grid.values)

    def add_as_is(self, graph: Graph, bits: int) -> int:
        """Adds the constant of `bits` bits in the operator's own layout."""
        if bits == 16:
            return self._add(graph, self.half, 16, None)
        axis = CHANNEL_AXIS[self.code]
        rest = [size for place, size in enumerate(self.shape) if place != axis]
        values = np.moveaxis(self.grid.values.reshape(-1, *rest), 0, axis)
        return self._add(graph, values, bits, axis)

    def add_as_matrix(self, graph: Graph, bits: int, extra: int = 0) -> int:
        """Adds the constant as [o, i + extra], with zeros in the last columns."""
        return self._add(graph, np.pad(self.grid.values, [(0, 0), (0, extra)]), bits, 0)

    def _add(self, graph, values, bits, axis):
        key = (self.tensor, bits, values.shape)
        if key not in graph.added:  # operators that share a kernel share the new constant
            name = f"{self.layer}/kernel"
            if bits == 16:
                graph.added[key] = graph.constant(values, name)
            else:
                scale = per_channel(self.grid.scale, axis)
                graph.added[key] = graph.integers(np.ascontiguousarray(values), bits, name, scale)
        return graph.added[key]


def find_kernel(graph: Graph, operator: Any, layers: dict) -> Kernel | None:
    """The kernel of an operator if it is a float32 constant that fewer bytes hold.

    They hold it exactly, unless its layer has a codebook or a bank of float32 numbers.

    Args:
        layers: `{path: layer}` of the model before it was lowered.
    """
    code = operator_name(graph.model, operator)
    if code not in CHANNEL_AXIS or graph.type(operator.inputs[1]) != "FLOAT32":
        return None
    values = graph.values(operator.inputs[1])
    if values is None or values.size == 0:
        return None
    layer, rows = graph.name(operator.inputs[1]).removesuffix("/kernel"), kernel_rows(values, code)
    grid, half, shared = find_grid(rows), None, None
    if grid is None:
        shared = find_shared(rows, layers.get(layer))
        grid = None if shared is None else shared.rounded()
    if grid is None:
        half = values.astype(np.float16)
        half = half if np.array_equal(half, values) else None
        if half is None and np.count_nonzero(values) > MOST_NONZERO * values.size:
            return None
    rest = (half, rows, shared) if grid is None else (None, None, shared)
    return Kernel(code, operator.inputs[1], values.shape, layer, grid, *rest)


def kernel_rows(values: np.ndarray, code: str) -> np.ndarray:
    """A kernel in an operator's layout as a matrix with a row per output channel."""
    values = np.moveaxis(values, CHANNEL_AXIS[code], 0)
    return values.reshape(len(values), -1)
