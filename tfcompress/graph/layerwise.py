"""Changes the layers of a model one after the other, each by what it gets before and after."""

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras

from tfcompress.graph.intercept import altered, as_array, running
from tfcompress.graph.nodes import called_operations, calls_its_graph, graph_of, nodes_of
from tfcompress.graph.private_keras import layers_in, standardized_inputs
from tfcompress.utils.batches import batches
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Data

BATCH_SIZE = 256


def follow(
    model: keras.Model,
    data: Data,
    wanted: Iterable[keras.layers.Layer],
    change: Callable[..., Any],
    title: str = "Fitting layers",
) -> None:
    """Runs a model call by call, as it is and as it is being changed, and lets its layers change.

    In a graph, all batches go through a node before the next one runs, and what no later node needs
    is dropped: two forward passes in all, however many layers change. A composite layer, or a
    model whose `call` is Python code, runs twice more for each group of its wanted layers that have
    the same input, up to the call of these layers.

    Memory: the inputs and outputs of the operations at work, for all of the data, twice.

    Args:
        model: a built model of any kind.
        data: inputs, in any form of `batches` that can be used twice.
        wanted: layers of it, at any depth.
        change: called once for each of these that the data reach, in the order in which they are
            called, as `change(layer, pairs)`; `pairs` yields what the layer gets before and after
            the changes so far, two arrays for each batch and call. Returns the chain of layers that
            runs in its place from now on, or None, or a function that gives it; that is called once
            all layers with the same input have begun to change.
        title: of the progress bar.
    """
    inputs = [x for x, _, _ in batches(model, data, BATCH_SIZE)]
    run = _Run(model, inputs, wanted, change, title)
    if not calls_its_graph(model):
        run.operation(model, [_Calls(*[((x,), {"training": False})] * 2) for x in inputs])
        return
    graph = graph_of(model)
    arriving = [standardized_inputs(graph, x) for x in inputs]
    columns = [[(array, array) for array in column] for column in zip(*arriving, strict=True)]
    run.through(graph, columns)


class _Calls(NamedTuple):
    """One call of an operation, by its positional and its keyword arguments."""

    before: tuple
    now: tuple


class _Enough(BaseException):
    """Ends a run whose rest is not needed; no `Exception`, which Keras would wrap."""


