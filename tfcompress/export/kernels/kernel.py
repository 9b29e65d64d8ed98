"""A kernel of an operator that fewer bits hold, and the constants that hold it."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfcompress.export.kernels.integer_grid import Grid, find_grid, rounded_grid
from tfcompress.export.kernels.shared_values import Shared, find_shared
from tfcompress.tflite.graph_editor import Graph, per_channel
from tfcompress.tflite.reader import operator_name
from tfcompress.utils.types import Rest

MOST_NONZERO = 0.6  # each entry of a sparse kernel takes 4 bytes, and about 2 for its place
LEAST_REST_SIZE = 1024  # entries of a kernel that `rest` rounds, as of the stock converter's int8
LARGEST_HALF = 65504.0
LARGEST_BIAS = 2.0**30  # int32 has room beside it for what the row adds
# The axis of an operator's kernel that counts its outputs; of a table, the axis of the ids.
CHANNEL_AXIS = {
    **{"FULLY_CONNECTED": 0, "CONV_2D": 0, "TRANSPOSE_CONV": 0},
    **{"DEPTHWISE_CONV_2D": 3, "CONV_3D": 4, "BATCH_MATMUL": -1, "GATHER": 0},
}


@dataclass(frozen=True)
class Kernel:
    """The constant kernel of one operator, on its grid of small integers or in float16.

    Attributes:
        code: the name of the operator.
        tensor: the index of the float32 constant.
        shape: the shape of the constant, in the operator's layout.
        axis: the axis of it that counts the outputs.
        name: the name of the constant.
        grid: its integers [o, i] and scales, with a row per output channel, or None.
        half: its values in float16, if there is no grid and float16 holds them exactly.
        values: its values in float32 [o, i], if there is no grid.
        shared: the few numbers that its entries copy, if its layer stores it that way. The grid
            then holds these numbers rounded to int8.
        rounded: whether the grid or the float16 values differ from the float32 ones.
        tied: whether it is both a table and the kernel of a matrix product.
    """

    code: str
    tensor: int
    shape: tuple[int, ...]
    axis: int
    name: str
    grid: Grid | None = field(repr=False)
    half: np.ndarray | None = field(repr=False, default=None)
    values: np.ndarray | None = field(repr=False, default=None)
    shared: Shared | None = field(repr=False, default=None)
    rounded: bool = False
    tied: bool = False

    @property
    def layer(self) -> str:
        """The path of the Keras layer that it belongs to."""
        return layer_of(self.name)

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
        return self.whole_bytes(self.bits, int2)

    def whole_bytes(self, bits: int, int2: bool) -> int:
        """The fewest bits, of at least so many, in which rows fill whole bytes."""
        if bits == 2 and (self.fan_in % 4 or not int2):
            bits = 4
        return 8 if bits == 4 and self.fan_in % 2 else bits

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def units(self) -> int:
        return self.shape[self.axis]

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

    def decoded(self) -> np.ndarray:
        """The kernel as it is stored, in float32 and in the operator's own layout."""
        if self.grid is None:
            return self.half.astype(np.float32)
        return self._in_layout(self.grid.decode())

    def _in_layout(self, rows):
        rest = [size for place, size in enumerate(self.shape) if place != self.axis]
        return np.moveaxis(rows.reshape(-1, *rest), 0, self.axis)

    def add_as_is(self, graph: Graph, bits: int) -> int:
        """Adds the constant of `bits` bits in the operator's own layout."""
        if bits == 16:
            return self._add(graph, self.half, 16, None)
        return self._add(graph, self._in_layout(self.grid.values), bits, self.axis)

    def add_as_matrix(self, graph: Graph, bits: int, extra: int = 0) -> int:
        """Adds the constant as [o, i + extra], with zeros in the last columns."""
        return self._add(graph, np.pad(self.grid.values, [(0, 0), (0, extra)]), bits, 0)

    def beside_bias(self, bias: np.ndarray, input_scale: float) -> "Kernel":
        """The kernel with larger scales where int32 could not hold a bias in units of them.

        Beside such a bias the row of a nearly dead channel is nothing, and rounds to zeros.
        """
        least = np.abs(bias) / (np.float64(input_scale) * LARGEST_BIAS)
        scale = np.maximum(self.grid.scale, least).astype(np.float32)
        values = np.rint(self.grid.values * (self.grid.scale / scale)[:, None]).astype(np.int8)
        return replace(self, grid=replace(self.grid, scale=scale, values=values))

    def _add(self, graph, values, bits, axis):
        scales = None if self.grid is None else self.grid.scale.tobytes()
        key = (self.tensor, bits, values.shape, scales)
        if key not in graph.added:  # operators that share a kernel share the new constant
            if bits == 16:
                graph.added[key] = graph.constant(values, self.name)
            else:
                scale = per_channel(self.grid.scale, axis)
                values = np.ascontiguousarray(values)
                graph.added[key] = graph.integers(values, bits, self.name, scale)
        return graph.added[key]


