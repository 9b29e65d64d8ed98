"""What an archive may hold in float16, and what it rounds."""

import keras
import numpy as np

from tfcompress.graph.private_keras import layers_in
from tfcompress.measure.macs import matrices

HALF = np.finfo("float16")
FACTORS = "scale", "gamma"  # of outputs, each of which float16 must hold
ROUNDED = "bias", "beta", "gamma"  # beside kernels; a layer subtracts and divides by statistics
HALF_ERROR = 2.0**-11  # of a normal number


def roundable(model: keras.Model) -> set[int]:
    """The ids of the kernels and biases of a model; statistics are kept as they are."""
    layers = [x for x in layers_in(model) if not isinstance(x, keras.layers.Normalization)]
    kernels = (variable for layer in layers for variable in matrices(layer))
    return {id(v) for v in (*kernels, *(v for v in model.weights if v.name in ROUNDED))}


def rounded(array: np.ndarray, each: bool = False) -> np.ndarray:
    """A float32 array in float16, or the array itself where a channel would lose precision.

    Entries below its normal numbers may, beside larger ones in their channels along each axis.

    Args:
        array: of any dtype and shape.
        each: whether each entry of a vector is a channel; otherwise the vector is one.
    """
    if array.dtype != np.float32 or not np.max(np.abs(array), initial=0) <= HALF.max:
        return array
    half = array.astype(np.float16)
    error, power = np.square(half - array, dtype="float64"), np.square(array, dtype="float64")
    for channel in range(array.ndim) if each or array.ndim > 1 else [None]:
        others = tuple(axis for axis in range(array.ndim) if axis != channel)
        if np.any(np.sum(error, others) > HALF_ERROR**2 * np.sum(power, others)):
            return array
    return half
