"""Equal ranges for the channels between two layers, without a change of what the model computes.

Letters: i channels between the two layers, o outputs of the second one.
"""

import collections
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress.graph.copy import copied
from tfcompress.graph.nodes import called_operations, calls_its_graph, graph_of, nodes_of
from tfcompress.graph.paths import check_finite_weights, check_keras_3
from tfcompress.numerics.what_a_kernel_is import is_discrete
from tfcompress.rewriting.replace import is_plain_graph
from tfcompress.rewriting.ties import used_by_others
from tfcompress.utils.arrays import to_numpy

L = keras.layers
ROUNDS = 20  # over all pairs, at most
SETTLED = 0.01  # change of the logarithm of a factor at which rounds end
PRODUCTS = (L.Dense, L.Conv1D, L.Conv2D, L.DepthwiseConv1D, L.DepthwiseConv2D)
DEPTHWISE = (L.DepthwiseConv1D, L.DepthwiseConv2D)
HOMOGENEOUS = (  # a f(x) = f(a x) for a > 0
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.leaky_relu,
)
BY_CHANNEL = (  # what they do to a channel goes through a factor
    *(L.MaxPooling1D, L.MaxPooling2D, L.AveragePooling1D, L.AveragePooling2D),
    *(L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalAveragePooling1D),
    *(L.GlobalAveragePooling2D, L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.Identity),
    *(L.ZeroPadding1D, L.ZeroPadding2D, L.Cropping1D, L.Cropping2D, L.UpSampling1D, L.UpSampling2D),
)


class Pair(NamedTuple):
    """Two layers and the channels between them.

    Attributes:
        first: gives the channels: a layer with a kernel, or a batch normalization.
        before: the layer whose kernel the first one, a normalization, multiplies; or None.
        second: the layer that takes the channels.
        after: the batch normalization that multiplies the kernel of the second, or None.
    """

    first: keras.layers.Layer
    before: keras.layers.Layer | None
    second: keras.layers.Layer
    after: keras.layers.Layer | None


def equalize(model: keras.Model) -> keras.Model:
    """Makes a copy of a model in which the channels between two layers have kernels of equal size.

        s_i = sqrt(r_i / q_i),   r_i = max |w_i|,   q_i = max |v_i|

    The kernel `w_i` that gives channel i is divided by `s_i`, and so is its bias; the kernel `v_i`
    that takes the channel is multiplied by it. Both then reach up to `sqrt(r_i q_i)`. A batch
    normalization between them takes the factor in the place of `w_i`, which it multiplies. The
    model computes the same, but its channels no longer differ by orders of magnitude, which one
    scale for a kernel or for an activation would not bear: in depthwise networks above all.

    Between the two layers may be ReLU, LeakyReLU, pooling, padding, upsampling and dropout. ReLU6
    and other activations let no factor through, and what several layers read has several takers:
    such channels stay as they are. The paper replaces ReLU6 by ReLU, which changes the model.

    Args:
        model: a built Sequential or Functional model; nested ones are equalized too. It stays as it
            is.

    Returns:
        The copy, not compiled.

    Raises:
        ValueError: there are no two such layers.

    Example:

    >>> import tfcompress as tfc
    >>> parts = [keras.layers.Dense(2, "relu", name="a"), keras.layers.Dense(1, name="b")]
    >>> model = keras.Sequential([keras.Input((1,)), *parts])
    >>> model.set_weights([np.array(w) for w in ([[8, 1]], [0, 4], [[2], [1]], [0])])
    >>> [w.tolist() for w in tfc.equalize(model).get_weights()]
    [[[4.0, 1.0]], [0.0, 4.0], [[4.0], [1.0]], [0.0]]

    Reference: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", 2019. Here nothing is absorbed into later biases.
    """
    check_keras_3(model)
    check_finite_weights(model)
    new = copied(model)
    pairs = _pairs(new, _used_once(new))
    if not pairs:
        raise ValueError(
            "No two layers with kernels have between them nothing but a batch normalization with a "
            "`gamma`, ReLU, LeakyReLU, pooling, padding or dropout, in a Sequential or Functional "
            "model; layers that are called twice, or that other layers hold, do not count. ReLU6 "
            f"lets no factor through. Received: model {model.name!r}"
        )
    for _ in range(ROUNDS):
        if max(_equalize(pair) for pair in pairs) < SETTLED:
            break
    return new


def _equalize(pair) -> float:
    """Equalizes the channels of a pair, and gives the largest change of a logarithm."""
    given, taken = _size_of_given(pair), _size_of_taken(pair)
    used = (given > 0) & (taken > 0)
    ratio = np.where(used, given, 1) / np.where(used, taken, 1)
    factor = np.sqrt(ratio)
    variables = (
        [pair.first.gamma, pair.first.beta]
        if isinstance(pair.first, L.BatchNormalization)
        else [pair.first.kernel, pair.first.bias]
    )
    for variable in variables:
        if variable is not None:
            _divide(variable, factor)
    kernel = pair.second.kernel
    kernel.assign(to_numpy(kernel) * factor[:, None])
    return float(np.abs(np.log(factor)).max(initial=0.0))


