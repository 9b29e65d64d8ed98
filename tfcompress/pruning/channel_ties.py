"""Finds which channels of a model can only be removed together.

A channel is an entry of the last axis of a tensor: a feature map of a convolution, a unit of a
Dense layer. A residual sum ties the channels of the layers that it adds, a concatenation puts them
one after the other, and a normalization passes them on. Each channel gets a number, and channels
that can only be removed together get the same one.
"""

from typing import Any

import keras
import numpy as np

from tfcompress.graph.nodes import graph_of, inputs_of_call, nodes_of, operation_of
from tfcompress.graph.paths import check_graph, is_graph
from tfcompress.graph.private_keras import layers_in
from tfcompress.measure.attention import ATTENTION, head_count, projections, why_no_heads
from tfcompress.rewriting.ties import used_by_others

KERAS = keras.layers
TRANSPOSED = (KERAS.Conv1DTranspose, KERAS.Conv2DTranspose, KERAS.Conv3DTranspose)
KERNELS = (KERAS.Dense, KERAS.Conv1D, KERAS.Conv2D, KERAS.Conv3D, *TRANSPOSED)
DEPTHWISE = (KERAS.DepthwiseConv1D, KERAS.DepthwiseConv2D)
BY_CHANNEL = (*DEPTHWISE, KERAS.BatchNormalization, KERAS.PReLU)
MERGES = (
    *(KERAS.Add, KERAS.Subtract, KERAS.Multiply),
    *(KERAS.Average, KERAS.Maximum, KERAS.Minimum),
)
PASSING_ON = (
    *(KERAS.Activation, KERAS.ReLU, KERAS.LeakyReLU, KERAS.ELU, KERAS.Identity, KERAS.Rescaling),
    *(KERAS.Dropout, KERAS.SpatialDropout1D, KERAS.SpatialDropout2D, KERAS.SpatialDropout3D),
    *(KERAS.GaussianNoise, KERAS.GaussianDropout, KERAS.ActivityRegularization),
    *(KERAS.MaxPooling1D, KERAS.MaxPooling2D, KERAS.MaxPooling3D),
    *(KERAS.AveragePooling1D, KERAS.AveragePooling2D, KERAS.AveragePooling3D),
    *(KERAS.GlobalMaxPooling1D, KERAS.GlobalMaxPooling2D, KERAS.GlobalMaxPooling3D),
    *(KERAS.GlobalAveragePooling1D, KERAS.GlobalAveragePooling2D, KERAS.GlobalAveragePooling3D),
    *(KERAS.ZeroPadding1D, KERAS.ZeroPadding2D, KERAS.ZeroPadding3D),
    *(KERAS.Cropping1D, KERAS.Cropping2D, KERAS.Cropping3D),
    *(KERAS.UpSampling1D, KERAS.UpSampling2D, KERAS.UpSampling3D),
)
ELEMENTWISE_OPERATIONS = {  # operations outside layers that keep each channel apart
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Negative"),
    *("Absolute", "Square", "Sqrt", "Exp", "Relu", "Relu6", "LeakyRelu", "Elu", "Gelu", "Silu"),
    *("Sigmoid", "HardSigmoid", "HardSilu", "Tanh", "Softplus", "Softsign"),
}
ELEMENTWISE_ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
    *("hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu"),
    *("sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid"),
    *("squareplus", "tanh", "tanh_shrink", "threshold"),
)


