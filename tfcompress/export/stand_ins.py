"""Converts a model without its large kernels, which are put into the file afterwards.

The stock converter holds several copies of each constant. A kernel of equal numbers it keeps as one
number until it writes the file, where that number, different for each kernel, tells whose it is.
"""

import keras
import numpy as np
import tensorflow as tf

from ..flatbuffer import constant, operator_name
from ..layers.ordinary import kernel_of, to_numpy

LARGE_KERNEL = 2**20  # entries
FIRST, STEP = 1.5, 2.0**-12  # of the numbers, which float32 holds exactly
MOST = 2**11
AXES = {"FULLY_CONNECTED": (1, 0), "CONV_2D": (3, 0, 1, 2)}  # of a kernel, as the file wants it


def large_kernels(model) -> dict[float, keras.layers.Layer]:
    """`{number: layer}` of the large Dense and Conv2D kernels."""
    kinds = keras.layers.Dense, keras.layers.Conv2D
    layers = [
        layer
        for layer in model._flatten_layers()
        if type(layer) in kinds
        and isinstance(kernel_of(layer), keras.Variable)
        and np.prod(kernel_of(layer).shape) >= LARGE_KERNEL
        and kernel_of(layer).dtype == "float32"
    ]
    return {FIRST + STEP * place: layer for place, layer in enumerate(layers[:MOST])}


def without_kernels(kernels):
    """The scope in which each of the kernels is its number."""
    mapping = [
        (kernel_of(layer), tf.constant(number, shape=kernel_of(layer).shape))
        for number, layer in kernels.items()
    ]
    return keras.StatelessScope(state_mapping=mapping)


def put_kernels(file, kernels) -> bool:
    """Puts the kernels in the place of their numbers.

    Args:
        file: a `ModelT` of bytes that can be written to.
        kernels: from `large_kernels`.

    Returns:
        False if one of them is not found, or if another large kernel has come of it.
    """
    graph, found, left = file.subgraphs[0], {}, dict(kernels)
    for operator in graph.operators if kernels else ():
        axes = AXES.get(operator_name(file, operator))
        tensor = None if axes is None else graph.tensors[operator.inputs[1]]
        values = None if axes is None else constant(file, tensor)
        if values is None or values.size < LARGE_KERNEL or tensor.buffer in found:
            continue
        number = float(values.flat[0])
        layer = left.pop(number, None)
        kernel = None if layer is None else to_numpy(kernel_of(layer))
        if kernel is None or kernel.ndim != len(axes) or (values != number).any():
            return False
        kernel = kernel.transpose(axes)
        if kernel.shape != values.shape:
            return False
        found[tensor.buffer] = values, kernel
    if not left:
        for values, kernel in found.values():
            values[:] = kernel  # in the place of the numbers, in the file's own bytes
    return not left
