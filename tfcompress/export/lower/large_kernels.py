"""Large kernels stay in the model until the file is written, one after the other.

The stock converter holds several copies of each constant. In place of a layer with a large kernel
it gets one that reads the first channel alone, and whose kernel of equal numbers tells whose it is.
In the converter's file that operator then gets the whole input and the whole kernel.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from tfcompress.graph.paths import walk
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name
from tfcompress.tflite.writer import LazyBuffer
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import InputShape, Tensor

LEAST = 2**20  # entries
FIRST, STEP = 1.5, 2.0**-12  # of the numbers, which float32 holds exactly
AXES = {"FULLY_CONNECTED": (1, 0), "CONV_2D": (3, 0, 1, 2)}  # of a kernel, as the file wants it
SLICES = ("STRIDED_SLICE", "SLICE")
BETWEEN = ("RESHAPE", "SPACE_TO_BATCH_ND")  # what the converter puts behind the slice


@dataclass(frozen=True)
class LargeKernel:
    """A kernel that is computed when it is asked for.

    Attributes:
        shape: of the kernel.
        compute: gives it, float32.
        number: all entries of the kernel that stands in for it.
    """

    shape: tuple[int, ...]
    compute: Callable
    number: float

    def times(self, factor: Tensor) -> Tensor:
        """The kernel with a factor for each output channel."""
        return replace(self, compute=lambda: (self.compute() * factor).astype(np.float32))


class FirstChannel(keras.layers.Layer):
    """The first channel of its input."""

    def call(self, inputs: Tensor) -> Tensor:
        return inputs[..., :1]

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return (*input_shape[:-1], 1)


def thin(layer: keras.layers.Layer, lowered: Any, count: int) -> list[keras.layers.Layer] | None:
    """What a layer is lowered to, without the large kernels.

    Args:
        layer: of the model that is exported.
        lowered: makes the chain of ordinary layers that takes its place, or None: the layer itself.
        count: an iterator over 0, 1, ...: one for each large kernel of the model.
    """
    chain = lowered()
    parts = [layer] if chain is None else chain
    if not any(map(_is_large, parts)):
        return chain
    thinned = []
    for place, part in enumerate(parts):
        if _is_large(part):
            compute = partial(_kernel, layer) if chain is None else partial(_part, lowered, place)
            number = FIRST + STEP * next(count)
            kernel = LargeKernel(tuple(part.kernel.shape), compute, number)
            thinned += [FirstChannel(), _stand_in(part, kernel)]
        else:
            thinned.append(part)
    del chain, parts, part
    gc.collect()  # a layer refers to itself, and would hold its kernel on
    return thinned


def _is_large(layer) -> bool:
    return (
        type(layer) in (keras.layers.Dense, keras.layers.Conv2D)
        and isinstance(kernel_of(layer), keras.Variable)
        and np.prod(kernel_of(layer).shape) >= LEAST
        and kernel_of(layer).dtype == "float32"
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "data_format", "channels_last") == "channels_last"
    )


def _kernel(layer):
    return to_numpy(kernel_of(layer))


def _part(lowered, place):
    kernel = _kernel(lowered()[place])
    gc.collect()
    return kernel


def _stand_in(layer, kernel):
    new = type(layer).from_config(layer.get_config())
    new.build((*[None] * (len(kernel.shape) - 1), 1))
    new.kernel.assign(np.full(new.kernel.shape, kernel.number, np.float32))
    if layer.bias is not None:
        new.bias.assign(layer.bias)
    new.large = kernel
    return new


def put_kernels(file: Any, lowered: Any) -> bool:
    """Gives the operators of large kernels their kernels and the inputs of these.

    Args:
        file: the converter's `ModelT`.
        lowered: the model that it was made from.

    Returns:
        False if one of them is not found as it was written: the converter has changed it.
    """
    kernels = {
        layer.large.number: (path, layer.large)
        for path, (layer, _) in walk(lowered).items()
        if is_thin(layer)
    }
    graph, put, whole = Graph(file), {}, {}
    operators = graph.subgraph.operators
    makers = {int(index): operator for operator in operators for index in operator.outputs}
    for operator in operators if kernels else ():
        path, kernel, axes = _kernel_of(graph, operator, kernels)
        if kernel is None:
            continue
        first = _widen(graph, operator, kernel.shape[-2], makers)
        if first is None:
            return False
        whole[first] = makers[first].inputs[0]
        if path not in put:
            put[path] = _add(graph, kernel, axes, f"{path}/kernel")
        operator.inputs[1] = put[path]
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            graph.tensors[operator.inputs[2]].name = f"{path}/bias".encode()
    for operator in operators:
        operator.inputs = [whole.get(int(index), int(index)) for index in operator.inputs]
    return len(put) == len(kernels)


def is_thin(layer: keras.layers.Layer) -> bool:
    return isinstance(getattr(layer, "large", None), LargeKernel)


def _kernel_of(graph, operator, kernels):
    """`(path, kernel, axes)` of the large kernel that an operator wants, or three None."""
    axes = AXES.get(operator_name(graph.model, operator))
    values = None if axes is None else graph.values(operator.inputs[1])
    if values is not None and values.size:
        path, kernel = kernels.get(float(values.flat[0]), (None, None))
        if kernel is not None and (values == kernel.number).all():
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
        if code not in BETWEEN:
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


def _add(graph, kernel, axes, name) -> int:
    """Adds the constant of a large kernel."""
    shape = [kernel.shape[axis] for axis in axes]
    index = graph.tensor(shape, name=name)
    buffer = LazyBuffer(4 * int(np.prod(shape)), lambda: kernel.compute().transpose(axes))
    graph.model.buffers.append(buffer)
    graph.tensors[index].buffer = len(graph.model.buffers) - 1
    return index
