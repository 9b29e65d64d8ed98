"""Changes the layers of a model one after the other, each by what it gets before and after."""

import collections
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras

from tfcompress.graph.intercept import altered, as_array, running
from tfcompress.graph.nodes import called_operations, calls_its_graph, graph_of
from tfcompress.graph.private_keras import layers_in, standardized_inputs
from tfcompress.graph.steps import (
    Stretch,
    arguments_of,
    held_bytes,
    sizes_of,
    steps_of,
    working_bytes,
)
from tfcompress.utils.arrays import rows
from tfcompress.utils.batches import batches, examples_in
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Data

BATCH_SIZE = 256  # at most
MEMORY = 2**30  # bytes of the values that wait between two steps
WORKING = 1 / 8  # share of it that one batch may take in one step
FEW_WEIGHTS = 2**20  # weights of a kernel, which may be computed beside what the layer holds
WAITING = 3 / 8  # share of it for the values that wait


def follow(
    model: keras.Model,
    data: Data,
    wanted: Iterable[keras.layers.Layer],
    change: Callable[..., Any],
    title: str = "Fitting layers",
    memory: int = MEMORY,
) -> None:
    """Runs a model call by call, as it is and as it is being changed, and lets its layers change.

    In a graph, all batches go through the nodes up to the next one that changes, and what no later
    node needs is dropped: two forward passes in all, however many layers change. Where the values
    of all examples would take more than the memory, fewer go on: as many as all later nodes have
    room for. The others come in at the first layer before which there is room, through all that was
    changed before it, so that no example goes through a node more than twice. A composite layer, or
    a model whose `call` is Python code, runs twice more for each group of its wanted layers that
    have the same input, up to the call of these layers.

    Memory: `memory` bytes, and the inputs themselves. At least one batch of one example is at work.

    Args:
        model: a built model of any kind.
        data: inputs, in any form of `batches`; they are held.
        wanted: layers of it, at any depth.
        change: called once for each of these that the data reach, in the order in which they are
            called, as `change(layer, pairs)`; `pairs`, an `Inputs`, yields what the layer gets
            before and after the changes so far, two arrays for each batch and call. Returns the
            chain of layers that runs in its place from now on, or None, or a function that gives
            it; that is called once all layers with the same input have begun to change.
        title: of the progress bar.
        memory: bytes.
    """
    inputs = [x for x, _, _ in batches(model, data, BATCH_SIZE)]
    if not calls_its_graph(model):
        run = _Run(model, inputs, wanted, change, title)
        run.operation(model, [_Calls(*[((x,), {"training": False})] * 2) for x in inputs])
        return
    graph = graph_of(model)
    steps = steps_of(graph)
    sizes = sizes_of(steps, graph, standardized_inputs(graph, inputs[0]))
    size = int(WORKING * memory / max(working_bytes(steps, sizes), 1))
    inputs = [part for x in inputs for part in _cut(x, max(1, min(size, BATCH_SIZE)))]
    run = _Run(model, inputs, wanted, change, title)
    run.through(graph, steps, sizes, WAITING * memory)