class Channels:
    """The channels of a model as numbers; channels that go together share a number.

    The channels are followed through Dense layers, convolutions (transposed and depthwise too),
    batch normalization, activations, pooling, padding, dropout, Flatten, sums, products and
    concatenations, at any depth. The channels of the model's inputs and outputs, and those that any
    other layer receives, must stay. The heads of attention layers, at any depth, are channels of
    their own.

    Args:
        model: a built Sequential or Functional model, or one of another kind with attention layers.

    Attributes:
        reads: `{id of a layer: the channel number of each of its inputs}`, for the layers of
            `KERNELS`.
        writes: `{id of a layer: the channel number of each of its outputs}`, for the same layers.
        carries: `{id of a layer: the channel number of each of its inputs}`, for the layers of
            `BY_CHANNEL` and the input layers of all graphs.
        layers: `{id: layer}` of all these layers, in the order of the graph.
        heads: `{id of an attention layer: the number of each of its heads}`.
        without_heads: `{id of another one: why its heads must stay}`.
    """

    def __init__(self, model: keras.Model) -> None:
        self.reads, self.writes, self.carries, self.layers = {}, {}, {}, {}
        self.heads, self.without_heads = {}, {}
        self._parent, self._staying = [], []
        self._add_heads(model)
        if self.heads and not is_graph(model):
            return
        check_graph(model, "Removing channels")
        graph = graph_of(model)
        self._used_by_others = used_by_others(model)
        for numbers in self._follow(graph, [self._stay(tensor) for tensor in graph.inputs]):
            self._staying.extend(numbers)

    def find(self, numbers: Any) -> np.ndarray:
        """For each channel, the one number that all channels tied to it share."""
        return np.array([self._root(number) for number in numbers], int)

    @property
    def count(self) -> int:
        """How many numbers were given out."""
        return len(self._parent)

    def groups(self) -> dict[tuple[int, ...], list[int]]:
        """The channels that may be removed, by the ids of the layers that write them together."""
        writers = {}
        for key, numbers in self.writes.items():
            for number in np.unique(self.find(numbers)).tolist():
                writers.setdefault(number, []).append(key)
        staying = set(self.find(self._staying).tolist())
        groups = {}
        for number, keys in writers.items():
            if number not in staying:
                groups.setdefault(tuple(keys), []).append(number)
        return groups | {(key,): numbers.tolist() for key, numbers in self.heads.items()}

    def readers(self) -> dict[int, tuple[keras.layers.Layer, np.ndarray]]:
        """Layers that mix channels: `{id: (layer, the channel number of each of its inputs)}`.

        These are the layers of `reads`, and the output projections of attention layers.
        """
        found = {key: (self.layers[key], numbers) for key, numbers in self.reads.items()}
        for key, numbers in self.heads.items():
            reader = projections(self.layers[key])["attention_output"]
            each = np.prod(reader.kernel.shape[:2]) // len(numbers)
            found[id(reader)] = reader, np.repeat(numbers, each)
        return found

    def kept(self, numbers: Any, gone: Any) -> np.ndarray:
        """Which channels are left, as an array of bool, when the channels `gone` are removed."""
        return ~np.isin(self.find(numbers), list(gone))

    def _add_heads(self, model):
        generates = hasattr(model, "generate")
        for layer in layers_in(model):
            if isinstance(layer, ATTENTION):
                reason = why_no_heads(layer, generates)
                if reason:
                    self.without_heads[id(layer)] = reason
                else:
                    self.layers[id(layer)] = layer
                    self.heads[id(layer)] = self._new(head_count(layer))

    def _follow(self, graph, arriving):
        """The channels of a graph's outputs, from the channels of its inputs."""
        known = {}
        for tensor, numbers in zip(graph.inputs, arriving, strict=True):
            known[id(tensor)] = self._carry(operation_of(tensor), numbers)
        for node in nodes_of(graph):
            arrived = [known[id(tensor)] for tensor in node.input_tensors]
            leaving = self._through(node, arrived)
            known |= dict(zip(map(id, node.outputs), leaving, strict=True))
        return [known[id(tensor)] for tensor in graph.outputs]

    def _through(self, node, arrived):
        layer = node.operation
        kind = type(layer)
        if is_graph(layer):
            by_tensor = dict(zip(map(id, node.input_tensors), arrived, strict=True))
            return self._follow(graph_of(layer), [by_tensor[id(x)] for x in inputs_of_call(node)])
        if id(layer) in self._used_by_others:
            return self._stay_around(node, arrived)
        if id(layer) in self.heads and len(node.outputs) > 1:
            self.without_heads[id(layer)] = "the model uses its scores, which have an axis of heads"
            del self.heads[id(layer)]
        if len(arrived) == 1:
            if kind in KERNELS and _is_plain(layer):
                return [self._apply_kernel(layer, arrived[0])]
            if kind in BY_CHANNEL and _is_plain(layer):
                numbers = self._carry(layer, arrived[0])
                if not acts_on_each(getattr(layer, "activation", None)):
                    self._staying.extend(numbers)
                return [np.repeat(numbers, getattr(layer, "depth_multiplier", 1))]
            if kind in PASSING_ON and _keeps_channels_apart(layer):
                return arrived
            if kind is KERAS.Flatten and node.outputs[0].shape[-1] and len(arrived[0]):
                return [np.tile(arrived[0], node.outputs[0].shape[-1] // len(arrived[0]))]
        if kind is KERAS.Concatenate and layer.axis in (-1, len(node.outputs[0].shape) - 1):
            return [np.concatenate(arrived)]
        ranks = {len(tensor.shape) for tensor in node.input_tensors}
        if (kind in MERGES and len(ranks) == 1) or _is_elementwise(node):
            return [self._tie(arrived)]
        return self._stay_around(node, arrived)

    def _stay_around(self, node, arrived):
        """Keeps all channels before and behind a node."""
        for numbers in arrived:
            self._staying.extend(numbers)
        return [self._stay(tensor) for tensor in node.outputs]

    def _apply_kernel(self, layer, numbers):
        self.layers[id(layer)] = layer
        # a layer that is used several times reads tied channels each time
        before = self.reads.setdefault(id(layer), numbers)
        self._tie([before, numbers])
        if id(layer) not in self.writes:
            columns = layer.units if hasattr(layer, "units") else layer.filters
            self.writes[id(layer)] = self._new(columns)
            if not acts_on_each(layer.activation):
                self._staying.extend(self.writes[id(layer)])
        return self.writes[id(layer)]

    def _carry(self, layer, numbers):
        self.layers[id(layer)] = layer
        self._tie([self.carries.setdefault(id(layer), numbers), numbers])
        return numbers

    def _root(self, number):
        """The smallest number of a set of tied channels, as in a union-find structure."""
        while self._parent[number] != number:
            number = self._parent[number]
        return number

    def _new(self, count):
        numbers = np.arange(len(self._parent), len(self._parent) + count)
        self._parent.extend(numbers.tolist())
        return numbers

    def _stay(self, tensor):
        """Gives a tensor new channels, which must stay."""
        size = tensor.shape[-1] if len(tensor.shape) > 1 else None
        numbers = self._new(size or 0)
        self._staying.extend(numbers)
        return numbers

    def _tie(self, arrived):
        """Ties the channels at the same position; if the lengths differ, all of them must stay."""
        longest = max(arrived, key=len)
        if any(len(numbers) != len(longest) for numbers in arrived):
            for numbers in arrived:
                self._staying.extend(numbers)
            return longest
        for numbers in arrived:
            for pair in zip(numbers, longest, strict=True):
                low, high = sorted(map(self._root, pair))
                self._parent[high] = low
        return longest


def acts_on_each(activation: Any) -> bool:
    """Whether an activation is known to act on each number alone.

    >>> acts_on_each(keras.activations.relu), acts_on_each(keras.activations.softmax)
    (True, False)
    """
    if isinstance(activation, KERAS.Layer):
        return type(activation) in PASSING_ON and _keeps_channels_apart(activation)
    known = (getattr(keras.activations, name, None) for name in ELEMENTWISE_ACTIVATIONS)
    return activation is None or any(activation is one for one in known)


def _is_plain(layer):
    """Whether the layer keeps channels on the last axis, with weights of their own for each."""
    if isinstance(layer, KERAS.BatchNormalization):
        return layer.axis in (-1, len(layer.get_build_config()["input_shape"]) - 1)
    if isinstance(layer, KERAS.PReLU):
        return layer.alpha.shape[-1] == layer.get_build_config()["input_shape"][-1]
    changed = getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False)
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return last and not changed and getattr(layer, "groups", 1) == 1


def _keeps_channels_apart(layer):
    if isinstance(layer, KERAS.Activation):
        return acts_on_each(layer.activation)
    if isinstance(layer, KERAS.Rescaling):
        return np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _is_elementwise(node):
    """Whether an operation outside a layer acts on each number, without an array of its own."""
    operation, arguments = node.operation, node.arguments
    if isinstance(operation, KERAS.Layer) or type(operation).__name__ not in ELEMENTWISE_OPERATIONS:
        return False
    others = keras.tree.flatten((arguments.args, arguments.kwargs))
    return all(np.ndim(x) == 0 for x in others if not isinstance(x, keras.KerasTensor))
