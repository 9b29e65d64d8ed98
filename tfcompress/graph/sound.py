"""Refuses weights that nothing can be measured with."""

import keras
import numpy as np

from tfcompress.graph.paths import walk
from tfcompress.utils.arrays import to_numpy


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
