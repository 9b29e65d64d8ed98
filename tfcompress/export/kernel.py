"""A low-bit kernel of an operator, and the constants that hold it."""

import math
from dataclasses import dataclass, field

import numpy as np

from .graph import Graph, per_channel
from .grid import Grid, find_grid

CHANNEL_AXIS = {"FULLY_CONNECTED": 0, "CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}


@dataclass(frozen=True)
class Kernel:
    """The constant kernel of one operator, on its grid of small integers or in float16.

    Attributes:
        code: the operator's name.
        tensor: the index of the float32 constant.
        shape: of the constant, as the operator wants it.
        layer: the path of the Keras layer that it belongs to, or the constant's own name.
        grid: its integers [o, i] and scales, a row per output channel, or None.
        half: where there is no grid, its values, which float16 holds exactly.
    """

    code: str
    tensor: int
    shape: tuple[int, ...]
    layer: str
    grid: Grid | None = field(repr=False)
    half: np.ndarray | None = field(repr=False, default=None)

    @property
    def bits(self) -> int:
        """The fewest bits that hold the kernel: 2, 4, 8 or 16."""
        return 16 if self.grid is None else self.grid.bits

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

    def as_is(self, graph: Graph, bits) -> int:
        """The constant of `bits` bits in the operator's own layout."""
        if bits == 16:
            return graph.constant(self.half, f"{self.layer}/kernel")
        axis = CHANNEL_AXIS[self.code]
        rest = [size for place, size in enumerate(self.shape) if place != axis]
        values = np.moveaxis(self.grid.values.reshape(-1, *rest), 0, axis)
        return self._add(graph, values, bits, axis)

    def as_matrix(self, graph: Graph, bits, extra=0) -> int:
        """The constant as [o, i + extra], the last columns zero."""
        return self._add(graph, np.pad(self.grid.values, [(0, 0), (0, extra)]), bits, 0)

    def _add(self, graph, values, bits, axis):
        key = (self.tensor, bits, values.shape)
        if key not in graph.added:  # operators that share a kernel share the new constant
            name, scale = f"{self.layer}/kernel", per_channel(self.grid.scale, axis)
            graph.added[key] = graph.integers(np.ascontiguousarray(values), bits, name, scale)
        return graph.added[key]


def find_kernel(graph: Graph, operator, code, layer) -> Kernel | None:
    """The kernel of an operator if it is a float32 constant that fewer bits hold exactly.

    Args:
        code: the operator's name.
        layer: called with the constant's rows and name, gives the path of its layer.
    """
    if code not in CHANNEL_AXIS or graph.type(operator.inputs[1]) != "FLOAT32":
        return None
    values = graph.values(operator.inputs[1])
    if values is None or values.size == 0:
        return None
    rows = kernel_rows(values, code)
    grid, half = find_grid(rows), None
    if grid is None:
        half = values.astype(np.float16)
        if not np.array_equal(half, values):
            return None
    name = layer(rows, graph.name(operator.inputs[1]))
    return Kernel(code, operator.inputs[1], values.shape, name, grid, half)


def kernel_rows(values, code) -> np.ndarray:
    """A kernel in an operator's layout as a matrix with a row per output channel."""
    values = np.moveaxis(values, CHANNEL_AXIS[code], 0)
    return values.reshape(len(values), -1)
