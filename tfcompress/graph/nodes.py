"""A Functional or Sequential model as the calls of its operations."""

from collections.abc import Iterator
from typing import Any

import keras

from tfcompress.graph.keras_state import output_specs, set_input_shape, set_spec
from tfcompress.graph.paths import is_graph
from tfcompress.graph.private_keras import (
    Functional,
    functional_of,
    history_of,
    inputs_structure,
    layers_in,
    nodes_by_depth,
    run_through_graph,
)
from tfcompress.utils.types import Tensor


def graph_of(model: keras.Model) -> Any:
    """The graph of a Sequential or Functional model.

    Raises:
        ValueError: a Sequential model was never built.
    """
    graph = functional_of(model)
    if graph is None:
        raise ValueError("The model is not built yet: give it an `Input`, or call it once.")
    return graph


def calls_its_graph(model: keras.Model) -> bool:
    """Whether a call of a model runs its graph: no class has written a `call` of its own."""
    return is_graph(model) and type(model).call in (Functional.call, keras.Sequential.call)


def nodes_of(graph: Any) -> list:
    """The calls of a graph, in the order in which they can run."""
    depths = sorted(nodes_by_depth(graph).items(), reverse=True)
    return [node for _, nodes in depths for node in nodes if not node.is_input]


def ordered_inputs(graph: Any, given: Any) -> list:
    """What a graph is called with, one for each of its inputs; Keras takes it by name from a dict.

    Args:
        graph: the graph.
        given: tensors or anything in their place, in the structure of the call.
    """
    structure = inputs_structure(graph)
    if isinstance(given, dict):
        if isinstance(structure, dict):
            given = {name: given[name] for name in structure}
        else:
            given = [given[operation_of(tensor).name] for tensor in graph.inputs]
    return keras.tree.flatten(given)


def inputs_of_call(node: Any) -> list:
    """The symbolic tensors that fill the inputs of the graph that a node calls, in their order."""
    args, kwargs = node.arguments.fill_in({id(tensor): tensor for tensor in node.input_tensors})
    given = args[0] if args else next(iter(kwargs.values()))
    return ordered_inputs(graph_of(node.operation), given)


def called_operations(graph: Any) -> Iterator:
    """The operations that a graph and the graphs in it call, once for each call."""
    for node in nodes_of(graph):
        yield node.operation
        if is_graph(node.operation):
            yield from called_operations(graph_of(node.operation))


def graphs_in(model: keras.Model) -> list:
    """The graphs of a model and of the models in it, at any depth, each once."""
    graphs = [functional_of(layer) for layer in layers_in(model) if is_graph(layer)]
    return list({id(graph): graph for graph in graphs if graph is not None}.values())


def renew_shapes(model: keras.Model, changed: set[int]) -> None:
    """Corrects the symbolic tensors of the graphs in a model, where layers have other outputs now.

    Args:
        model: of any kind.
        changed: ids of the layers that may give other shapes than those that stood there.
    """
    for graph in reversed(graphs_in(model)):  # inner ones first
        nodes = nodes_of(graph)
        inputs = [tensor for tensor in graph.inputs if id(operation_of(tensor)) in changed]
        for tensor in inputs:
            set_spec(tensor, keras.KerasTensor(operation_of(tensor).batch_shape, tensor.dtype))
        if inputs or any(_differs(node) for node in nodes if id(node.operation) in changed):
            for node in nodes:
                for tensor, spec in zip(node.outputs, output_specs(node), strict=True):
                    set_spec(tensor, spec)


def free_steps(model: keras.Model, lengths: set) -> None:
    """Lets inputs of some lengths along axis 1 have any length, in all graphs of a model."""
    changed = set()
    for graph in graphs_in(model):
        for tensor in graph.inputs:
            shape = tuple(tensor.shape)
            if len(shape) > 1 and shape[1] in lengths:
                set_input_shape(operation_of(tensor), (shape[0], None, *shape[2:]))
                changed.add(id(operation_of(tensor)))
    renew_shapes(model, changed)


def _differs(node) -> bool:
    pairs = zip(node.outputs, output_specs(node), strict=True)
    return any((old.shape, old.dtype) != (new.shape, new.dtype) for old, new in pairs)


def operation_of(tensor: Tensor) -> Any:
    """The operation that made a symbolic tensor."""
    return history_of(tensor)[0]


def new_input(tensor: Tensor) -> Any:
    """A new symbolic input like one of a model's: same name, shape and dtype."""
    return keras.layers.InputLayer.from_config(operation_of(tensor).get_config()).output


def input_shapes(model: keras.Model) -> dict[int, list]:
    """The input shapes of all calls of each layer of a graph, by the id of the layer."""
    shapes = {}

    def run(part, inputs):
        graph = graph_of(part)
        return run_through_graph(graph, ordered_inputs(graph, inputs), watch)

    def watch(operation):
        def apply(*args, **kwargs):
            first = args[0] if args else next(iter(kwargs.values()))
            if is_graph(operation):
                return run(operation, first)
            if isinstance(operation, keras.layers.Layer):
                shape = keras.tree.map_structure(lambda x: tuple(x.shape), first)
                shapes.setdefault(id(operation), []).append(shape)
            return operation.compute_output_spec(*args, **kwargs)

        return apply

    run(model, model.inputs)
    return shapes
