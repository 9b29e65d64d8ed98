"""A graph, with the graphs that it calls, as one list of steps, what they hold, and their runs."""

import contextlib
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from tfcompress.graph.nodes import calls_its_graph, graph_of, inputs_of_call, nodes_of
from tfcompress.graph.private_keras import (
    arguments_in_inference,
    layers_in,
    mask_of,
    with_mask,
)
from tfcompress.utils.types import Tensor

Values = dict[int, tuple[Tensor, Tensor]]  # by their keys: before and after the changes
COMPOSITE = 8  # a layer made of layers is taken to hold so many times its inputs and outputs


class Step(NamedTuple):
    """One call of an operation.

    Attributes:
        node: the call, for its operation and arguments.
        arriving: the values that it takes: `(id of the symbolic tensor, key of the value)`.
        leaving: the keys of the values that it gives.
        done: the keys of the values that no later step takes.
    """

    node: Any
    arriving: list[tuple[int, int]]
    leaving: list[int]
    done: list[int]


def steps_of(graph: Any) -> list[Step]:
    """The calls of a graph and of the graphs in it, in the order in which they can run.

    The keys of the graph's inputs are the first numbers, in their order.
    """
    keys = {id(tensor): key for key, tensor in enumerate(graph.inputs)}
    found, count = [], len(graph.inputs)

    def open_up(graph, keys):
        nonlocal count
        for node in nodes_of(graph):
            arriving = list(dict.fromkeys((id(t), keys[id(t)]) for t in node.input_tensors))
            if _passes_on(node):
                inner = graph_of(node.operation)
                taken = [keys[id(t)] for t in inputs_of_call(node)]
                leaving = open_up(inner, dict(zip(map(id, inner.inputs), taken, strict=True)))
            else:
                leaving = list(range(count, count + len(node.outputs)))
                count += len(leaving)
                found.append(Step(node, arriving, leaving, []))
            keys |= dict(zip(map(id, node.outputs), leaving, strict=True))
        return [keys[id(tensor)] for tensor in graph.outputs]

    open_up(graph, keys)
    last = {key: step for step in found for key in (*step.leaving, *(k for _, k in step.arriving))}
    for key, step in last.items():
        step.done.append(key)
    return found


def _passes_on(node) -> bool:
    """Whether a node calls a graph with just what its inputs are: ranks and dtypes too."""
    if not calls_its_graph(node.operation):
        return False
    pairs = zip(inputs_of_call(node), graph_of(node.operation).inputs, strict=True)
    return all(
        given is not None and (len(given.shape), given.dtype) == (len(own.shape), own.dtype)
        for given, own in pairs
    )


def sizes_of(steps: list[Step], graph: Any, inputs: list) -> dict[int, int]:
    """The bytes of each value for one example, by its key.

    Args:
        steps: of the graph.
        graph: the graph.
        inputs: arrays, one for each of its inputs, or None where that is optional; sizes that the
            graph leaves open are theirs.
    """
    specs = dict(enumerate(graph.inputs))
    for key, array in enumerate(inputs):
        if array is not None:
            specs[key] = keras.KerasTensor((None, *array.shape[1:]), specs[key].dtype)
    for step in steps:
        outputs = step.node.outputs
        if any(None in tensor.shape[1:] for tensor in outputs):
            values = {tensor: specs[key] for tensor, key in step.arriving}
            args, kwargs = step.node.arguments.fill_in(values)
            outputs = keras.tree.flatten(step.node.operation.compute_output_spec(*args, **kwargs))
        specs |= dict(zip(step.leaving, outputs, strict=True))
    return {key: _bytes(spec) for key, spec in specs.items()}


def _bytes(spec):
    width = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "bool": 1}
    return math.prod(n or 1 for n in spec.shape[1:]) * width.get(str(spec.dtype), 4)


def held_bytes(steps: list[Step], sizes: dict[int, int], inputs: int) -> list[int]:
    """The bytes of an example's values that wait between two steps, at most, from each step on.

    Each step's values are given back example by example, as those of the next one come.
    """
    waiting = set(range(inputs))
    found = [sum(sizes[key] for key in waiting)]
    for step in steps:
        waiting = (waiting | set(step.leaving)) - set(step.done)
        found.append(sum(sizes[key] for key in waiting))
    for place in reversed(range(len(found) - 1)):
        found[place] = max(found[place], found[place + 1])
    return found


def working_bytes(steps: list[Step], sizes: dict[int, int]) -> int:
    """The bytes of an example in the widest step while it runs: what it takes and what it gives."""

    def of(step):
        operation = step.node.operation
        parts = layers_in(operation) if isinstance(operation, keras.layers.Layer) else [operation]
        total = sum(sizes[key] for key in (*step.leaving, *(key for _, key in step.arriving)))
        return total * (1 if len(parts) == 1 else COMPOSITE)

    return max(map(of, steps), default=0)


