"""A graph, with the graphs that it calls, as one list of steps, what they hold, and their runs."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from tfcompress.graph.nodes import calls_its_graph, graph_of, nodes_of
from tfcompress.graph.private_keras import layers_in, mask_of, with_mask
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
            if calls_its_graph(node.operation):
                inner = graph_of(node.operation)
                taken = [keys[id(t)] for t in node.input_tensors]
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
    """Steps that run one after the other, before and after the changes; in TensorFlow one function.

    A step runs once where neither it nor what arrives has changed. Step by step, Keras' own code
    takes about a millisecond for each call of a layer, and so most of the time of a small batch. A
    function runs it once, when it is traced.

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
        self.steps, self.changed, self.weights, self.fixed = steps, changed, weights or {}, fixed
        self.arriving = {key for step in steps for _, key in step.arriving}
        self.traced = None if eager or keras.backend.backend() != "tensorflow" else {}

    def __call__(self, batches: Iterable[Values]) -> None:
        """Runs on the values of batches, which those that leave replace."""
        if self.traced is None:
            for values in batches:
                self._run(values, {})
            return
        given = [[value() for _, value in pairs] for pairs in self.weights.values()]
        for values in batches:
            arriving = {key: values.pop(key) for key in self.arriving & values.keys()}
            tensors, layout = _flattened(arriving)
            shapes = tuple(self._shape(tensor.shape) for tensor in tensors)
            if (layout, shapes) not in self.traced:
                self.traced[layout, shapes] = self._trace(tensors, layout, shapes, given)
            function, leaving = self.traced[layout, shapes]
            values |= _unflattened(function(*tensors, *keras.tree.flatten(given)), leaving)

    def _shape(self, shape):
        return shape if self.fixed or not len(shape) else (None, *shape[1:])

    def _trace(self, tensors, layout, shapes, given):
        """A function of TensorFlow for tensors of these shapes, and the layout of what it gives."""
        import tensorflow as tf

        leaving = None

        def flat(*arguments):
            nonlocal leaving
            values = _unflattened(arguments[: len(tensors)], layout)
            weights = keras.tree.pack_sequence_as(given, arguments[len(tensors) :])
            self._run(values, dict(zip(self.weights, weights, strict=True)))
            outputs, leaving = _flattened(values)
            return outputs

        specs = [tf.TensorSpec(s, t.dtype) for s, t in zip(shapes, tensors, strict=True)]
        specs += [tf.TensorSpec(w.shape, w.dtype) for w in keras.tree.flatten(given)]
        # Without autograph, as Keras' own `predict`.
        function = tf.function(flat, autograph=False).get_concrete_function(*specs)
        return function, leaving

    def _run(self, values, weights):
        for place, (step, changed) in enumerate(zip(self.steps, self.changed, strict=True)):
            before, now = arguments_of(step, values)
            operation = step.node.operation
            outputs = same = keras.tree.flatten(operation(*before[0], **before[1]))
            if place in weights:
                variables = [variable for variable, _ in self.weights[place]]
                mapping = list(zip(variables, weights[place], strict=True))
                with keras.StatelessScope(state_mapping=mapping):
                    same = keras.tree.flatten(operation(*now[0], **now[1]))
            elif changed is not operation or not _same(before, now):
                same = keras.tree.flatten(changed(*now[0], **now[1]))
            values |= dict(zip(step.leaving, zip(outputs, same, strict=True), strict=True))
            for key in step.done:
                values.pop(key, None)


def arguments_of(step: Step, values: Values) -> list[tuple]:
    """The arguments of a step before and after the changes, each `(args, kwargs)`."""
    return [
        step.node.arguments.fill_in({tensor: values[key][i] for tensor, key in step.arriving})
        for i in (0, 1)
    ]


def _same(one, other) -> bool:
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(a is b for a, b in pairs)


def _flattened(values: Values) -> tuple[list, Hashable]:
    """Each tensor and mask once, and where it belongs: `{key: (place, place of its mask), ...}`.

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

    def both(tensor):
        return place(tensor), place(mask_of(tensor))

    return tensors, tuple((key, *map(both, pair)) for key, pair in sorted(values.items()))


def _unflattened(tensors: list, layout: Hashable) -> Values:
    masks = {place: mask for _, *pair in layout for place, mask in pair if mask is not None}
    tensors = [*tensors, None]  # the last one for inputs that are not given
    for place, mask in masks.items():
        tensors[place] = with_mask(tensors[place], tensors[mask])
    places = ((key, *(-1 if p is None else p for p, _ in pair)) for key, *pair in layout)
    return {key: (tensors[before], tensors[now]) for key, before, now in places}