def layer_of(name: str) -> str:
    """The path of a layer from the name of its constant: `"block/fc"` of `"block/fc/kernel"`."""
    return name.rpartition("/")[0] or name


def weight_place(code: str) -> int:
    """Which input of an operator is its kernel."""
    return 0 if code == "GATHER" else 1


def channel_axis(graph: Graph, operator: Any) -> int | None:
    """The axis of an operator's kernel that counts the outputs, or None if it can have no kernel.

    That of a GATHER is a table of rows, which are looked up.
    """
    code, options = operator_name(graph.model, operator), operator.builtinOptions
    axis = CHANNEL_AXIS.get(code)
    if axis is None or len(operator.inputs) < 2:
        return None
    shape = graph.shape(operator.inputs[weight_place(code)])
    if code == "GATHER" and (options.axis or options.batchDims or len(shape) != 2):
        return None
    if code == "BATCH_MATMUL":
        axis = len(shape) - (2 if options.adjY else 1)
    return axis


def find_kernel(
    graph: Graph, operator: Any, layers: dict, rest: Rest = "float32", tied: bool = False
) -> Kernel | None:
    """The kernel of an operator if it is a float32 constant that fewer bytes hold.

    They hold it exactly, unless its layer has a codebook or a bank of float32 numbers, or `rest`
    says to round it.

    Args:
        layers: `{path: layer}` of the model before it was lowered.
        rest: the type to which a kernel is rounded that fewer bytes do not hold exactly.
        tied: whether a table is the kernel of a matrix product, too. Other tables that are rounded
            get one scale, and not one for each row.
    """
    axis, code = channel_axis(graph, operator), operator_name(graph.model, operator)
    index = None if axis is None else operator.inputs[weight_place(code)]
    if index is None or graph.type(index) != "FLOAT32":
        return None
    values = graph.values(index)
    if values is None or values.size == 0:
        return None
    rows = kernel_rows(values, axis)
    known = {"code": code, "tensor": index, "shape": values.shape, "axis": axis}
    known |= {"name": graph.name(index), "tied": tied}
    table = code == "GATHER" and not tied
    grid, shared = (_grid_of_one_scale(rows) if table else None) or find_grid(rows), None
    if grid is None:
        shared = find_shared(rows, layers.get(layer_of(known["name"])))
        grid = None if shared is None else shared.rounded()
    if grid is not None:
        return Kernel(**known, grid=grid, shared=shared, rounded=shared is not None)
    half = values.astype(np.float16)
    if np.array_equal(half, values):
        return Kernel(**known, grid=None, half=half, values=rows)
    large = values.size >= LEAST_REST_SIZE
    if rest == "int8" and large:
        return Kernel(**known, grid=rounded_grid(rows, table), rounded=True)
    if rest == "float16" and large and np.abs(values).max() <= LARGEST_HALF:
        return Kernel(**known, grid=None, half=half, values=rows, rounded=True)
    sparse = np.count_nonzero(values) <= MOST_NONZERO * values.size
    return Kernel(**known, grid=None, values=rows) if sparse else None


def _grid_of_one_scale(rows) -> Grid | None:
    """The 8-bit grid of a table whose rows have one scale: for each row a smaller one may do."""
    grid = find_grid(rows.reshape(1, -1))
    if grid is None or grid.bits < 8:
        return None
    return Grid(grid.values.reshape(rows.shape), np.repeat(grid.scale, len(rows)), 8)


def kernel_rows(values: np.ndarray, axis: int) -> np.ndarray:
    """A kernel in an operator's layout as a matrix with a row per output channel."""
    values = np.moveaxis(values, axis, 0)
    return values.reshape(len(values), -1)