def _divide(variable, factor) -> None:
    values = to_numpy(variable)
    depthwise = values.ndim > 2 and values.shape[-1] != factor.size
    shape = (-1, values.shape[-1]) if depthwise else (-1,)
    variable.assign(values / factor.reshape(shape))


def _size_of_given(pair) -> np.ndarray:
    """`r_i`, with what a normalization multiplies into the kernel."""
    if not isinstance(pair.first, L.BatchNormalization):
        return _columns(pair.first)
    sizes = np.abs(_multiplied(pair.first))
    return sizes if pair.before is None else sizes * _columns(pair.before)


def _columns(layer) -> np.ndarray:
    """The largest weight of each output."""
    w = np.abs(to_numpy(layer.kernel)).astype("float64")
    last = w.shape[-2] * w.shape[-1] if isinstance(layer, DEPTHWISE) else w.shape[-1]
    return w.reshape(-1, last).max(0)


def _size_of_taken(pair) -> np.ndarray:
    """`q_i`, with what a normalization multiplies into the kernel."""
    w = np.abs(to_numpy(pair.second.kernel)).astype("float64")
    if pair.after is not None:
        by = np.abs(_multiplied(pair.after))
        w = w * (by.reshape(w.shape[-2:]) if isinstance(pair.second, DEPTHWISE) else by)
    return np.moveaxis(w, -2, 0).reshape(w.shape[-2], -1).max(1)


def _multiplied(norm) -> np.ndarray:
    """What a batch normalization multiplies its inputs by."""
    gamma = 1.0 if norm.gamma is None else to_numpy(norm.gamma).astype("float64")
    return gamma / np.sqrt(to_numpy(norm.moving_variance).astype("float64") + norm.epsilon)


def _used_once(model) -> set[int]:
    """Ids of the operations that one call alone uses, in all graphs of a model."""
    graphs = is_plain_graph(model) and calls_its_graph(model)
    calls = collections.Counter(map(id, called_operations(graph_of(model)) if graphs else ()))
    once = {operation for operation, count in calls.items() if count == 1}
    return once - used_by_others(model)


def _pairs(model, once) -> list[Pair]:
    """The pairs of a model's graph and of those in it, in the order of their calls."""
    if not (is_plain_graph(model) and calls_its_graph(model)):
        return []
    graph = graph_of(model)
    nodes = nodes_of(graph)
    readers, makers = {}, {}
    for node in nodes:
        makers.update({id(tensor): node for tensor in node.outputs})
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node)
    ends = {id(tensor) for tensor in graph.outputs}

    def following(node) -> Any:
        """The only node that reads what a node gives, or None."""
        found = readers.get(id(node.outputs[0]), [])
        alone = len(found) == 1 and id(node.outputs[0]) not in ends
        return found[0] if alone and id(found[0].operation) in once else None

    found = []
    for node in nodes:
        layer = node.operation
        if isinstance(layer, keras.Model):
            found += _pairs(layer, once) if id(layer) in once else []
        elif id(layer) in once and _gives(layer):
            last = following(node)
            while last is not None and _lets_through(last.operation):
                last = following(last)
            if last is not None and _takes(last.operation):
                before, after = makers.get(id(node.input_tensors[0])), following(last)
                whole = before is not None and following(before) is node
                found.append(
                    Pair(
                        layer,
                        before.operation if whole and _is_product(before.operation) else None,
                        last.operation,
                        after.operation if _normalizes(last.operation, after) else None,
                    )
                )
    return found


def _is_product(layer) -> bool:
    return type(layer) in PRODUCTS and layer.activation is keras.activations.linear


def _normalizes(layer, after) -> bool:
    return (
        after is not None and _is_product(layer) and type(after.operation) is L.BatchNormalization
    )


def _gives(layer) -> bool:
    """Whether a factor for each output of a layer can go into its weights."""
    if type(layer) is L.BatchNormalization:
        return layer.gamma is not None and layer.axis in (-1, len(layer.output.shape) - 1)
    return _is_plain(layer) and layer.activation in HOMOGENEOUS


def _takes(layer) -> bool:
    """Whether a factor for each input of a layer can go into its kernel."""
    return _is_plain(layer) and getattr(layer, "groups", 1) == 1


def _is_plain(layer) -> bool:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    plain = type(layer) in PRODUCTS and not getattr(layer, "lora_enabled", False)
    return plain and last and not is_discrete(to_numpy(layer.kernel))


def _lets_through(layer) -> bool:
    if type(layer) is L.ReLU:
        return layer.max_value is None and not layer.threshold
    if type(layer) is L.Activation:
        return layer.activation in HOMOGENEOUS
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return type(layer) is L.LeakyReLU or (type(layer) in BY_CHANNEL and channels_last)
