"""The ranges of activations of a full-integer file: put into a model, trained with it, and kept."""

from typing import Any

import keras

from tfcompress.graph.copy import copied
from tfcompress.graph.nodes import calls_its_graph, graph_of, nodes_of
from tfcompress.graph.paths import walk
from tfcompress.graph.suffix import watching
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.discrete.fake_quant import FakeQuant
from tfcompress.layers.discrete.learned_range import LearnedRange
from tfcompress.rewriting.replace import is_plain_graph, with_replacements
from tfcompress.utils.arrays import rows
from tfcompress.utils.batches import examples_in

L = keras.layers
BATCH_SIZE = 128
LEAST_RANGE = 1e-6  # of an activation that is zero on all examples
PRODUCTS = (L.Dense, L.EinsumDense, L.Conv1D, L.Conv2D, L.DepthwiseConv1D, L.DepthwiseConv2D)
SUMS = (L.Add, L.Subtract, L.Multiply, L.Average)
ACTIVATIONS = (L.Activation, L.ReLU, L.LeakyReLU, L.PReLU, L.ELU)
MEANS = (L.AveragePooling1D, L.AveragePooling2D, L.GlobalAveragePooling1D, L.GlobalAveragePooling2D)
ROUNDED = (*PRODUCTS, *SUMS, *ACTIVATIONS, *MEANS, L.BatchNormalization, CompressedLayer)
FIXED = (  # the ends of what these give are known
    keras.activations.softmax,
    keras.activations.sigmoid,
    keras.activations.tanh,
)
RECTIFIERS = (keras.activations.relu, keras.activations.relu6)


def with_learned_ranges(model: keras.Model, inputs: Any) -> keras.Model:
    """A copy of a model with a `LearnedRange` behind each layer whose outputs a file rounds.

    What one operator of the file does together, such as a convolution, its normalization and a
    ReLU, has one range at its end. Layers of plain graphs that are called once get one; what has
    none is measured when the file is made.

    Args:
        model: a built model of any kind.
        inputs: examples, as arrays, on which the ranges are measured that training starts from.
    """
    places = {layer: L.Identity(name=f"{layer.name}_range") for layer in _places(model)}
    chains = {layer: [copied(layer), mark] for layer, mark in places.items()}
    marked = with_replacements(model, chains)
    names = {mark.name for mark in places.values()}
    marks = [layer for layer, _ in walk(marked).values() if layer.name in names]
    ranges = _measured(marked, marks, inputs)
    chains = {mark: [LearnedRange(*ranges[mark], name=mark.name)] for mark in marks}
    for (layer,) in chains.values():
        layer.build(())
    return with_replacements(marked, chains)


def with_learned_as_fixed(model: keras.Model) -> keras.Model:
    """A copy of a model with a `FakeQuant` in the place of each `LearnedRange`."""
    layers = [layer for layer, _ in walk(model).values() if isinstance(layer, LearnedRange)]
    return with_replacements(model, {layer: [layer.learned()] for layer in layers})


def _measured(model, marks, inputs) -> dict:
    """`{layer: (low, high)}` of what goes into layers, widened to hold zero."""
    ranges = {mark: (0.0, 0.0) for mark in marks}

    def see(layer, x):
        low, high = ranges[layer]
        ranges[layer] = min(low, float(x.min())), max(high, float(x.max()))

    watched = watching(model, marks, see)
    for start in range(0, examples_in((inputs,)), BATCH_SIZE):
        watched(rows(inputs, slice(start, start + BATCH_SIZE)))
    return {
        mark: (low, high if high > low else low + LEAST_RANGE)
        for mark, (low, high) in ranges.items()
    }


def _places(model) -> list[keras.layers.Layer]:
    """The layers of plain graphs, called once, behind which an operator of the file ends."""
    if not (is_plain_graph(model) and calls_its_graph(model)):
        return []
    graph = graph_of(model)
    nodes, readers, calls = nodes_of(graph), {}, {}
    ends = {id(tensor) for tensor in graph.outputs}
    for node in nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node.operation)
    found = []
    for node in nodes:
        layer = node.operation
        if isinstance(layer, keras.Model):
            found += _places(layer) if calls[id(layer)] == 1 else []
        elif isinstance(layer, ROUNDED) and calls[id(layer)] == 1 and _gives_floats(layer):
            following = readers.get(id(node.outputs[0]), [])
            inner = id(node.outputs[0]) not in ends and len(following) == 1
            if not (inner and _takes_in(layer, following[0])):
                found.append(layer)
    return found


def _gives_floats(layer) -> bool:
    return getattr(layer, "activation", None) not in FIXED and "float" in layer.compute_dtype


def _takes_in(layer, following) -> bool:
    """Whether one operator of a file does what a layer does and what the following one does."""
    if isinstance(following, FakeQuant):
        return True
    rectifies = isinstance(following, L.ReLU) or (
        isinstance(following, L.Activation) and following.activation in RECTIFIERS
    )
    linear = getattr(layer, "activation", keras.activations.linear) is keras.activations.linear
    normalizes = isinstance(following, L.BatchNormalization)
    products = isinstance(layer, (*PRODUCTS, CompressedLayer))
    return linear and (
        (rectifies and isinstance(layer, (*PRODUCTS, *SUMS, CompressedLayer, L.BatchNormalization)))
        or (normalizes and products)
    )
