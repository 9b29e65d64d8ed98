"""A graph, with the graphs that it calls, as one list of steps, and what each of them holds."""

import math
from typing import Any, NamedTuple

import keras

from tfcompress.graph.nodes import calls_its_graph, graph_of, nodes_of
from tfcompress.graph.private_keras import layers_in

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
        inputs: arrays, one for each of its inputs; sizes that the graph leaves open are theirs.
    """
    specs = {
        key: keras.KerasTensor((None, *array.shape[1:]), tensor.dtype)
        for key, (tensor, array) in enumerate(zip(graph.inputs, inputs, strict=True))
    }
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