class Stretch:
    """Steps that run one after the other, before and after the changes; in TensorFlow functions.

    Where nothing that arrives or runs has changed, they run once. Step by step, Keras' own code
    takes about a millisecond for each call of a layer, and so most of the time of a small batch. A
    function runs it once, when it is traced; one serves both runs where only weights have changed.

    Args:
        steps: of a graph.
        changed: for each step the operation as it is now.
        fixed: whether the batches are of one length, on which the operations may count.
        eager: whether to run step by step on every backend.
        weights: for the steps that are as before but for their weights, by their place: pairs of a
            variable and a function that gives the value that it has now. It is called when batches
            come, so that no second copy of a kernel is held while others run.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        changed: Sequence[Any],
        fixed: bool = False,
        eager: bool = False,
        weights: Mapping[int, Sequence[tuple]] | None = None,
    ) -> None:
        self.steps, self.fixed = steps, fixed
        self.before, self.now = [step.node.operation for step in steps], list(changed)
        self.changed = [a is not b for a, b in zip(self.before, self.now, strict=True)]
        self.arriving = {key for step in steps for _, key in step.arriving}
        self.traced = None if eager or keras.backend.backend() != "tensorflow" else {}
        self.weights = {} if self.traced is None or weights is None else weights
        for place in self.weights:
            self.now[place] = self.before[place]

    def __call__(self, batches: Iterable[Values]) -> None:
        """Runs on the values of batches, which those that leave replace."""
        pairs = {place: list(zip(*pairs, strict=True)) for place, pairs in self.weights.items()}
        own = [list(map(keras.ops.convert_to_tensor, variables)) for variables, _ in pairs.values()]
        new = [[value() for value in values] for _, values in pairs.values()]
        for values in batches:
            arriving = {key: values.pop(key) for key in self.arriving & values.keys()}
            touched = self._touched(arriving)
            first, second = ({key: pair[i] for key, pair in arriving.items()} for i in (0, 1))
            first = self._run(self.before, first, own)
            second = self._run(self.now, second, new) if touched else first
            values |= {k: (x, second[k] if k in touched else x) for k, x in first.items()}

    def _touched(self, arriving):
        """The keys of the values that differ before and after the changes."""
        touched = {key for key, (before, now) in arriving.items() if before is not now}
        for step, changed in zip(self.steps, self.changed, strict=True):
            if changed or not touched.isdisjoint(key for _, key in step.arriving):
                touched.update(step.leaving)
        return touched

    def _run(self, operations, values, weights):
        """The values that leave, by their keys."""
        if self.traced is None:
            return self._steps(operations, values, weights)
        tensors, layout = _flattened(values)
        shapes = tuple(self._shape(tensor.shape) for tensor in tensors)
        which = operations == self.now, layout, shapes
        if which not in self.traced:
            self.traced[which] = self._trace(operations, tensors, layout, shapes, weights)
        function, leaving = self.traced[which]
        return _unflattened(function(*tensors, *keras.tree.flatten(weights)), leaving)

    def _shape(self, shape):
        return shape if self.fixed or not len(shape) else (None, *shape[1:])

    def _trace(self, operations, tensors, layout, shapes, weights):
        """A function of TensorFlow for tensors of these shapes, and the layout of what it gives."""
        import tensorflow as tf

        leaving = None

        def flat(*arguments):
            nonlocal leaving
            values = _unflattened(arguments[: len(tensors)], layout)
            given = keras.tree.pack_sequence_as(weights, arguments[len(tensors) :])
            outputs, leaving = _flattened(self._steps(operations, values, given))
            return outputs

        specs = [tf.TensorSpec(s, t.dtype) for s, t in zip(shapes, tensors, strict=True)]
        specs += [tf.TensorSpec(w.shape, w.dtype) for w in keras.tree.flatten(weights)]
        # Without autograph, as Keras' own `predict`.
        function = tf.function(flat, autograph=False).get_concrete_function(*specs)
        return function, leaving

    def _steps(self, operations, values, weights):
        weights = dict(zip(self.weights, weights, strict=True))
        for place, (step, operation) in enumerate(zip(self.steps, operations, strict=True)):
            arriving = {tensor: values[key] for tensor, key in step.arriving}
            args, kwargs = arguments_in_inference(step.node, arriving)
            variables = [variable for variable, _ in self.weights.get(place, ())]
            mapping = list(zip(variables, weights.get(place, ()), strict=True))
            with keras.StatelessScope(mapping) if mapping else contextlib.nullcontext():
                outputs = keras.tree.flatten(operation(*args, **kwargs))
            values |= dict(zip(step.leaving, outputs, strict=True))
            for key in step.done:
                values.pop(key, None)
        return values


def arguments_of(step: Step, values: Values) -> list[tuple]:
    """The arguments of a step before and after the changes, each `(args, kwargs)`."""
    return [
        arguments_in_inference(step.node, {tensor: values[k][i] for tensor, k in step.arriving})
        for i in (0, 1)
    ]


def _flattened(values: dict[int, Tensor]) -> tuple[list, Hashable]:
    """Each tensor and mask once, and where it belongs: `((key, place, place of its mask), ...)`.

    A function of TensorFlow takes neither masks nor the same tensor in two places as such.
    """
    tensors, places = [], {}

    def place(tensor):
        if tensor is None:
            return None
        if id(tensor) not in places:
            places[id(tensor)] = len(tensors)
            tensors.append(tensor)
        return places[id(tensor)]

    return tensors, tuple((key, place(x), place(mask_of(x))) for key, x in sorted(values.items()))


def _unflattened(tensors: list, layout: Hashable) -> dict[int, Tensor]:
    tensors = [*tensors, None]  # the last one for inputs that are not given
    for place, mask in {(place, mask) for _, place, mask in layout if mask is not None}:
        tensors[place] = with_mask(tensors[place], tensors[mask])
    return {key: tensors[-1 if place is None else place] for key, place, _ in layout}
