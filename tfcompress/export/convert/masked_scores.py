"""Scores that a mask puts at -1e9 before a softmax: integers with one scale cannot hold both."""

from typing import Any

import numpy as np

from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name

MASK = -1e4  # constants below this are masks: Keras' are -3e4 in float16, -1e9 and lower elsewhere
BELOW = 12.0  # that a masked score is put below the least score: exp(-12) is 6e-6

Range = tuple[float, float]


def bound_masks(file: Any, ranges: dict[int, Range]) -> None:
    """Raises the constants of masks as far as what they mask stays near zero behind a softmax.

    Found are constants that are added to the scores, chosen in their place, or multiplied by a mask
    that is added to them.

    Args:
        file: a float32 file as a `ModelT`, whose operators get other constants.
        ranges: of its activations, by the index of the tensor; those of masked scores change.
    """
    masks = _Masks(Graph(file), ranges)
    for operator in list(masks.graph.subgraph.operators):
        if operator_name(file, operator) == "SOFTMAX":
            masks.bound(int(operator.inputs[0]))


class _Masks:
    def __init__(self, graph: Graph, ranges: dict[int, Range]) -> None:
        self.graph, self.ranges = graph, ranges
        operators = graph.subgraph.operators
        self.makers = {int(index): o for o in operators for index in o.outputs}

    def bound(self, tensor: int) -> Range | None:
        """The range of scores, below which masked ones lie by `BELOW`; None if it is not known."""
        operator, path = self._maker(tensor)
        added = self._code(operator) == "ADD"
        if not added and self._code(operator) != "SELECT_V2":
            return self.ranges.get(tensor)
        first = 0 if added else 1
        for place, other in ((first, first + 1), (first + 1, first)):
            found = self._constant(operator, place)
            scores = None if found is None else self.bound(int(operator.inputs[other]))
            if scores is not None:
                low, high = scores[0] - BELOW, scores[1]
                self._set(*found, low - high if added else low)
                self.ranges.update((index, (low, high)) for index in path if index in self.ranges)
                return low, high
        return self.ranges.get(tensor)

    def _constant(self, operator, place):
        """The operator that reads the constant of a mask, the place there, and what it makes."""
        index, path = int(operator.inputs[place]), []
        if (values := self.graph.values(index)) is None:
            operator, path = self._maker(index)
            inputs = list(map(int, operator.inputs)) if self._code(operator) == "MUL" else []
            constant = [i for i, t in enumerate(inputs) if self.graph.values(t) is not None]
            if len(constant) != 1:
                return None
            (place,) = constant
            values = self.graph.values(inputs[place])
        masks = values.dtype == np.float32 and values.size and values.min() < MASK
        return (operator, place, path) if masks else None

    def _set(self, operator, place, path, value) -> None:
        values = self.graph.values(int(operator.inputs[place]))
        inputs = list(map(int, operator.inputs))
        inputs[place] = self.graph.constant(np.where(values < MASK, np.float32(value), values))
        operator.inputs = inputs
        self.ranges.update((index, (value, 0.0)) for index in path if index in self.ranges)

    def _maker(self, tensor):
        """The operator that makes the numbers of a tensor, and the tensors from there to it."""
        path = [tensor]
        while self._code(operator := self.makers.get(path[-1])) == "RESHAPE":
            path.append(int(operator.inputs[0]))
        return operator, path

    def _code(self, operator) -> str:
        return "" if operator is None else operator_name(self.graph.model, operator)
