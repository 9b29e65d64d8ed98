"""What a model gives on a few inputs when some of its layers are replaced."""

import collections
import contextlib
from typing import Any

import keras

from tfcompress.graph.nodes import graph_of, nodes_of
from tfcompress.graph.paths import is_graph
from tfcompress.graph.private_keras import standardized_inputs


class Suffix:
    """A model's outputs on held inputs, computed from the last node that is still the same.

    `advance` goes on in the graph with the layers as they are and holds what later nodes need;
    `outputs` runs the rest. A nested model is one node.

    Args:
        model: a built Sequential or Functional model.
        batches: list of batches of its inputs.
    """

    def __init__(self, model: keras.Model, batches: Any) -> None:
        self.graph = graph_of(model)
        self.nodes = nodes_of(self.graph)
        self.uses = collections.Counter(id(t) for node in self.nodes for t in node.input_tensors)
        self.uses.update(map(id, self.graph.outputs))
        self.position = 0
        flat = [standardized_inputs(self.graph, x) for x in batches]
        self.held = [dict(zip(map(id, self.graph.inputs), arrays, strict=True)) for arrays in flat]

    def advance(self, layer: keras.layers.Layer) -> None:
        """Goes on to the first node that calls a layer, which must not lie behind."""
        for _ in range(self.position, self.place(layer)):
            node = self.nodes[self.position]
            for values in self.held:
                _run(node, values)
            self.uses.subtract(map(id, node.input_tensors))
            for tensor in node.input_tensors:
                if self.uses[id(tensor)] <= 0:
                    for values in self.held:
                        values.pop(id(tensor), None)
            self.position += 1

    def place(self, layer: keras.layers.Layer) -> int:
        """The number of the first node that calls a layer."""
        return next(i for i, node in enumerate(self.nodes) if _calls(node.operation, layer))

    def outputs(self, changed: Any = None) -> list[list]:
        """The outputs of each batch.

        Args:
            changed: the context in which the layers that do not lie behind run, such as
                `moments.replaced`; None: as they are.
        """
        found = []
        with changed or contextlib.nullcontext():
            for held in self.held:
                values = dict(held)
                for node in self.nodes[self.position :]:
                    _run(node, values)
                found.append([values[id(tensor)] for tensor in self.graph.outputs])
        return found


def _run(node, values):
    args, kwargs = node.arguments.fill_in(values)
    outputs = keras.tree.flatten(node.operation(*args, **kwargs))
    values |= dict(zip(map(id, node.outputs), outputs, strict=True))


def _calls(operation, layer):
    if not is_graph(operation):
        return operation is layer
    return any(_calls(node.operation, layer) for node in nodes_of(graph_of(operation)))
