"""Large kernels bypass the stock converter, which holds several copies of each constant.

In place of a layer with a large kernel, the converter gets a layer that reads the first input
channel alone. All entries of its small kernel are one number, the mark, by which its operator is
found in the converter's file. There the operator gets the whole input and the whole kernel, and
kernels are computed one after the other while the file is written.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from tfcompress.graph.chain import unchained
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name
from tfcompress.tflite.writer import LazyBuffer
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import InputShape, Tensor

LEAST_LARGE_SIZE = 2**20  # entries
MOST_GARBAGE = 2**26  # bytes of kernels; a collection takes a tenth of a second in a large process
FIRST_MARK, MARK_STEP = 1.5, 2.0**-12  # float32 holds each mark exactly
_waiting = 0  # bytes of kernels that nothing refers to, but themselves
# The axes of a Keras kernel in the order in which the file holds them.
FILE_AXES = {"FULLY_CONNECTED": (1, 0), "CONV_2D": (3, 0, 1, 2)}
SLICES = ("STRIDED_SLICE", "SLICE")
BEHIND_SLICE = ("RESHAPE", "SPACE_TO_BATCH_ND")  # what the converter puts behind the slice


@dataclass(frozen=True)
class LargeKernel:
    """A kernel that is computed when it is asked for.

    Attributes:
        shape: the shape of the kernel.
        compute: a function without arguments that returns the kernel in float32.
        mark: the value of all entries of the small kernel that stands in for it.
    """

    shape: tuple[int, ...]
    compute: Callable
    mark: float

    def times(self, factor: np.ndarray) -> "LargeKernel":
        """The kernel with a factor for each output channel."""
        return replace(self, compute=lambda: (self.compute() * factor).astype(np.float32))


class FirstChannel(keras.layers.Layer):
    """The first channel of its input."""

    def call(self, inputs: Tensor) -> Tensor:
        return inputs[..., :1]

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return (*input_shape[:-1], 1)


def thin_layer(
    layer: keras.layers.Layer, lowered: Callable, count: Iterator[int]
) -> list[keras.layers.Layer] | None:
    """The layers that a layer is lowered to, without their large kernels.

    Args:
        layer: a layer of the model that is exported.
        lowered: a function that makes the chain of ordinary layers that takes its place; it returns
            None where the layer itself stays.
        count: an iterator over 0, 1, ... that numbers the large kernels of the model.
    """
    chain = lowered()
    parts = [layer] if chain is None else chain
    if not any(map(_is_large, parts)):
        return chain
    thinned = []
    for place, part in enumerate(parts):
        if _is_large(part):
            if chain is None:
                compute = partial(_kernel_values, layer)
            else:  # lowers the layer anew on each call, so that its kernel is in memory only then
                compute = partial(_lowered_kernel_values, lowered, place)
            mark = FIRST_MARK + MARK_STEP * next(count)
            kernel = LargeKernel(tuple(part.kernel.shape), compute, mark)
            thinned += [FirstChannel(), _stand_in(part, kernel)]
        else:
            thinned.append(part)
    size = sum(4 * int(np.prod(part.kernel.shape)) for part in parts if _is_large(part))
    del chain, parts, part
    _collect_after(size)
    return thinned


def _is_large(layer) -> bool:
    return (
        type(layer) in (keras.layers.Dense, keras.layers.Conv2D)
        and isinstance(kernel_of(layer), keras.Variable)
        and np.prod(kernel_of(layer).shape) >= LEAST_LARGE_SIZE
        and kernel_of(layer).dtype == "float32"
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "data_format", "channels_last") == "channels_last"
    )


def _kernel_values(layer):
    return to_numpy(kernel_of(layer))


def _lowered_kernel_values(lowered, place):
    kernel = _kernel_values(lowered()[place])
    _collect_after(kernel.nbytes)
    return kernel


def _collect_after(size):
    """Collects garbage once kernels of enough bytes wait for it: a layer refers to itself."""
    global _waiting
    _waiting += size
    if _waiting >= MOST_GARBAGE:
        gc.collect()
        _waiting = 0


def _stand_in(layer, kernel):
    new = type(layer).from_config(layer.get_config())
    new.build((*[None] * (len(kernel.shape) - 1), 1))
    new.kernel.assign(np.full(new.kernel.shape, kernel.mark, np.float32))
    if layer.bias is not None:
        new.bias.assign(layer.bias)
    new.large = kernel
    return new


def put_kernels(file: Any, lowered: keras.Model) -> bool:
    """Gives the operators of large kernels these kernels and their whole inputs.

    Args:
        file: the converter's `ModelT`.
        lowered: the model that it was made from.

    Returns:
        False if the mark of one of the kernels is not found: the converter has changed its kernel.
    """
    kernels = {
        layer.large.mark: (path, layer.large)
        for path, layer in unchained(lowered).items()
        if is_thin(layer)
    }
    graph, put, whole = Graph(file), {}, {}
    operators = graph.subgraph.operators
    makers = {int(index): operator for operator in operators for index in operator.outputs}
    for operator in operators if kernels else ():
        path, kernel, axes = _marked_kernel(graph, operator, kernels)
        if kernel is None:
            continue
        first = _widen(graph, operator, kernel.shape[-2], makers)
        if first is None:
            return False
        whole[first] = makers[first].inputs[0]
        if path not in put:
            put[path] = _add_kernel(graph, kernel, axes, f"{path}/kernel")
        operator.inputs[1] = put[path]
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            graph.tensors[operator.inputs[2]].name = f"{path}/bias".encode()
    for operator in operators:
        operator.inputs = [whole.get(int(index), int(index)) for index in operator.inputs]
    return len(put) == len(kernels)


def is_thin(layer: keras.layers.Layer) -> bool:
    """Whether a layer stands in for one with a large kernel."""
    return isinstance(getattr(layer, "large", None), LargeKernel)


def _marked_kernel(graph, operator, kernels):
    """`(path, kernel, axes)` of the large kernel whose mark an operator holds, or three None."""
    axes = FILE_AXES.get(operator_name(graph.model, operator))
    values = None if axes is None else graph.values(operator.inputs[1])
    if values is not None and values.size:
        path, kernel = kernels.get(float(values.flat[0]), (None, None))
        if kernel is not None and (values == kernel.mark).all():
            return path, kernel, axes
    return None, None, None


def _widen(graph, operator, channels, makers) -> int | None:
    """Gives the tensors between a slice and an operator all channels.

    Returns:
        The output of the slice, or None if there is something else on the way.
    """
    index, between = operator.inputs[0], []
    while (maker := makers.get(index)) is not None:
        code = operator_name(graph.model, maker)
        if code in SLICES:
            break
        if code not in BEHIND_SLICE:
            return None
        between.append((code, maker))
        index = maker.inputs[0]
    if maker is None or graph.shape(maker.inputs[0])[-1] != channels:
        return None
    for code, maker in between:
        tensor = graph.tensors[maker.outputs[0]]
        tensor.shape = [*tensor.shape[:-1], channels]
        if tensor.shapeSignature is not None:
            tensor.shapeSignature = [*tensor.shapeSignature[:-1], channels]
        shape = graph.values(maker.inputs[1]) if code == "RESHAPE" else None
        if shape is not None:
            shape = np.array([*shape[:-1], channels], np.int32)
            maker.inputs[1], maker.builtinOptions.newShape = graph.constant(shape), shape
    return index


def _add_kernel(graph, kernel, axes, name) -> int:
    """Adds the constant of a large kernel."""
    shape = [kernel.shape[axis] for axis in axes]
    index = graph.tensor(shape, name=name)
    buffer = LazyBuffer(4 * int(np.prod(shape)), lambda: kernel.compute().transpose(axes))
    graph.model.buffers.append(buffer)
    graph.tensors[index].buffer = len(graph.model.buffers) - 1
    return index
