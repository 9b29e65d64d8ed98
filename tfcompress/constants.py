"""Which constants of a .tflite file hold which layer of a Keras model."""

import math

import numpy as np

from .costs import matrices
from .flatbuffer import StoredTensor, constant, read, stored_tensors
from .layers.base import CompressedLayer, to_numpy
from .walk import walk


def constants_of(model, tflite) -> dict[str, list[StoredTensor]]:
    """The constants that hold the kernel of each layer.

    A constant belongs to a layer whose path begins its name (the exporter names what it packs
    `"<path>/kernel"`), or whose ordinary kernel it is, up to a factor per output (that of a batch
    normalization folded into it).

    Args:
        model: a built `keras.Model`.
        tflite: its file, as bytes or as a path.

    Returns:
        `{path: list of StoredTensor}` of the layers with constants.

    Raises:
        ValueError: the file is truncated or no .tflite file.
    """
    values = _values(read(tflite))
    free = [t for t in stored_tensors(tflite) if t.encoding != "graph"]
    layers = {path: layer for path, (layer, _) in walk(model).items()}
    found = {}
    for path in layers:
        found[path] = [t for t in free if t.layer.startswith(f"{path}/")]
        free = [t for t in free if not t.layer.startswith(f"{path}/")]
    for path, layer in layers.items():
        kernels = [] if found[path] else _kernels(layer)
        for kernel in kernels:
            match = next((t for t in free if _is(kernel, values.get(t.layer))), None)
            if match is not None:
                found[path].append(match)
                free.remove(match)
    return {path: tensors for path, tensors in found.items() if tensors}


def _values(file) -> dict[str, np.ndarray]:
    """The matrices and larger arrays of floats in the file, by name."""
    named = {}
    for tensor in (tensor for graph in file.subgraphs for tensor in graph.tensors or []):
        array = constant(file, tensor)
        if array is not None and array.ndim > 1 and array.dtype.kind == "f":
            named[tensor.name.decode()] = array.astype(np.float32)
    return named


def _kernels(layer) -> list[np.ndarray]:
    """The kernels of the ordinary layers that a layer becomes in a file."""
    if isinstance(layer, CompressedLayer):
        return [k for part in layer.to_ordinary() for k in _kernels(part)]
    return [to_numpy(v).astype(np.float32) for v in matrices(layer)]


def _is(kernel, array) -> bool:
    """Whether an array of a file is a kernel in one of the layouts that operators have."""
    if array is None or array.size != kernel.size or array.size == 0:
        return False
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