class _Run:
    def __init__(self, model, inputs, wanted, change, title):
        self.model, self.inputs, self.change, self.title = model, inputs, change, title
        self.wanted = {id(layer) for layer in wanted}
        self.chains = {}  # {layer: what runs in its place}
        self.called_once = set()  # ids of layers inside operations
        operations = list(called_operations(graph_of(model))) if calls_its_graph(model) else [model]
        self.uses = collections.Counter(
            id(layer)
            for operation in operations
            if not calls_its_graph(operation)
            for layer in _layers(operation)
        )

    def through(self, graph, arriving):
        """The outputs of a graph, each a list of pairs (before, now), one a batch."""
        nodes = nodes_of(graph)
        uses = collections.Counter(id(t) for node in nodes for t in node.input_tensors)
        uses.update(map(id, graph.outputs))
        values = dict(zip(map(id, graph.inputs), arriving, strict=True))
        for node in progress(nodes, self.title, len(nodes), lambda node: node.operation.name):
            leaving = self._node(node, {id(t): values[id(t)] for t in node.input_tensors})
            values |= dict(zip(map(id, node.outputs), leaving, strict=True))
            uses.subtract(map(id, node.input_tensors))
            for tensor in node.input_tensors:
                if uses[id(tensor)] <= 0:
                    values.pop(id(tensor), None)
        return [values[id(tensor)] for tensor in graph.outputs]

    def _node(self, node, arrived):
        operation = node.operation
        if calls_its_graph(operation):
            return self.through(graph_of(operation), [arrived[id(t)] for t in node.input_tensors])
        calls = []
        for number in range(len(self.inputs)):
            values = [{key: col[number][i] for key, col in arrived.items()} for i in (0, 1)]
            calls.append(_Calls(*map(node.arguments.fill_in, values)))
        pairs = self.operation(operation, calls)
        return [[(b[i], n[i]) for b, n in pairs] for i in range(len(node.outputs))]

    def operation(self, operation, calls: list[_Calls]) -> list:
        """Changes the wanted layers of an operation; its outputs (before, now) of each call."""
        groups = self._groups(operation, calls)
        if groups != [[operation]]:  # of which the nodes are shown
            groups = progress(groups, self.title, len(groups), lambda group: group[0].name)
        for group in groups:
            self._change(group, operation, calls)
        changed = altered(operation, self._arounds())
        pairs = []
        for (args, kwargs), (args_now, kwargs_now) in calls:
            before = now = keras.tree.flatten(operation(*args, **kwargs))
            if changed is not operation or not _same((args, kwargs), (args_now, kwargs_now)):
                now = keras.tree.flatten(changed(*args_now, **kwargs_now))
            pairs.append((before, now))
        return pairs

    def _arounds(self):
        return {layer: running(chain) for layer, chain in self.chains.items()}

    def _groups(self, operation, calls) -> list[list]:
        """The wanted layers in the order of their calls; those with the same inputs in one list."""
        layers = [layer for layer in _layers(operation) if id(layer) in self.wanted]
        if len(layers) == 1 and layers[0] is operation:
            return [layers]
        seen, kept = {}, []

        def note(layer):
            def around(call, x, *args, **kwargs):
                kept.append(x)  # alive, so that its id stays its own
                seen.setdefault(layer, []).append(id(x))
                return call(x, *args, **kwargs)

            return around

        if layers:
            args, kwargs = calls[0].before
            altered(operation, {layer: note(layer) for layer in layers})(*args, **kwargs)
        groups = {}
        for layer, inputs in seen.items():
            self.called_once |= {id(layer)} if len(inputs) == 1 else set()
            groups.setdefault(tuple(inputs), []).append(layer)
        return list(groups.values())

    def _change(self, group, operation, calls):
        self.wanted -= set(map(id, group))
        if group == [operation] and self.uses[id(operation)] == 1:
            pairs = (tuple(as_array(_first(*call)) for call in pair) for pair in calls)
        elif max(self.uses[id(layer)] for layer in group) == 1:
            pairs = self._inside(group[0], operation, calls)
        else:  # it is called elsewhere too
            whole = [_Calls(*[((x,), {"training": False})] * 2) for x in self.inputs]
            self.called_once -= {id(group[0])}
            pairs = self._inside(group[0], self.model, whole)
        if len(group) > 1:
            pairs = list(pairs)
        begun = [(layer, self.change(layer, iter(pairs))) for layer in group]
        for layer, chain in begun:
            chain = chain() if callable(chain) else chain
            if chain:
                self.chains[layer] = chain

    def _inside(self, layer, operation, calls) -> Iterator[tuple]:
        """What a layer in an operation gets before and now, at each of its calls."""
        found = []

        def keep(call, x, *args, **kwargs):
            array = as_array(x)
            if array is not None:
                found.append(array)
            if id(layer) in self.called_once:
                raise _Enough
            return call(x, *args, **kwargs)

        runs = [
            altered(operation, {layer: keep}),
            altered(operation, {**self._arounds(), layer: keep}),
        ]
        for call in calls:
            both = []
            for run, (args, kwargs) in zip(runs, call, strict=True):
                with contextlib.suppress(_Enough):
                    run(*args, **kwargs)
                both.append(found.copy())
                found.clear()
            yield from zip(*both, strict=True)


def _layers(operation) -> list:
    return layers_in(operation) if isinstance(operation, keras.layers.Layer) else [operation]


def _first(args, kwargs):
    return args[0] if args else next(iter(kwargs.values()))


def _same(one, other) -> bool:
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(a is b for a, b in pairs)
