"""A model made again from the calls of its graph, with some layers replaced."""

import copy as copy_object
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.graph.nodes import new_input, operation_of
from tfcompress.graph.paths import check_keras_3, is_graph
from tfcompress.graph.private_keras import (
    forget_calls,
    functional_of,
    layers_in,
    run_through_graph,
    trusting_deserialization,
)
from tfcompress.utils.writers import temporary_folder


def copy(model: keras.Model) -> keras.Model:
    """A copy of a model with its own layers and equal weights, not compiled."""
    check_graph(model)
    return rebuild(model, lambda layer: None)


def rebuild(
    model: keras.Model, replace: Callable[..., Any], memo: dict[int, Any] | None = None
) -> keras.Model:
    """Runs a model's graph on new inputs, with new layers.

    Args:
        model: a Sequential or Functional model.
        replace: called once for each layer; returns the list of layers that take its place, or
            None for a copy.
        memo: the chains made so far, by the id of the layer that they replace.
    """
    memo = {} if memo is None else memo
    graph = functional_of(model)
    if graph is None:  # a Sequential that was never built
        chains = [_replacement(layer, replace, memo)[0] for layer in model.layers]
        return keras.Sequential([part for chain in chains for part in chain], name=model.name)

    def renewed(operation):
        def apply(*args, **kwargs):
            (first, *others), is_clone = _replacement(operation, replace, memo)
            outputs = first(*args, **kwargs)
            for layer in others:
                outputs = layer(outputs)
            if is_clone:
                _copy_state(operation, first)
            return outputs

        return apply

    inputs = keras.tree.map_structure(lambda x: _new_input(x, replace), graph.input)
    outputs = run_through_graph(graph, inputs, renewed)
    if isinstance(model, keras.Sequential):
        first = operation_of(keras.tree.flatten(inputs)[0])
        parts = [part for layer in model.layers for part in memo[id(layer)]]
        new = keras.Sequential([first, *parts], name=model.name)
    else:
        new = keras.Model(inputs, outputs, name=model.name)
    if not model.trainable:
        new.trainable = False
    return new


def check_graph(model: keras.Model) -> None:
    """Raises unless the model is a Keras 3 Sequential or Functional one."""
    check_keras_3(model)
    if not is_graph(model):
        raise ValueError(
            f"`{type(model).__name__}` is a subclassed model: its layers are called from Python "
            "code, which cannot be rebuilt with other layers. Either build it as a Functional "
            "model (`keras.Model(inputs, outputs)`), or replace the attributes that hold its "
            "layers yourself: `model.fc = BinaryDense.from_layer(model.fc)`."
        )


def _replacement(operation, replace, memo):
    """What takes the place of a layer, a nested model or a bare operation.

    Returns:
        A chain of layers, and whether it is a fresh copy, whose state is still to be copied.
    """
    if id(operation) in memo:
        return memo[id(operation)], False
    is_clone = False
    if is_graph(operation):
        chain = [rebuild(operation, replace, memo)]
    elif not isinstance(operation, keras.layers.Layer):
        new = copy_object.copy(operation)  # stateless; only its place in the graph is its own
        forget_calls(new)
        chain = [new]
    else:
        chain = replace(operation)
        if chain is None:
            chain, is_clone = [_clone(operation)], True
    memo[id(operation)] = chain
    return chain, is_clone


def _new_input(tensor, replace):
    made = replace(operation_of(tensor))
    return made[0].output if made else new_input(tensor)


def _clone(layer):
    try:
        with trusting_deserialization():  # a Lambda layer of this very process
            return type(layer).from_config(layer.get_config())
    except Exception as error:
        raise ValueError(
            f"Layer {layer.name!r} of class {type(layer).__name__} cannot be made again from its "
            f"config, which every layer of a rebuilt model must allow: {error}"
        ) from error


def _copy_state(layer, new):
    """Copies the weights and assets of a layer and of its parts."""
    for old_part, new_part in zip(layers_in(layer), layers_in(new), strict=True):
        if not old_part.built:
            continue
        weights = {}
        old_part.save_own_variables(weights)
        if weights:
            new_part.load_own_variables(
                {key: keras.ops.convert_to_numpy(value) for key, value in weights.items()}
            )
        if hasattr(old_part, "save_assets"):
            with temporary_folder() as folder:
                old_part.save_assets(folder)
                new_part.load_assets(folder)