class Inputs:
    """What a layer gets before and after the changes so far, two arrays for each batch and call.

    Attributes:
        examples: how many examples of the model's inputs that is.
        alone: whether no other layer that changes has the same input.
    """

    def __init__(self, pairs: Iterable[tuple], examples: int, alone: bool = False) -> None:
        self.pairs, self.examples, self.alone = pairs, examples, alone

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.pairs)


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
        self.held = []  # of each batch that has come in, its values by their keys: (before, now)
        operations = list(called_operations(graph_of(model))) if calls_its_graph(model) else [model]
        self.uses = collections.Counter(
            id(layer)
            for operation in operations
            if not calls_its_graph(operation)
            for layer in _layers(operation)
        )

    def through(self, graph, steps, sizes, memory):
        """Lets the batches go through the steps, each from the first wanted layer with room for it.

        Args:
            sizes: the bytes of each value of an example.
            memory: for the values of all of them.
        """
        begins = [i for i, step in enumerate(steps) if self._wanted_in(step.node.operation)]
        # a value before the changes and one after them
        room = [memory / max(2 * size, 1) for size in held_bytes(steps, sizes, len(graph.inputs))]
        stretches = []  # as they run now
        fixed = graph.inputs[0].shape[0] is not None
        if begins and begins[0]:
            stretches.append(self._stretch(steps[: begins[0]], fixed))
        pairs = list(zip(begins, [*begins[1:], None], strict=True))
        for begin, end in progress(pairs, self.title, len(pairs), lambda p: _name(steps[p[0]])):
            self._let_in(graph, stretches, room[begin])
            if self._wanted_in(steps[begin].node.operation):
                calls = [_Calls(*arguments_of(steps[begin], values)) for values in self.held]
                self.operation(steps[begin].node.operation, calls)
                del calls  # which would hold what the step gives back
            if end is not None:
                stretches.append(self._stretch(steps[begin:end], fixed))
                stretches[-1](self.held)

    def _stretch(self, steps, fixed):
        """Steps as one function, with the operations as they are now."""
        changed = [altered(step.node.operation, self._arounds()) for step in steps]
        weights = {i: self._weights(step.node.operation) for i, step in enumerate(steps)}
        weights = {i: pairs for i, pairs in weights.items() if pairs}
        return Stretch(steps, changed, fixed, getattr(self.model, "run_eagerly", False), weights)

    def _weights(self, operation):
        """The kernel of a layer that is as before but for it, and what gives it now; see `Stretch`.

        The layer itself is traced in a third of the time of one that computes its kernel.
        """
        chain, kernel = self.chains.get(operation, ()), getattr(operation, "kernel", None)
        same = len(chain) == 1 and _same_but_for_weights(chain[0], operation)
        few = isinstance(kernel, keras.Variable) and math.prod(kernel.shape) <= FEW_WEIGHTS
        if not (same and few):
            return []
        pairs = [(kernel, lambda: chain[0].kernel)]
        if operation.bias is not None:  # which corrections change
            pairs.append((operation.bias, lambda: keras.ops.convert_to_tensor(chain[0].bias)))
        return pairs

    def _let_in(self, graph, stretches, room):
        """Lets further batches in, up to so many examples, through what ran so far."""
        count = sum(map(examples_in, self.inputs[: len(self.held)]))
        for x in self.inputs[len(self.held) :]:
            count += examples_in(x)
            if self.held and count > room:
                return
            arriving = standardized_inputs(graph, x)
            values = {key: (array, array) for key, array in enumerate(arriving)}
            for stretch in stretches:
                stretch([values])
            self.held.append(values)

    def _wanted_in(self, operation):
        return any(id(layer) in self.wanted for layer in _layers(operation))

    def operation(self, operation, calls: list[_Calls]) -> None:
        """Changes the wanted layers of an operation."""
        groups = self._groups(operation, calls)
        if groups != [[operation]]:  # of which the steps are shown
            groups = progress(groups, self.title, len(groups), lambda group: group[0].name)
        for group in groups:
            self._change(group, operation, calls)

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
        come_in = self.inputs[: len(self.held) or None]
        if group == [operation] and self.uses[id(operation)] == 1:
            pairs = (_arrays(*(_first(*call) for call in pair)) for pair in calls)
        elif max(self.uses[id(layer)] for layer in group) == 1:
            pairs = self._inside(group[0], operation, calls)
        else:  # it is called elsewhere too
            whole = [_Calls(*[((x,), {"training": False})] * 2) for x in come_in]
            self.called_once -= {id(group[0])}
            pairs = self._inside(group[0], self.model, whole)
        if len(group) > 1:
            pairs = list(pairs)
        examples = sum(map(examples_in, come_in))
        alone = len(group) == 1
        begun = [(layer, self.change(layer, Inputs(pairs, examples, alone))) for layer in group]
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


def _same_but_for_weights(part, layer) -> bool:
    """Whether a compressed layer computes what an ordinary one does with other weights.

    One that the user's own function makes may have another activation, say.
    """
    if getattr(part, "ordinary", None) is not type(layer):
        return False
    names = (*part.arguments, "activation", "compute_dtype")
    names = {name: part.ordinary_names.get(name, name) for name in names}
    same = [getattr(part, a, None) == getattr(layer, b, None) for a, b in names.items()]
    return all(same) and (part.bias is None) == (layer.bias is None)


def _name(step):
    return step.node.operation.name


def _layers(operation) -> list:
    return layers_in(operation) if isinstance(operation, keras.layers.Layer) else [operation]


def _first(args, kwargs):
    return args[0] if args else next(iter(kwargs.values()))


def _arrays(before, now) -> tuple:
    """Both as arrays; one array if nothing has changed."""
    array = as_array(before)
    return array, array if now is before else as_array(now)


def _cut(x, size) -> list:
    """A batch as batches of at most so many examples."""
    return [rows(x, slice(start, start + size)) for start in range(0, examples_in(x), size)]
