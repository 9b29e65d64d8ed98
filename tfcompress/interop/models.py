"""Converts models from one Keras version to the other, layer by layer along the graph."""

from functools import partial
from typing import Any

import keras

from tfcompress.graph.nodes import operation_of
from tfcompress.graph.paths import check_graph, is_graph
from tfcompress.graph.private_keras import (
    derive_state,
    functional_of,
    layers_in,
    run_through_graph,
)
from tfcompress.interop.adapter import adapter_class
from tfcompress.interop.configs import translate
from tfcompress.interop.packages import load
from tfcompress.interop.wrappers import layers_from_tf_keras
from tfcompress.layers.core.base import CompressedLayer

MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
HAS_NO_LAYER = "it is an operation between layers that no layer of tf_keras does"
FUNCTIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def to_tf_keras(model: keras.Model) -> Any:
    """Makes a tf_keras model that computes the same function with the same weights.

    Layers that both Keras versions have become those of tf_keras. Compressed layers become
    adapters, which run them on variables of tf_keras and offer what they store to pruning and
    clustering.

    Args:
        model: a built Sequential or Functional `keras.Model`, with nested and shared layers.

    Returns:
        A `tf_keras.Model` of the same kind and names, not compiled.

    Raises:
        ValueError: a layer cannot cross; the message names it.
        ImportError: tf_keras or tensorflow_model_optimization is missing.
    """
    check_graph(model, "Crossing to tf_keras")
    if not model.built or not model.inputs:
        raise ValueError(
            f"Model {model.name!r} has no inputs yet. Begin it with a `keras.Input`, or build it."
        )
    return _model_to_tf_keras(model, {})


def _model_to_tf_keras(model, memo):
    tf_keras = load().tf_keras
    graph = functional_of(model)

    def crossed(operation):
        if id(operation) not in memo:
            memo[id(operation)] = _operation_to_tf_keras(operation, memo)
        return partial(_call_layer, operation, memo[id(operation)])

    inputs = keras.tree.map_structure(_input_to_tf_keras, graph.input)
    outputs = run_through_graph(graph, inputs, crossed)
    for output in keras.tree.flatten(outputs):
        if isinstance(output, keras.Operation):
            raise ValueError(_refusal(output, "tf_keras", HAS_NO_LAYER))
    if isinstance(model, keras.Sequential):
        layers = [memo[id(layer)] for layer in model.layers]
        first = keras.tree.flatten(inputs)[0]._keras_history.layer
        new = tf_keras.Sequential([first, *layers], name=model.name)
    else:
        new = tf_keras.Model(inputs, outputs, name=model.name)
    for layer in model.layers:
        if not isinstance(layer, (keras.layers.InputLayer, CompressedLayer)) and layer.weights:
            _set_weights(memo[id(layer)], layer)
    if not model.trainable:
        new.trainable = False
    return new


def _input_to_tf_keras(tensor):
    name = operation_of(tensor).name
    return load().tf_keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)


def _operation_to_tf_keras(operation, memo):
    """The layer of tf_keras that computes an operation, or None if there is none."""
    tf_keras = load().tf_keras
    if is_graph(operation):
        return _model_to_tf_keras(operation, memo)
    if isinstance(operation, CompressedLayer):
        return adapter_class()(operation)
    kind = type(operation).__name__
    if isinstance(operation, keras.layers.Layer):
        try:
            return translate(operation, tf_keras)
        except Exception as error:  # of the other version's constructor, too
            raise ValueError(_refusal(operation, "tf_keras", error)) from error
    if kind in MERGES:  # x + y
        return getattr(tf_keras.layers, kind)(name=operation.name)
    if kind in FUNCTIONS:
        return tf_keras.layers.Activation(FUNCTIONS[kind], name=operation.name)
    if kind == "Softmax":
        return tf_keras.layers.Softmax(axis=operation.axis, name=operation.name)
    return None


def _call_layer(operation, layer, *args, **kwargs):
    """Calls a layer; an operation without a layer returns itself, since only a mask may need it."""
    for key, value in list(kwargs.items()):
        # tf_keras finds masks itself; `training` is recorded with its default.
        if key == "training" or (key.endswith("mask") and isinstance(value, keras.Operation)):
            del kwargs[key]
    lacking = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.Operation)]
    if layer is None:
        return operation
    if lacking:
        raise ValueError(_refusal(lacking[0], "tf_keras", HAS_NO_LAYER))
    if type(operation).__name__ in MERGES and not isinstance(operation, keras.layers.Layer):
        tensors = all(hasattr(x, "_keras_history") for x in args)  # unlike x + 1.0
        # A layer would put missing axes behind the first one, and not before it.
        if not tensors or len({len(x.shape) for x in args}) > 1:
            raise ValueError(_refusal(operation, "tf_keras", HAS_NO_LAYER))
        args = (list(args),)
    try:
        return layer(*args, **kwargs)
    except Exception as error:
        raise ValueError(_refusal(operation, "tf_keras", error)) from error


