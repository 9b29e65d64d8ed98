"""Multiply-accumulates (MACs) of the layers of a model."""

import math

import keras

from tfcompress.graph.nodes import input_shapes
from tfcompress.graph.paths import is_graph, walk
from tfcompress.graph.private_keras import layers_in
from tfcompress.measure.attention import ATTENTION, projections
from tfcompress.utils.types import InputShape

CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
ConvLSTMCell = type(keras.layers.ConvLSTM1D(1, 1).cell)  # which Keras does not export
CELLS = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def macs(model: keras.Model) -> dict[str, int | None]:
    """Counts the multiply-accumulates of each layer of a model, for one sample.

    A layer that is used several times counts at each use. The parts of a composite layer
    (attention, `TimeDistributed`) and the layers of a subclassed model count once, for the shape
    that they were built with. Only products with weights count, so that normalization, activations
    and attention scores are free.

    Args:
        model: a built `keras.Model`.

    Returns:
        `{path: MACs}` of all layers. What a recurrent layer runs counts once for each step. The
        number is None where it cannot be told: the size of the input is unknown, or the layer is
        of another kind and has a matrix of weights.

    Example:

    >>> layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")]
    >>> macs(keras.Sequential(layers))  # 6 * 6 positions, 3 * 3 * 3 * 16 weights
    {'conv': 15552}
    """
    uses = input_shapes(model) if is_graph(model) else {}
    found, steps = {}, steps_of(model, uses)
    uses = _of_heads(model) | uses
    for path, (layer, _) in walk(model).items():
        shapes = uses.get(id(layer)) or [_built_for(layer)]
        costs = [layer_macs(layer, shape) for shape in shapes]
        costs = [cost and _times(cost, steps.get(id(layer), 1)) for cost in costs]
        found[path] = None if None in costs else sum(costs)
    return found


def _of_heads(model):
    """The input shapes of the output projections of attention layers, which Keras leaves open."""
    found = {}
    for layer, _ in walk(model).values():
        if isinstance(layer, ATTENTION) and layer.built:
            parts = projections(layer)
            *lead, _ = _built_for(parts["query"]) or (None,)
            heads = parts["attention_output"].kernel.shape[:2]
            found[id(parts["attention_output"])] = [(*lead, *heads)]
    return found


def steps_of(model: keras.Model, uses: dict[int, list]) -> dict[int, int | None]:
    """How often recurrent layers call their parts, by the id of the part; None: unknown.

    Args:
        model: a built `keras.Model`.
        uses: the input shapes of the layers of its graph, as `input_shapes` gives them.
    """
    steps = {}
    for layer, _ in walk(model).values():
        if isinstance(layer, keras.layers.RNN):
            shape = (uses.get(id(layer)) or [_built_for(layer)])[0]
            length = shape and keras.tree.flatten(shape)[1]  # of (batch, steps, ...)
            steps |= {id(part): length for part in layers_in(layer, include_self=False)}
    return steps


def _built_for(layer):
    config = layer.get_build_config() or {}
    return config.get("input_shape") or config.get("sequences_shape")


def _times(cost, steps):
    return None if steps is None else cost * steps


def layer_macs(layer: keras.layers.Layer, input_shape: InputShape) -> int | None:
    """Multiply-accumulates of one use of a layer; see `macs`."""
    free = not matrices(layer) and not hasattr(layer, "macs")
    if free or isinstance(layer, keras.layers.Embedding):
        return _reversed_macs(layer, input_shape)
    try:
        if hasattr(layer, "macs"):
            return layer.macs(input_shape)
        if isinstance(layer, keras.layers.Dense):
            return math.prod(input_shape[1:-1]) * math.prod(layer.kernel.shape)
        if isinstance(layer, CELLS):
            return math.prod(layer.kernel.shape) + math.prod(layer.recurrent_kernel.shape)
        if isinstance(layer, ConvLSTMCell):
            shape, _ = layer.compute_output_shape(input_shape)
            weights = math.prod(layer.kernel.shape) + math.prod(layer.recurrent_kernel.shape)
            return _positions(layer, shape) * weights
        if isinstance(layer, keras.layers.EinsumDense):
            return math.prod(input_shape[1:]) * _einsum_outputs(layer)
        if isinstance(layer, TRANSPOSED):
            # each input position meets the whole kernel once
            return _positions(layer, input_shape) * math.prod(layer.kernel.shape)
        if isinstance(layer, CONVOLUTIONS):
            weights = sum(math.prod(w.shape) for w in layer.weights if w.name != "bias")
            return _positions(layer, layer.compute_output_shape(input_shape)) * weights
    except (TypeError, ValueError):  # a size in the shape is None
        return None
    return None


def _reversed_macs(layer, input_shape):
    """Of an embedding: 0, as rows are looked up, unless vectors of its width come back."""
    if not hasattr(layer, "tie_weights") or len(input_shape) < 3:
        return 0
    if input_shape[-1] != layer.output_dim:
        return 0
    positions = math.prod(n or 1 for n in input_shape[1:-1])
    return positions * layer.input_dim * layer.output_dim


def matrices(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The kernels of a layer itself, not of its parts: what has at least two axes, but the bias."""
    bias = getattr(layer, "bias", None)  # that of an EinsumDense or a GRU may have two axes
    nested = {id(v) for part in layers_in(layer, include_self=False) for v in part.weights}
    return [v for v in layer.weights if len(v.shape) > 1 and v is not bias and id(v) not in nested]


def _positions(layer, shape):
    return math.prod(shape[2:] if layer.data_format == "channels_first" else shape[1:-1])


def _einsum_outputs(layer):
    """How many outputs each input reaches: the sizes of the axes that only the kernel has."""
    inputs, kernel = layer.equation.split("->")[0].split(",")
    sizes = zip(kernel.strip(), layer.kernel.shape, strict=True)
    return math.prod(size for letter, size in sizes if letter not in inputs)
