"""Which channels of a model are one and the same, and the model without some of them.

A residual sum ties the channels of the layers that it adds; a concatenation lists them one after
the other; a normalization carries them on. Each channel gets a number, and what must be removed
together gets the same one. A channel is the last axis of a tensor: a feature map of a convolution,
a unit of a Dense layer.
"""

import keras
import numpy as np

from tfcompress.graph.layerwise import graph_of, nodes_of
from tfcompress.graph.paths import is_graph
from tfcompress.rewriting.swap import check_graph, rebuild

KERAS = keras.layers
TRANSPOSED = (KERAS.Conv1DTranspose, KERAS.Conv2DTranspose, KERAS.Conv3DTranspose)
KERNELS = (KERAS.Dense, KERAS.Conv1D, KERAS.Conv2D, KERAS.Conv3D, *TRANSPOSED)
DEPTHWISE = (KERAS.DepthwiseConv1D, KERAS.DepthwiseConv2D)
BY_CHANNEL = (*DEPTHWISE, KERAS.BatchNormalization, KERAS.PReLU)
MERGES = (
    *(KERAS.Add, KERAS.Subtract, KERAS.Multiply),
    *(KERAS.Average, KERAS.Maximum, KERAS.Minimum),
)
PASSING = (
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
OPERATIONS = {  # bare operations that act on each number, or on numbers at the same place
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Negative"),
    *("Absolute", "Square", "Sqrt", "Exp", "Relu", "Relu6", "LeakyRelu", "Elu", "Gelu", "Silu"),
    *("Sigmoid", "HardSigmoid", "HardSilu", "Tanh", "Softplus", "Softsign"),
}


class Channels:
    """The channels of a model, each a number; those that go together have the same one.

    Followed are Dense layers, convolutions (transposed and depthwise too), batch normalization,
    activations, pooling, padding, dropout, Flatten, sums, products and concatenations, at any
    depth. What any other layer sees, the model's inputs and its outputs must stay.

    Args:
        model: a built Sequential or Functional model.

    Attributes:
        reads: `{id of a layer: the channel of each of its inputs}`, for the layers of `KERNELS`.
        writes: `{id of a layer: the channel of each of its outputs}`, for the same.
        carries: `{id of a layer: the channel of each of its inputs}`, for those of `BY_CHANNEL`
            and the input layers of all graphs.
        layers: `{id: layer}` of these, in the order of the graph.
    """

    def __init__(self, model):
        check_graph(model)
        self.reads, self.writes, self.carries, self.layers = {}, {}, {}, {}
        self._parent, self._staying = [], []
        graph = graph_of(model)
        for labels in self._follow(graph, [self._stay(tensor) for tensor in graph.inputs]):
            self._staying.extend(labels)

    def find(self, labels) -> np.ndarray:
        """The number that channels which go together share."""
        return np.array([self._root(label) for label in labels], int)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return len(self._parent)

    def groups(self) -> dict[tuple[int, ...], list[int]]:
        """The channels that may go, by the ids of the layers that write them together."""
        writers = {}
        for key, labels in self.writes.items():
            for label in np.unique(self.find(labels)).tolist():
                writers.setdefault(label, []).append(key)
        staying = set(self.find(self._staying).tolist())
        groups = {}
        for label, keys in writers.items():
            if label not in staying:
                groups.setdefault(tuple(keys), []).append(label)
        return groups

    def kept(self, labels, gone) -> np.ndarray:
        """Which of some channels are left: bool, like `labels`."""
        return ~np.isin(self.find(labels), list(gone))

    def _follow(self, graph, arriving):
        """The channels of the outputs of a graph, from those of its inputs."""
        known = {}
        for tensor, labels in zip(graph.inputs, arriving, strict=True):
            known[id(tensor)] = self._carry(tensor._keras_history.operation, labels)
        for node in nodes_of(graph):
            arrived = [known[id(tensor)] for tensor in node.input_tensors]
            leaving = self._through(node, arrived)
            known |= dict(zip(map(id, node.outputs), leaving, strict=True))
        return [known[id(tensor)] for tensor in graph.outputs]

    def _through(self, node, arrived):
        layer = node.operation
        kind = type(layer)
        if is_graph(layer):
            return self._follow(graph_of(layer), arrived)
        if len(arrived) == 1:
            if kind in KERNELS and _is_plain(layer):
                return [self._apply_kernel(layer, arrived[0])]
            if kind in BY_CHANNEL and _is_plain(layer):
                labels = self._carry(layer, arrived[0])
                return [np.repeat(labels, getattr(layer, "depth_multiplier", 1))]
            if kind in PASSING and _passes(layer):
                return arrived
            if kind is KERAS.Flatten and node.outputs[0].shape[-1] and len(arrived[0]):
                return [np.tile(arrived[0], node.outputs[0].shape[-1] // len(arrived[0]))]
        if kind is KERAS.Concatenate and layer.axis in (-1, len(node.outputs[0].shape) - 1):
            return [np.concatenate(arrived)]
        ranks = {len(tensor.shape) for tensor in node.input_tensors}
        if (kind in MERGES and len(ranks) == 1) or _by_number(node):
            return [self._tie(arrived)]
        for labels in arrived:
            self._staying.extend(labels)
        return [self._stay(tensor) for tensor in node.outputs]

    def _apply_kernel(self, layer, labels):
        self.layers[id(layer)] = layer
        before = self.reads.setdefault(id(layer), labels)
        self._tie([before, labels])
        if id(layer) not in self.writes:
            columns = layer.units if hasattr(layer, "units") else layer.filters
            self.writes[id(layer)] = self._new(columns)
            if layer.activation is keras.activations.softmax:  # each output depends on all
                self._staying.extend(self.writes[id(layer)])
        return self.writes[id(layer)]

    def _carry(self, layer, labels):
        self.layers[id(layer)] = layer
        self._tie([self.carries.setdefault(id(layer), labels), labels])
        return labels

    def _root(self, label):
        while self._parent[label] != label:
            label = self._parent[label]
        return label

    def _new(self, count):
        labels = np.arange(len(self._parent), len(self._parent) + count)
        self._parent.extend(labels.tolist())
        return labels

    def _stay(self, tensor):
        """New channels that must stay."""
        size = tensor.shape[-1] if len(tensor.shape) > 1 else None
        labels = self._new(size or 0)
        self._staying.extend(labels)
        return labels

    def _tie(self, arrived):
        """Makes channels at the same place one; if there is no such place, they must stay."""
        longest = max(arrived, key=len)
        if any(len(labels) != len(longest) for labels in arrived):
            for labels in arrived:
                self._staying.extend(labels)
            return longest
        for labels in arrived:
            for pair in zip(labels, longest, strict=True):
                low, high = sorted(map(self._root, pair))
                self._parent[high] = low
        return longest


def shrink(model, channels, gone):
    """A copy of a model without some of its channels.

    Args:
        model: the model.
        channels: the `Channels` of this model.
        gone: the numbers of the channels that go, whole ones of `channels.groups()`.

    Returns:
        A new model of ordinary layers, with the weights that are left.
    """

    def replace(layer):
        key = id(layer)
        inputs = channels.reads.get(key, channels.carries.get(key))
        if inputs is None:
            return None
        rows = channels.kept(inputs, gone)
        columns = channels.kept(channels.writes[key], gone) if key in channels.writes else None
        if rows.all() and (columns is None or columns.all()):
            return None
        return [_part(layer, rows, columns)]

    return rebuild(model, replace)


def _part(layer, rows, columns):
    """A layer with some of its inputs and outputs left."""
    config = layer.get_config()
    if isinstance(layer, KERAS.InputLayer):
        config["batch_shape"] = (*config["batch_shape"][:-1], int(rows.sum()))
        return KERAS.InputLayer.from_config(config)
    if columns is not None:
        config["units" if "units" in config else "filters"] = int(columns.sum())
    new = type(layer).from_config(config)
    new.build((*layer.get_build_config()["input_shape"][:-1], int(rows.sum())))
    for old, variable in zip(layer.weights, new.weights, strict=True):
        array = keras.ops.convert_to_numpy(old)
        for axis, kept in _axes(layer, old.name, rows, columns).items():
            array = np.compress(kept, array, axis)
        variable.assign(array)
    return new


def _axes(layer, name, rows, columns):
    """Which axes of a weight count the inputs and the outputs."""
    if isinstance(layer, DEPTHWISE):
        return {-2: rows} if name == "kernel" else {-1: np.repeat(rows, layer.depth_multiplier)}
    if columns is None:
        return {-1: rows}
    if name != "kernel":
        return {-1: columns}
    return {input_axis(layer): rows, output_axis(layer): columns}


def input_axis(layer) -> int:
    """The axis of a kernel that counts the inputs."""
    return -1 if isinstance(layer, TRANSPOSED) else -2


def output_axis(layer) -> int:
    """The axis of a kernel that counts the outputs."""
    return -3 - input_axis(layer)


def _is_plain(layer):
    """Whether each output has its own weights, on the last axis of the tensors."""
    if isinstance(layer, KERAS.BatchNormalization):
        return layer.axis in (-1, len(layer.get_build_config()["input_shape"]) - 1)
    if isinstance(layer, KERAS.PReLU):
        return layer.alpha.shape[-1] == layer.get_build_config()["input_shape"][-1]
    changed = getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False)
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return last and not changed and getattr(layer, "groups", 1) == 1


def _passes(layer):
    if isinstance(layer, KERAS.Activation):
        return layer.activation not in (
            keras.activations.softmax,
            keras.activations.log_softmax,
            keras.activations.glu,
            keras.activations.sparsemax,
        )
    if isinstance(layer, KERAS.Rescaling):
        return np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _by_number(node):
    """Whether a bare operation acts on each number, with no array of its own."""
    operation, arguments = node.operation, node.arguments
    if isinstance(operation, KERAS.Layer) or type(operation).__name__ not in OPERATIONS:
        return False
    others = keras.tree.flatten((arguments.args, arguments.kwargs))
    return all(np.ndim(x) == 0 for x in others if not isinstance(x, keras.KerasTensor))
