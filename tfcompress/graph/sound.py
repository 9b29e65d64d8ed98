"""Refuses weights and inputs that nothing can be measured with."""

import keras
import numpy as np

from tfcompress.graph.paths import walk
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Tensor


def check_finite_weights(model: keras.Model) -> None:
    """Raises `ValueError` with the layer and the weight if one holds NaN or infinite values."""
    for path, (layer, _) in walk(model).items():
        for variable in layer.weights:
            if not keras.backend.is_float_dtype(variable.dtype):
                continue
            if not np.isfinite(to_numpy(variable)).all():
                raise ValueError(
                    f"Weight {variable.name!r} of layer {path!r} holds NaN or infinite values."
                )


def check_inputs(model: keras.Model, x: Tensor) -> None:
    """Raises `ValueError` for inputs whose shapes are not those of the model's inputs."""
    expected = [tuple(tensor.shape) for tensor in keras.tree.flatten(getattr(model, "inputs", []))]
    received = [tuple(array.shape) for array in keras.tree.flatten(x)]
    if expected and not _fit(received, expected):
        raise ValueError(
            f"Expected inputs of shapes {expected} in `data`, the model's. Received: {received}"
        )


def _fit(received, expected) -> bool:
    # Keras adds or takes a last axis of size 1 where the rank is off by one.
    return len(received) == len(expected) and all(
        len(one) != len(other)
        or all(size in (None, got) for got, size in zip(one[1:], other[1:], strict=True))
        for one, other in zip(received, expected, strict=True)
    )
