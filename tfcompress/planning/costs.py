"""What layers cost in the unit of a target: bits, bytes of a file or an archive, or MACs."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import layers as forms
from tfcompress.layers.core.maker import Composed, Maker
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


def estimate_function(
    target: str, shapes: Any, store: Store, known: dict[str, int]
) -> Callable[..., int] | None:
    """A function like that of `cost_function` for layers that are not fitted, or None.

    Bits and MACs are exact. The bytes of a file are those with the random weights at hand. What an
    archive's coder makes of a kernel only a fit can tell.

    Args:
        target, shapes, store: see `cost_function`.
        known: the bytes of chains that were exported already, to which others are added.
    """
    count = cost_function(target, shapes, store)

    def of_its_kind(chain):
        kind = repr((shapes[0], *map(_kind, chain)))
        if kind not in known:
            known[kind] = count(chain)
        return known[kind]

    return {"archive": None, "tflite": of_its_kind}.get(target, count)


def _kind(part):
    """All that the file of a layer depends on but its weights."""
    config = {key: value for key, value in part.get_config().items() if key != "name"}
    return type(part).__name__, config, [tuple(v.shape) for v in part.weights]


def unfitted_chain(maker: Maker, bare: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a maker makes of one, with random weights; `bare` is the first step's."""
    if not isinstance(maker, Composed):
        return [bare]
    return [unfitted(maker.second(part), part) or part for part in bare.to_ordinary()]


def unfitted(maker: Any, layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The layer that a maker makes, with random weights; None if that takes the kernel itself.

    The weights are the same in each process, so that workers find the same sizes.
    """
    if not isinstance(maker, Maker):
        return None
    state = random.getstate()
    random.seed(0)  # of which Keras takes the seeds of initializers
    try:
        one = maker.first_step().chosen_for(layer)
        bare = one(type(layer).from_config(layer.get_config()))
        bare.build(layer.get_build_config()["input_shape"])
    except ValueError:
        return None
    finally:
        random.setstate(state)
    return bare


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
