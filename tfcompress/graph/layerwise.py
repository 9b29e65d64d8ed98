"""Changes the layers of a model one after the other, each by what it gets before and after."""

import collections
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.graph.intercept import replaced, watch_inputs
from tfcompress.graph.nodes import called_operations, graph_of, nodes_of
from tfcompress.graph.paths import is_graph
from tfcompress.graph.private_keras import standardized_inputs
from tfcompress.utils.batches import batches
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Data

BATCH = 256


def follow(
    model: keras.Model,
    data: Data,
    wanted: list[keras.layers.Layer],
    change: Callable[..., Any],
    title: str = "Fitting layers",
) -> None:
    """Runs a model node by node, as it is and as it is being changed, and lets its layers change.

    All batches go through a node before the next one runs, and what no later node needs is
    dropped: two forward passes in all, however many layers change.

    Memory: the inputs and outputs of the layers at work, for all of the data, twice.

    Args:
        model: a built Sequential or Functional model.
        data: inputs, in any form of `batches` that can be gone through twice.
        wanted: layers of it, also in nested models.
        change: called once for each of these, in the order of the graph, as `change(layer, pairs)`;
            `pairs` yields what the layer gets before and after the changes so far, two arrays
            for each batch (and call, if the layer is shared). Returns the chain of layers that runs
            in its place from now on, or None.
        title: of the progress bar.
    """
    graph = graph_of(model)
    run = _Run(model, [x for x, _, _ in batches(data, BATCH)], wanted, change)
    arriving = [standardized_inputs(graph, x) for x in run.batches]
    columns = [[(array, array) for array in column] for column in zip(*arriving, strict=True)]
    run.through(graph, columns, lambda nodes: progress(nodes, title, len(nodes)))


class _Run:
    def __init__(self, model, batches, wanted, change):
        self.model, self.batches, self.change = model, batches, change
        self.wanted = {id(layer) for layer in wanted}
        self.calls = collections.Counter(map(id, called_operations(graph_of(model))))
        self.done, self.chains = [], {}

    def through(self, graph, arriving, told=list):
        """The outputs of a graph, each a list of pairs (before, now), one a batch."""
        nodes = nodes_of(graph)
        uses = collections.Counter(id(t) for node in nodes for t in node.input_tensors)
        uses.update(map(id, graph.outputs))
        values = dict(zip(map(id, graph.inputs), arriving, strict=True))
        for node in told(nodes):
            arrived = {id(tensor): values[id(tensor)] for tensor in node.input_tensors}
            leaving = self._node(node, arrived)
            values |= dict(zip(map(id, node.outputs), leaving, strict=True))
            uses.subtract(map(id, node.input_tensors))
            for tensor in node.input_tensors:
                if uses[id(tensor)] <= 0:
                    values.pop(id(tensor), None)
        return [values[id(tensor)] for tensor in graph.outputs]

    def _node(self, node, arrived):
        layer = node.operation
        if is_graph(layer):
            return self.through(graph_of(layer), [arrived[id(t)] for t in node.input_tensors])
        if id(layer) in self.wanted:
            self.wanted.remove(id(layer))
            chain = self.change(layer, self._pairs(layer, arrived[id(node.input_tensors[0])]))
            if chain:
                self.done.append((layer, chain))
                self.chains[id(layer)] = chain
        pairs = []
        for number in range(len(self.batches)):
            before = {key: column[number][0] for key, column in arrived.items()}
            now = {key: column[number][1] for key, column in arrived.items()}
            pairs.append(self._outputs(node, before, now))
        return [[(b[i], n[i]) for b, n in pairs] for i in range(len(node.outputs))]

    def _outputs(self, node, before, now):
        args, kwargs = node.arguments.fill_in(before)
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        chain = self.chains.get(id(node.operation))
        if chain is None and all(now[key] is before[key] for key in now):
            return outputs, outputs
        args, kwargs = node.arguments.fill_in(now)
        if chain is None:
            return outputs, keras.tree.flatten(node.operation(*args, **kwargs))
        x = args[0] if args else next(iter(kwargs.values()))
        for part in chain:
            x = part(x)
        return outputs, keras.tree.flatten(x)

    def _pairs(self, layer, column):
        if self.calls[id(layer)] == 1:
            for pair in column:
                yield tuple(map(keras.ops.convert_to_numpy, pair))
            return
        for x in self.batches:
            before, now = [], []
            watch_inputs(self.model, x, [layer], lambda _, array, seen=before: seen.append(array))
            with replaced(self.done):
                watch_inputs(self.model, x, [layer], lambda _, array, seen=now: seen.append(array))
            yield from zip(before, now, strict=True)
