"""What layers cost in the unit of a target: bits, bytes of a file or an archive, or MACs."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import layers as forms
from tfcompress.layers.core.ordinary import kernel_bits
from tfcompress.measure.macs import layer_macs, matrices
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import InputShape, Rest, Store

EMPTY_FILE_BYTES = 1200  # of a file with one small operation


def cost_function(target: str, shapes: Any, store: Store = "fast") -> Callable[..., int]:
    """A function that gives the cost of a chain of layers in the place of a layer.

    Args:
        target: see `planner.plan`.
        shapes: the shapes of the layer's inputs, one for each of its uses.
        store: see `to_tflite`.
    """
    if target == "bits":
        return lambda chain: sum(map(kernel_bits, chain))
    if target == "macs":
        return lambda chain: sum(_macs(chain, shape) for shape in shapes)
    if target == "archive":
        return lambda chain: sum(map(_archive_bytes, chain))
    return lambda chain: _file_bytes(chain, shapes[0], store)


def _macs(chain, shape):
    total = 0
    for part in chain:
        total += layer_macs(part, shape)
        shape = part.compute_output_shape(shape)
    return total


def _archive_bytes(part) -> int:
    """The bytes of a layer's arrays behind the entropy coder, without names and headers."""
    from tfcompress.archive.entropy import encode
    from tfcompress.archive.files import rounded

    compressed = isinstance(part, forms.CompressedLayer)
    arrays = part.stored().values() if compressed else [to_numpy(v) for v in matrices(part)]
    return sum(len(blob) for a in arrays for blob in encode(rounded(np.asarray(a)))[1])


def _file_bytes(chain, shape, store) -> int:
    """The bytes of a chain in a file of its own, without the bytes that any file has."""
    return max(len(file_of(chain, shape, store)) - EMPTY_FILE_BYTES, 0)


def file_of(
    chain: Sequence[keras.layers.Layer], shape: InputShape, store: Store, rest: Rest = "float32"
) -> bytes:
    """A file of nothing but some layers, one behind the other.

    Args:
        chain: built layers, which stay as they are.
        shape: of the input.
        store, rest: see `to_tflite`.
    """
    from tfcompress.export import unverified

    layers = [type(part).from_config(part.get_config()) for part in chain]
    dtype = "int32" if hasattr(layers[0], "input_dim") else None  # ids of a table
    model = keras.Sequential([keras.Input(shape[1:], dtype=dtype), *layers])
    for new, part in zip(layers, chain, strict=True):
        new.set_weights(part.get_weights())
    return unverified(model, store, rest)
