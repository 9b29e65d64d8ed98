"""Along which axes of a kernel the outputs of its layer lie, for those who hold only the kernel."""

import gc
import math
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from tfcompress.utils.types import Shape, Tensor

DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def output_axes(variables: Iterable[keras.Variable]) -> list[tuple[int, ...]]:
    """The axes of each variable along which each index is an output of its layer.

    Those of a depthwise kernel are its channels and their multiples, those of an EinsumDense kernel
    the axes that are not summed over; of what no layer holds, and of most kernels, it is the last.
    A variable does not know its layer: the layers are found among all living objects.
    """
    variables = list(variables)
    holders = {id(variable): (None, "") for variable in variables}
    for thing in gc.get_objects():
        if issubclass(type(thing), keras.layers.Layer):
            for name, value in list(vars(thing).items()):
                if id(value) in holders:
                    holders[id(value)] = (thing, name)
    return [_axes(*holders[id(variable)]) for variable in variables]


def _axes(layer: Any, name: str) -> tuple[int, ...]:
    if isinstance(layer, DEPTHWISE) or (isinstance(layer, SEPARABLE) and "depthwise" in name):
        return (-2, -1)
    if isinstance(layer, TRANSPOSED):
        return (-2,)
    if isinstance(layer, keras.layers.EinsumDense):
        return einsum_output_axes(layer.equation)
    if isinstance(layer, keras.layers.Embedding) and "reverse" not in name:
        return (0,)
    return (-1,)


def einsum_output_axes(equation: str) -> tuple[int, ...]:
    """The axes of the kernel of an einsum that are not summed over.

    >>> einsum_output_axes("abc,cde->abde")
    (1, 2)
    """
    letters, outputs = equation.replace(" ", "").split(",")[1].split("->")
    return tuple(axis for axis, letter in enumerate(letters) if letter in outputs)


def outputs_last(kernel: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A kernel as a matrix with a column for each output; itself if its last axis is that."""
    if axes == (-1,):
        return kernel
    order = _order(len(kernel.shape), axes)
    columns = math.prod(kernel.shape[axis] for axis in axes)
    return ops.reshape(ops.transpose(kernel, order), (-1, columns))


def outputs_back(matrix: Tensor, shape: Shape, axes: tuple[int, ...]) -> Tensor:
    """The inverse of `outputs_last`."""
    if axes == (-1,):
        return matrix
    order = _order(len(shape), axes)
    inverse = [order.index(axis) for axis in range(len(shape))]
    return ops.transpose(ops.reshape(matrix, [shape[axis] for axis in order]), inverse)


def _order(rank, axes):
    axes = [axis % rank for axis in axes]
    return [axis for axis in range(rank) if axis not in axes] + axes