def _refusal(layer, package, error):
    return (
        f"Layer {layer.name!r} of class {type(layer).__name__} cannot cross to {package}: {error}."
    )


def _set_weights(new, layer):
    if isinstance(layer, keras.Model):
        return  # its layers have theirs
    try:
        new.set_weights(
            [keras.ops.convert_to_numpy(weight) for weight in _weights_in_tf_keras_order(layer)]
        )
        for part in (new, *new.submodules):
            derive_state(part)
    except ValueError as error:
        raise ValueError(_refusal(layer, "tf_keras", error)) from error


def _weights_in_tf_keras_order(layer):
    """The weights of a Keras 3 layer in the order of tf_keras: trainable ones come first."""
    return sorted(layer.weights, key=lambda weight: not weight.trainable)


def from_tf_keras(model: Any) -> keras.Model:
    """Makes a Keras 3 model that computes the same function with the same weights.

    Wrappers of tensorflow_model_optimization are stripped: pruned weights are zero, clustered ones
    have their centroids' values, quantized ones the values of their int8 levels, and learned
    ranges of activations become `tfcompress.layers.FakeQuant` layers.

    Args:
        model: a built Sequential or Functional tf_keras model.

    Returns:
        A `keras.Model` of the same kind and names, not compiled.

    Raises:
        TypeError: `model` is not a tf_keras model.
        ValueError: a layer cannot cross; the message names it.
    """
    tf_keras = load().tf_keras
    if not isinstance(model, tf_keras.Model):
        raise TypeError(f"Expected a tf_keras model. Received: {model!r}")
    return _model_from_tf_keras(model, {})


def _model_from_tf_keras(model, memo):
    tf_keras = load().tf_keras
    if not getattr(model, "_is_graph_network", False):
        raise ValueError(
            f"`{type(model).__name__}` is a subclassed or unbuilt model, whose graph is not known."
        )
    inputs = keras.tree.map_structure(_input_from_tf_keras, model._nested_inputs)
    tensors = {id(t): new for t, new in zip(model.inputs, keras.tree.flatten(inputs), strict=True)}

    def known(value):
        return keras.tree.map_structure(lambda x: tensors.get(id(x), x), value)

    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            if node.is_input:
                continue
            chain = _layers_from_tf_keras(node.layer, memo)
            args, kwargs = known(node.call_args), known(node.call_kwargs)
            if _is_recurrent(node.layer) and isinstance(args[0], list):
                kwargs, args = kwargs | {"initial_state": args[0][1:]}, args[0][:1]
            outputs = _call_chain(chain, args, kwargs)
            flat = zip(keras.tree.flatten(node.outputs), keras.tree.flatten(outputs), strict=True)
            tensors.update((id(tensor), new) for tensor, new in flat)
    if isinstance(model, tf_keras.Sequential):
        first = operation_of(keras.tree.flatten(inputs)[0])
        parts = [part for layer in model.layers for part, _ in memo.get(id(layer), [])]
        new = keras.Sequential([first, *parts], name=model.name)
    else:
        new = keras.Model(inputs, known(model._nested_outputs), name=model.name)
    if not model.trainable:
        new.trainable = False
    return new


def _is_recurrent(layer):
    """Whether a layer takes its inputs and its initial state in one list."""
    layers = load().tf_keras.layers
    kinds = (layers.RNN, layers.Bidirectional)
    return isinstance(layer, kinds) or isinstance(getattr(layer, "layer", None), kinds)


def _input_from_tf_keras(tensor):
    name = tensor._keras_history.layer.name
    return keras.Input(batch_shape=tuple(tensor.shape), dtype=tensor.dtype.name, name=name)


def _call_chain(chain, args, kwargs):
    """Calls the layers of a chain, and assigns the weights of each when it is built."""
    for layer, weights in chain:
        outputs = layer(*args, **kwargs)
        if weights is not None:
            for weight, value in zip(_weights_in_tf_keras_order(layer), weights, strict=True):
                weight.assign(value)
            for part in layers_in(layer):
                derive_state(part)
        args, kwargs = (outputs,), {}
    return outputs


def _layers_from_tf_keras(layer, memo):
    """Pairs of new layers in place of one and their weights, None for weights they have already."""
    if id(layer) in memo:
        return [(new, None) for new, _ in memo[id(layer)]]
    if isinstance(layer, load().tf_keras.Model):
        chain = [(_model_from_tf_keras(layer, memo), None)]
    else:
        try:
            chain = layers_from_tf_keras(layer)
        except Exception as error:
            raise ValueError(_refusal(layer, "Keras 3", error)) from error
    memo[id(layer)] = chain
    return chain
