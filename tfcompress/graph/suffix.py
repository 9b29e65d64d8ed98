"""What a model gives on a few inputs when some of its layers are replaced."""

import collections
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import keras

from tfcompress.graph.intercept import Around, altered, as_array
from tfcompress.graph.nodes import calls_its_graph, graph_of, nodes_of
from tfcompress.graph.private_keras import (
    arguments_in_inference,
    layers_in,
    outputs_structure,
    standardized_inputs,
)
from tfcompress.graph.steps import Step, Stretch

TOGETHER = 8  # nodes that run as one function


def outputs_of(
    model: keras.Model, x: Any, arounds: Mapping[keras.layers.Layer, Around] | None = None
) -> list:
    """The outputs of a batch in inference mode, flat.

    What no later layer takes is let go. Called by itself, a graph holds all of its activations to
    the end: those of ResNet-50 are 150 MB for each image of 224 x 224.

    Args:
        model: a built model of any kind.
        x: a batch of its inputs.
        arounds: what runs in the place of layers, see `altered`.
    """
    return outputs_with(model, arounds or {})(x)


def outputs_with(
    model: keras.Model, arounds: Mapping[keras.layers.Layer, Around]
) -> Callable[[Any], list]:
    """`outputs_of` a model as a function of a batch, for many batches."""
    suffix = Suffix(model, [])
    altered_steps = suffix.altered_steps(arounds)
    return lambda x: suffix.finish(suffix.arriving(x), altered_steps)


def structured_outputs(model: Any, x: Any) -> Any:
    """`outputs_of` a model, in the structure in which it gives them."""
    if not calls_its_graph(model):
        return model(x, training=False)
    return keras.tree.pack_sequence_as(outputs_structure(graph_of(model)), outputs_of(model, x))


def watching(
    model: keras.Model, layers: Iterable[keras.layers.Layer], see: Callable[..., None]
) -> Callable[[Any], list]:
    """`outputs_of` a model as a function of a batch, which shows what goes into some layers.

    Args:
        model: a built model of any kind.
        layers: layers of it, at any depth.
        see: called as `see(layer, array)` at each call of one of the layers. A call inside a
            graph (a `tf.function`, a vectorized map) has no array and is passed over.
    """

    def shown(layer, call, x, *args, **kwargs):
        array = as_array(x)
        if array is not None:
            see(layer, array)
        return call(x, *args, **kwargs)

    return outputs_with(model, {layer: partial(shown, layer) for layer in layers})


