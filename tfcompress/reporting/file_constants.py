"""Which constants of a .tflite file hold which layer of a Keras model."""

import math

import keras
import numpy as np

from tfcompress.graph.paths import walk
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.measure.macs import matrices
from tfcompress.tflite.reader import StoredTensor, constant, read, stored_tensors
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Path


def constants_of(model: keras.Model, tflite: Path | bytes | None) -> dict[str, list[StoredTensor]]:
    """The constants that hold the kernel of each layer; biases are left out.

    A constant belongs to the layer whose path begins its name, as the exporter names it
    (`"block/fc/kernel"`). In a file of another converter it belongs to the layer whose ordinary
    kernel it is, up to a factor per output (that of a batch normalization folded into it).

    Args:
        model: a built `keras.Model`.
        tflite: its file, as bytes or as a path.

    Returns:
        `{path: list of StoredTensor}` of the layers with constants.

    Raises:
        ValueError: the file is truncated or no .tflite file.
    """
    values, found = _values(read(tflite)), {}
    chains = {path: _chain(layer) for path, (layer, _) in walk(model).items()}
    owners = {_beside(path, p.name): path for path, chain in chains.items() for p in chain}
    owners |= {path: path for path in chains}
    for tensor in stored_tensors(tflite):
        names = [name for name in owners if tensor.layer.startswith(f"{name}/")]
        if not names and tensor.encoding != "graph":
            path = _owner_by_value(chains, values.get(tensor.layer))
        elif names and not tensor.layer.endswith("/bias"):
            path = owners[max(names, key=len)]
        else:
            path = None
        if path is not None:
            found.setdefault(path, []).append(tensor)
    return found


def _chain(layer) -> list[keras.layers.Layer]:
    """The ordinary layers that a layer becomes in a file."""
    return layer.to_ordinary() if isinstance(layer, CompressedLayer) else [layer]


def _beside(path, name):
    """The path of a layer of that name where the layer of this path is."""
    head, slash, _ = path.rpartition("/")
    return head + slash + name


def _owner_by_value(chains, array) -> str | None:
    if array is None:
        return None
    for path, chain in chains.items():
        for kernel in (v for layer in chain for v in matrices(layer)):
            if math.prod(kernel.shape) == array.size and _is(to_numpy(kernel), array):
                return path
    return None


def _values(file) -> dict[str, np.ndarray]:
    """The matrices and larger arrays of floats in the file, by name."""
    named = {}
    for tensor in (tensor for graph in file.subgraphs for tensor in graph.tensors or []):
        array = constant(file, tensor)
        if array is not None and array.ndim > 1 and array.size and array.dtype.kind == "f":
            named[tensor.name.decode()] = array
    return named


def _is(kernel, array) -> bool:
    """Whether an array of a file is a kernel in one of the layouts that operators have."""
    ours = [_split(kernel, place).T for place in range(1, kernel.ndim)]
    ours.append(_split(np.moveaxis(kernel, -2, 0), 1))  # of a transposed convolution
    theirs = [_split(array, 1), _split(array, array.ndim - 1).T]
    return any(
        a.shape == b.shape and np.allclose(_normal(a), _normal(b), atol=1e-4)
        for a in ours
        for b in theirs
    )


def _split(array, place):
    return array.reshape(math.prod(array.shape[:place]), -1)


def _normal(rows):
    """Rows divided by their largest entry, with its sign."""
    peaks = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return rows / np.where(peaks == 0, 1, peaks)
