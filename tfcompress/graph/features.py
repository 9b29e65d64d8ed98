"""Features of a model: the output of any layer or operation of its graph, at any depth."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from tfcompress.graph.chain import Chain
from tfcompress.graph.nodes import graph_of, new_input, nodes_of, ordered_inputs
from tfcompress.graph.paths import is_graph, name_of
from tfcompress.graph.private_keras import (
    KerasTensor,
    history_of,
    inbound_nodes,
    inputs_structure,
    layers_in,
    run_through_graph,
)
from tfcompress.utils.types import Tensor

PASSING = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Dropout, keras.layers.Identity)
PASSING_OPERATIONS = ("Cast", "ExpandDims", "Identity", "Reshape", "Squeeze")


class Forward(NamedTuple):
    """What one run of a model gives: its outputs, and the features that were asked for."""

    outputs: object
    features: list


class Tap(NamedTuple):
    """A place in a model's graph: a path, and which of the operation's calls is meant."""

    path: str
    call: int
    shape: tuple
    activation: object

    @property
    def name(self) -> str:
        return f"{self.path}:{self.call}" if self.call else self.path


class Tapped:
    """A model that also gives features, in one forward pass.

    A plain object, which Keras neither tracks nor saves.
    """

    def __init__(self, model: keras.Model, taps: Any) -> None:
        self.model, self.taps = model, taps
        self.graph = None
        if taps:
            inputs, outputs, features = _opened(model, taps)
            self.graph = keras.Model(inputs, [outputs, features])
            self.up_to = keras.Model(inputs, features)

    def __call__(self, x: Any, training: bool | None) -> Forward:
        if self.graph is None:
            return Forward(self.model(x, training=training), [])
        return Forward(*self.graph(x, training=training))


def find(model: keras.Model, place: Any) -> Tap:
    """Finds a place in the graph of a model.

    Args:
        model: a Sequential or Functional model.
        place: the name of a layer or operation, unique at any depth, or its path
            (`"block/conv"`), followed by `:1` for its second call; the layer itself; or a symbolic
            tensor of the model.

    Raises:
        ValueError: the model is a subclassed one; there is no such place, or several.
    """
    check_has_features(model)
    calls = _calls(model)
    found = [key for key, node in calls.items() if _is_place(place, key, node)]
    if isinstance(place, str):
        found = [key for key in found if place in (key[0], f"{key[0]}:{key[1]}")] or found
    if len(found) == 1:
        node = calls[found[0]]
        if len(node.output_tensors) != 1:
            raise ValueError(f"'{found[0][0]}' of {model.name!r} has several outputs: name one.")
        return Tap(*found[0], node.output_tensors[0].shape, activation_of(node.output_tensors[0]))
    listed = list(dict.fromkeys(path for path, _ in (found or calls)))
    near = difflib.get_close_matches(str(place), listed, n=8, cutoff=0.4)
    raise ValueError(
        f"Model {model.name!r} has {len(found) or 'no'} places {place!r}. Expected the name, path, "
        f"layer or symbolic tensor of one of: {', '.join(near or listed[:20])}"
    )


def check_has_features(model: keras.Model) -> None:
    """Raises unless the model's layers can be seen in a graph."""
    if not is_graph(model) or not model.built:
        kind = "is not built" if is_graph(model) else f"is the subclassed {type(model).__name__}"
        raise ValueError(
            f"A hint needs the graph of the model, and {model.name!r} {kind}. Build it as a "
            "Functional model, `keras.Model(inputs, outputs)`, with the layer of the hint in its "
            "graph. Without hints any model can be distilled."
        )


def activation_of(tensor: Tensor) -> Callable[..., Any] | None:
    """The activation that made a symbolic tensor, a function of `keras.activations`.

    None where that cannot be seen: behind a layer or a function of one's own, a mean, a sum.
    """
    operation, call, index = history_of(tensor)
    if is_graph(operation):
        return activation_of(operation.outputs[index])
    arriving = inbound_nodes(operation)[call].input_tensors
    if arriving and _passes_values_on(operation):
        return activation_of(arriving[0])
    return _activation_in(operation)


def _passes_values_on(operation):
    if isinstance(operation, keras.layers.Activation):  # often the last one, for its dtype
        return operation.activation is keras.activations.linear
    return isinstance(operation, PASSING) or type(operation).__name__ in PASSING_OPERATIONS


def _activation_in(operation):
    """The last activation inside a layer or a bare operation."""
    kind = type(operation).__name__
    if kind in ("Softmax", "Sigmoid", "ReLU", "Relu"):  # layers, and bare operations
        return getattr(keras.activations, kind.lower())
    if not isinstance(operation, keras.layers.Layer):
        return None
    if is_graph(operation):
        return activation_of(operation.outputs[0])
    if isinstance(operation, keras.layers.TimeDistributed):
        return _activation_in(operation.layer)
    if isinstance(operation, Chain):
        return _activation_in(operation.parts[-1])
    if layers_in(operation, include_self=False):
        return None
    if hasattr(operation, "activation"):
        activation = operation.activation or keras.activations.linear
        return activation if activation in vars(keras.activations).values() else None
    of_keras = type(operation).__module__.startswith("keras.")
    return keras.activations.linear if of_keras and operation.weights else None


def output_activations(model: keras.Model) -> list:
    """The activation of each output; None where the graph is hidden."""
    if not is_graph(model) or not model.built:
        return None
    return [activation_of(tensor) for tensor in model.outputs]


def _is_place(place, key, node):
    """Whether a call is the one that a name, a path, a layer or a symbolic tensor means."""
    path, call = key
    if isinstance(place, str):
        name = name_of(path)
        return place in (path, f"{path}:{call}", name, f"{name}:{call}")
    if isinstance(place, KerasTensor):
        return any(place is tensor for tensor in node.output_tensors)
    return node.operation is place


def _calls(model, prefix=""):
    """`{(path, call): node}`; what is inside a nested model is listed for its first call."""
    found = {}
    for node in nodes_of(graph_of(model)):
        path = prefix + node.operation.name
        call = sum(key[0] == path for key in found)
        found[path, call] = node
        if is_graph(node.operation) and not call:
            found |= _calls(node.operation, path + "/")
    return found


def _opened(model, taps):
    """Runs the graph on new inputs, through the same layers, and into the models that hold taps."""
    found = {}

    def run(model, inputs, prefix=""):
        def recorded(operation):
            path = prefix + operation.name
            number = sum(key[0] == path for key in found)
            inside = not number and any(tap.path.startswith(path + "/") for tap in taps)

            def apply(*args, **kwargs):
                if inside:
                    first = args[0] if args else next(iter(kwargs.values()))
                    outputs = run(operation, first, path + "/")
                else:
                    outputs = operation(*args, **kwargs)
                found[path, number] = outputs
                return outputs

            return apply

        graph = graph_of(model)
        outputs = run_through_graph(graph, ordered_inputs(graph, inputs), recorded)
        alone = isinstance(outputs, (list, tuple)) and len(outputs) == 1  # as in Keras' own call
        return outputs[0] if alone else outputs

    inputs = keras.tree.map_structure(new_input, inputs_structure(graph_of(model)))
    outputs = run(model, inputs)
    return inputs, outputs, [found[tap.path, tap.call] for tap in taps]