class Suffix:
    """A model's outputs on held inputs, computed from the last call that is still the same.

    `advance` goes on in the graph with the layers as they are and holds what later nodes need;
    `outputs` runs the rest. A composite layer or a nested model is one node; a model whose `call`
    is Python code always runs as a whole.

    Args:
        model: a built model of any kind.
        batches: list of batches of its inputs.
        many: whether the rest will run many times. Nodes that nothing replaces then run as
            functions, some at a time, which are traced once: ResNet-50 takes a quarter less time.
    """

    def __init__(self, model: keras.Model, batches: list, many: bool = False) -> None:
        self.model = model
        self.nodes, self.position, self.stretches = [], 0, {}
        self.many = many and not getattr(model, "run_eagerly", False)
        if calls_its_graph(model):
            self.graph = graph_of(model)
            self.nodes = nodes_of(self.graph)
            uses = (id(t) for node in self.nodes for t in node.input_tensors)
            self.uses = collections.Counter([*uses, *map(id, self.graph.outputs)])
        self.held = list(map(self.arriving, batches))

    def advance(self, layer: keras.layers.Layer) -> None:
        """Goes on to the first node that calls a layer, which must not lie behind."""
        for _ in range(self.position, self.place(layer)):
            self.step()

    def step(self) -> Any:
        """Goes on by one node, and returns it."""
        node = self.nodes[self.position]
        for values in self.held:
            _run(node, node.operation, values)
        self.uses.subtract(map(id, node.input_tensors))
        for tensor in node.input_tensors:
            if self.uses[id(tensor)] <= 0:
                for values in self.held:
                    values.pop(id(tensor), None)
        self.position += 1
        return node

    def run_ahead(self, nodes: list) -> list[list]:
        """What nodes that come next would give, each the list of its outputs of each batch.

        Nothing else changes.
        """
        found = []
        for held in self.held:
            values = dict(held)
            for node in nodes:
                _run(node, node.operation, values)
            found.append([[values[id(tensor)] for tensor in node.outputs] for node in nodes])
        return [list(rows) for rows in zip(*found, strict=True)]

    def hold(self, tensor: Any, values: list) -> None:
        """Sets the values of a symbolic tensor, one for each batch, for all later nodes."""
        for held, value in zip(self.held, values, strict=True):
            held[id(tensor)] = value

    def place(self, layer: keras.layers.Layer) -> int:
        """The number of the first node that calls a layer; 0 in a model without a graph."""
        return next((i for i, node in enumerate(self.nodes) if _holds(node.operation, layer)), 0)

    def outputs(self, arounds: Mapping[keras.layers.Layer, Around] | None = None) -> list[list]:
        """The outputs of each batch.

        Args:
            arounds: what runs in the place of layers that do not lie behind, see `altered`.
        """
        altered_steps = self.altered_steps(arounds or {})
        return [self.finish(values, altered_steps) for values in self.held]

    def arriving(self, x: Any) -> Any:
        """What a batch is before the first node: in a graph, values by their symbolic tensors."""
        if not self.nodes:
            return x
        inputs = standardized_inputs(self.graph, x)
        return dict(zip(map(id, self.graph.inputs), inputs, strict=True))

    def altered_steps(self, arounds: Mapping[keras.layers.Layer, Around]) -> list:
        """The steps that are still to run, each with the operation that runs in its place."""
        if not self.nodes:
            return [(None, altered(self.model, arounds))]
        return [(step, altered(step.node.operation, arounds)) for step in self._left()]

    def finish(self, values: Any, altered_steps: list) -> list:
        """The outputs of a batch, from what it is before the next node."""
        if not self.nodes:
            ((_, model),) = altered_steps
            return keras.tree.flatten(model(values, training=False))
        values = dict(values)
        for start, row in self._together(altered_steps):
            if self._as_function(row):
                self._run_function(start, row, values)
                continue
            for step, operation in row:
                _run(step.node, operation, values)
                for key in step.done:
                    values.pop(key, None)
        return [values[id(tensor)] for tensor in self.graph.outputs]

    def _left(self):
        """The steps that are still to run; the key of a value is the id of its symbolic tensor."""
        found, later = [], set(map(id, self.graph.outputs))
        for node in reversed(self.nodes[self.position :]):
            arriving = dict.fromkeys(map(id, node.input_tensors))
            leaving = [id(tensor) for tensor in node.outputs]
            done = {*arriving, *leaving} - later
            found.append(Step(node, [(key, key) for key in arriving], leaving, list(done)))
            later |= {*arriving, *leaving}
        return found[::-1]

    def _together(self, left):
        """`(number of the first, steps)` of those that run together."""
        here = self.position
        for start in range(here - here % TOGETHER, len(self.nodes), TOGETHER):
            first = max(start, here)
            if row := left[first - here : start + TOGETHER - here]:  # none at the end
                yield first, row

    def _as_function(self, row) -> bool:
        whole = len(row) == TOGETHER or row[-1][0].node is self.nodes[-1]
        return self.many and whole and all(now is step.node.operation for step, now in row)

    def _run_function(self, start, row, values):
        if start not in self.stretches:
            self.stretches[start] = Stretch(*zip(*row, strict=True), fixed=True)
        stretch = self.stretches[start]
        pairs = {key: (values.pop(key),) * 2 for key in stretch.arriving & values.keys()}
        stretch([pairs])
        values |= {key: now for key, (_, now) in pairs.items()}


def _run(node, operation, values):
    args, kwargs = arguments_in_inference(node, values)
    outputs = keras.tree.flatten(operation(*args, **kwargs))
    values |= dict(zip(map(id, node.outputs), outputs, strict=True))


def _holds(operation: Any, layer: keras.layers.Layer) -> bool:
    if not isinstance(operation, keras.layers.Layer):
        return False
    return any(one is layer for one in layers_in(operation))
