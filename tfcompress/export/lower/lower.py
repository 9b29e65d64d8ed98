"""Lowers a model to ordinary float32 Keras layers for the stock converter."""

import itertools
from functools import partial, singledispatch
from typing import Any

import keras
import numpy as np

from tfcompress.export.lower import large_kernels as large
from tfcompress.export.lower.circulant import LEAST_KERNEL_SIZE, CirculantOperations
from tfcompress.export.lower.recurrent import use_own_loops
from tfcompress.graph.copy import copied
from tfcompress.graph.nodes import calls_its_graph, graph_of, nodes_of, renew_shapes
from tfcompress.graph.paths import is_graph, walk
from tfcompress.graph.private_keras import layers_in
from tfcompress.graph.replace import replace_in_place
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.shared.circulant import CirculantDense
from tfcompress.layers.shared.tile_hashed import TileHashedDense
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Store

_TAKE_NORMALIZATION = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D)


@singledispatch
def lower_layer(layer: keras.layers.Layer, store: Store | None) -> list[keras.layers.Layer] | None:
    """The layers to export in place of a layer, or None to keep it.

    A structured layer registers a function of its own here, which computes with the activations and
    never makes the full kernel: the converter would turn that into a float32 constant.
    """
    return None


@lower_layer.register
def _(layer: CompressedLayer, store):
    return layer.to_ordinary()


@lower_layer.register
def _(layer: CirculantDense, store):
    if store is not None:
        operations = CirculantOperations(layer, store)
        if operations.pays():
            return [operations]
    return layer.to_ordinary()


@lower_layer.register
def _(layer: TileHashedDense, store):
    return None if store is not None and tiles_pay(layer, store) else layer.to_ordinary()


def tiles_pay(layer: keras.layers.Layer, store: Store) -> bool:
    """Whether the two products of tiles are smaller and, for `"fast"`, faster than the kernel.

    Times faster with 4 tiles of side 32: 1.2 for 256 x 256, 5.5 for 512, 15 for 1024, 40 for 2048;
    with 16 tiles: 1.7 for 512, 4 for 1024.
    """
    weights = layer.inputs * layer.units
    if store == "small":
        return layer.bits / 8 + layer.signs().size / 4 + 4000 < 4 * weights
    return weights >= LEAST_KERNEL_SIZE and 3 * weights >= 2 * layer.macs((None, layer.inputs))


def lower(model: keras.Model, store: Store | None = None, thinned: bool = False) -> keras.Model:
    """A copy of ordinary float32 layers with batch normalizations folded into them.

    Each kernel in the file is then the kernel of a layer up to a factor per output channel. A
    normalization stays where the layer before it has an activation, other readers or several uses,
    and where no graph shows which layer that is: the converter folds it there.

    Args:
        model: of any kind.
        store: `"fast"` or `"small"`, for the layers that have forms of both kinds; None makes
            ordinary layers of them, which a full-integer file can hold.
        thinned: whether large kernels stay out of the new model, see `large_kernels`.
    """
    count, chains = itertools.count(), {}
    for layer, _ in walk(model).values():
        lowered = partial(lower_layer, layer, store)
        chain = large.thin_layer(layer, lowered, count) if thinned else lowered()
        if chain:
            chains[layer] = chain
    lowered = with_chains(model, chains)
    # The converter would keep casts to half precision around each of these layers.
    for layer in layers_in(lowered):
        if layer.compute_dtype in ("float16", "bfloat16"):
            layer.dtype_policy = "float32"
    pairs = _foldable_pairs(lowered)
    folded = {layer: _folded(layer, norm) for layer, norm in pairs}
    folded |= {norm: _FoldedNormalization(name=norm.name) for _, norm in pairs}
    if folded:
        replace_in_place(lowered, folded)
    use_own_loops(lowered)
    return lowered


def with_chains(model: Any, chains: dict) -> Any:
    """A copy of a model in which chains of layers stand in the places of layers."""
    new = copied(model, chains)
    renew_shapes(new, {id(part) for chain in chains.values() for part in chain})
    return new


class _FoldedNormalization(keras.layers.Layer):
    """An identity in place of a batch normalization, with the same call arguments."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _foldable_pairs(model) -> list[tuple]:
    """Pairs of a layer and the batch normalization behind it."""
    nodes, uses = _nodes_at_any_depth(model), {}
    for node in nodes:
        uses[id(node.operation)] = uses.get(id(node.operation), 0) + 1
    composites = [layer for layer in layers_in(model) if not is_graph(layer)]
    parts = {id(x) for one in composites for x in layers_in(one, include_self=False)}
    readers = {}
    for node in nodes:
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node.operation)
    pairs = []
    for node in nodes:
        layer, (output, *_) = node.operation, node.outputs
        norm, *others = readers.get(id(output), [None])
        once = not others and uses[id(layer)] == uses.get(id(norm)) == 1
        once = once and not {id(layer), id(norm)} & parts  # which a composite calls too
        if once and _can_fold(layer, norm) and id(output) not in _output_ids(model):
            pairs.append((layer, norm))
    return pairs


def _nodes_at_any_depth(model) -> list:
    """The nodes of a graph and of the models nested in it that run as graphs, each model once."""
    nodes = nodes_of(graph_of(model)) if calls_its_graph(model) else []
    nested = {id(n.operation): n.operation for n in nodes if is_graph(n.operation)}
    return nodes + [node for inner in nested.values() for node in _nodes_at_any_depth(inner)]


def _output_ids(model) -> set[int]:
    return {id(tensor) for layer in layers_in(model) if is_graph(layer) for tensor in layer.outputs}


def _can_fold(layer, norm) -> bool:
    return (
        type(norm) is keras.layers.BatchNormalization
        and norm.axis in (-1, len(layer.output.shape) - 1)
        and type(layer) in (*_TAKE_NORMALIZATION, keras.layers.DepthwiseConv2D)
        and isinstance(layer.kernel, keras.Variable)  # unlike a kernel with a LoRA
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", "channels_last") == "channels_last"
    )


def _folded(layer, norm) -> keras.layers.Layer:
    """The layer with `factor * kernel` and the bias that follows from the normalization."""
    mean, variance = (
        to_numpy(v).astype(np.float64) for v in (norm.moving_mean, norm.moving_variance)
    )
    # y = gamma (k x + b - mean) / sqrt(variance + epsilon) + beta
    factor = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.gamma is not None:
        factor = factor * to_numpy(norm.gamma)
    bias = -mean if layer.bias is None else to_numpy(layer.bias) - mean
    bias = bias * factor
    if norm.beta is not None:
        bias = bias + to_numpy(norm.beta)
    new = type(layer).from_config(layer.get_config() | {"use_bias": True})
    new.build(layer.get_build_config()["input_shape"])
    new.bias.assign(bias.astype(np.float32))
    kernel = to_numpy(layer.kernel)
    if large.is_thin(layer):
        new.large = layer.large.times(factor)
    else:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernel = kernel * (factor.reshape(kernel.shape[-2:]) if depthwise else factor)
    new.kernel.assign(kernel.astype(np.float32))
    return new
