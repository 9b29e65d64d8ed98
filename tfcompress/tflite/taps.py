"""Reads what flows through a .tflite file, and the constants as the numbers that they stand for."""

import math
from collections.abc import Sequence

import numpy as np

from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import duplicate, operator_name
from tfcompress.tflite.runner import Runner
from tfcompress.utils.types import Path

REAL = ("FLOAT32", "INT8", "INT16", "UINT8")
ENDS = {"INT8": (-128, 127), "INT16": (-32768, 32767), "UINT8": (0, 255)}


class Taps:
    """A file whose inner tensors can be read as it runs, int8 ones as the numbers they stand for.

    Args:
        source: the file's bytes or its path.

    Attributes:
        graph: its main graph.
        tensors: the indices of the tensors that are read, in the order in which they are computed.
        origins: for each of these, and for the inputs, the bits of all of them that it comes from.
        makers: the operator that computes each of them.
    """

    def __init__(self, source: Path | bytes) -> None:
        self.graph = Graph(duplicate(source))
        self.subgraph = self.graph.subgraph
        inputs = list(map(int, self.subgraph.inputs))
        self.origins = {index: 1 << index for index in inputs}
        self.makers, self.tensors = {}, []
        for operator in self.subgraph.operators or []:
            bits = 0
            for index in operator.inputs:
                bits |= self.origins.get(index, 0)
            for index in operator.outputs if bits else ():
                self.origins[index] = bits | 1 << index
                self.makers[index] = operator
                if self.graph.type(index) in REAL:
                    self.tensors.append(index)
        self.outputs = list(map(int, self.subgraph.outputs))
        self._runner = None

    @property
    def numbers(self) -> int:
        """The numbers in all of these tensors for one sample."""
        return sum(math.prod(abs(n) for n in self.graph.shape(t)) for t in self.tensors)

    @property
    def batch(self) -> int | None:
        """The batch size, where the file fixes it."""
        sizes = [
            self.graph.shape(int(i))[0] for i in self.subgraph.inputs if self.graph.shape(int(i))
        ]
        return next((size for size in sizes if size > 0), None)

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
        """The outputs for a list of inputs in the file's order, and `{tensor: values}`."""
        if self._runner is None:
            file = duplicate(self.graph.model)
            file.signatureDefs = []
            file.subgraphs[0].outputs = [*self.outputs, *self.tensors]
            self._runner = Runner(file)
        values = self._runner(list(inputs))
        count = len(self.outputs)
        return values[:count], dict(zip(self.tensors, values[count:], strict=True))

    def order(self, names: Sequence[str], of: str) -> list[int]:
        """The places of the file's inputs or outputs of these names; as they come without names.

        Args:
            names: of the model's inputs or outputs.
            of: `"inputs"` or `"outputs"`.
        """
        listed = [int(index) for index in getattr(self.subgraph, of)]
        for signature in self.graph.model.signatureDefs or []:
            entries = {e.name.decode(): int(e.tensorIndex) for e in getattr(signature, of)}
            if set(names) == set(entries):
                return [listed.index(entries[name]) for name in names]
        return list(range(len(listed)))

    def ends(self, index: int) -> tuple[float, float] | None:
        """The smallest and the largest number that an integer tensor can hold; None of a float.

        Of integers that were only made floats, those of the integers.
        """
        maker = self.makers.get(index)
        if maker is not None and operator_name(self.graph.model, maker) == "DEQUANTIZE":
            index = int(maker.inputs[0])
        table = self.graph.tensors[index].quantization
        if self.graph.type(index) not in ENDS or table is None or table.scale is None:
            return None
        scale, zero = float(table.scale[0]), int(table.zeroPoint[0])
        low, high = ENDS[self.graph.type(index)]
        return scale * (low - zero), scale * (high - zero)


def real_constant(graph: Graph, index: int) -> np.ndarray | None:
    """A constant as float64 numbers, by its scales; None for what is no constant of numbers."""
    values = graph.values(index)
    if values is None or values.dtype.kind not in "fi":
        return None
    scales, table = constant_scales(graph, index), graph.tensors[index].quantization
    if scales is None:
        return values.astype("float64")
    zeros = np.asarray(table.zeroPoint, "float64")
    return (values - _along(values, table, zeros)) * scales


def constant_scales(graph: Graph, index: int) -> np.ndarray | None:
    """The scale of each entry of a constant of integers; None for one without scales."""
    table, values = graph.tensors[index].quantization, graph.values(index)
    if table is None or table.scale is None or not len(table.scale):
        return None
    return np.broadcast_to(_along(values, table, np.asarray(table.scale, "float64")), values.shape)


def _along(values, table, numbers):
    """Numbers of a constant's channels, to be broadcast to its shape."""
    shape = [1] * values.ndim
    if len(numbers) > 1:
        shape[table.quantizedDimension] = len(numbers)
    return numbers.reshape(shape)
