"""Finds the constants of a .tflite file that hold the layers of a Keras model."""

import dataclasses
import math

import keras
import numpy as np

from tfcompress.graph.paths import walk
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.measure.macs import matrices
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import constant, read
from tfcompress.tflite.stored_tensors import StoredTensor, stored_tensors
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Path


def check_is_file_of(model: keras.Model, tflite: Path | bytes) -> None:
    """Raises `ValueError` if a file has no input for one of the model's.

    Args:
        model: a built `keras.Model`; of a subclassed one nothing is known.
        tflite: the bytes or the path of a .tflite file.
    """
    graph = Graph(read(tflite))
    there = [
        tuple(None if size < 0 else size for size in graph.shape(index))
        for index in graph.subgraph.inputs
    ]
    inputs = [tuple(x.shape) for x in keras.tree.flatten(getattr(model, "inputs", None) or [])]
    if not all(any(_agree(shape, other) for other in there) for shape in inputs):
        raise ValueError(
            f"The file is not that of model {model.name!r}, whose inputs have the shapes {inputs}. "
            f"Received: a file with inputs of shapes {there}"
        )


def _agree(shape, other):
    """Whether an input of a file can be that of a model: lengths may be free in either."""
    return len(shape) == len(other) and all(
        None in (size, number) or size == number
        for size, number in zip(shape[1:], other[1:], strict=True)
    )


def constants_of(model: keras.Model, tflite: Path | bytes | None) -> dict[str, list[StoredTensor]]:
    """The constants that hold the kernel of each layer, without biases.

    The exporter names a constant by the path of its layer (`"block/fc/kernel"`). In the file of
    another converter, a constant belongs to the layer whose ordinary kernel it equals up to a
    factor per output, by which a batch normalization was folded into it.

    Args:
        model: a built `keras.Model`.
        tflite: the bytes or the path of its .tflite file.

    Returns:
        `{path: list of StoredTensor}` for the layers that have constants.

    Raises:
        ValueError: the file is truncated or no .tflite file.
    """
    values, found = _float_arrays(read(tflite)), {}
    chains = {path: _ordinary_chain(layer) for path, (layer, _) in walk(model).items()}
    owners = {_sibling_path(path, p.name): path for path, chain in chains.items() for p in chain}
    owners |= {path: path for path in chains}
    for tensor in stored_tensors(tflite):
        names = [name for name in owners if tensor.layer.startswith(f"{name}/")]
        if not names and tensor.encoding != "graph":
            equal = _owners_by_value(chains, values.get(tensor.layer))
            path = min(equal, key=lambda path: len(found.get(path, [])), default=None)
        elif names and not tensor.layer.endswith("/bias"):
            path = owners[max(names, key=len)]
        else:
            path = None
        if path is not None:
            found.setdefault(path, []).append(tensor)
    return _shared(found, chains)


def _ordinary_chain(layer) -> list[keras.layers.Layer]:
    """The ordinary layers in which a file holds a layer."""
    return layer.to_ordinary() if isinstance(layer, CompressedLayer) else [layer]


def _sibling_path(path, name):
    """The path of a layer with that name beside the layer of this path."""
    head, slash, _ = path.rpartition("/")
    return head + slash + name


def _owners_by_value(chains, array) -> list[str]:
    """The layers that have a kernel equal to an array of the file, with a factor per output."""
    if array is None:
        return []
    return [
        path
        for path, chain in chains.items()
        if any(
            math.prod(kernel.shape) == array.size and _is_same_kernel(to_numpy(kernel), array)
            for kernel in _kernels(chain)
        )
    ]


def _kernels(chain):
    return [v for layer in chain for v in matrices(layer)]


def _shared(found, chains):
    """Constants of equal kernels, which a file may hold once, divided among their layers."""
    arrays = {path: [to_numpy(v) for v in _kernels(chain)] for path, chain in chains.items()}
    owners = {path: [path] for path in found}
    for path in arrays:
        if arrays[path] and path not in found:
            equal = (other for other in found if _are_equal(arrays[path], arrays[other]))
            owners.get(next(equal, None), []).append(path)
    return {
        path: [_share(tensor, k, len(paths)) for tensor in found[paths[0]]]
        for paths in owners.values()
        for k, path in enumerate(paths)
    }


def _share(tensor, k, count):
    size = (k + 1) * tensor.bytes // count - k * tensor.bytes // count
    return dataclasses.replace(tensor, bytes=size)


def _are_equal(ours, theirs):
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def _float_arrays(file) -> dict[str, np.ndarray]:
    """The matrices and larger arrays of floats in the file, by name."""
    named = {}
    for tensor in (tensor for graph in file.subgraphs for tensor in graph.tensors or []):
        array = constant(file, tensor)
        if array is not None and array.ndim > 1 and array.size and array.dtype.kind == "f":
            named[tensor.name.decode()] = array
    return named


def _is_same_kernel(kernel, array) -> bool:
    """Whether an array of a file is this kernel, in one of the layouts that operators take."""
    # A kernel of axes h w i o may lie in the file as o (h w i), or transposed.
    ours = [_as_matrix(kernel, place).T for place in range(1, kernel.ndim)]
    ours.append(_as_matrix(np.moveaxis(kernel, -2, 0), 1))  # of a transposed convolution
    theirs = [_as_matrix(array, 1), _as_matrix(array, array.ndim - 1).T]
    return any(
        a.shape == b.shape and np.allclose(_scaled_to_peak(a), _scaled_to_peak(b), atol=1e-4)
        for a in ours
        for b in theirs
    )


def _as_matrix(array, place):
    return array.reshape(math.prod(array.shape[:place]), -1)


def _scaled_to_peak(rows):
    """Rows divided by their largest entry, with its sign."""
    peaks = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return rows / np.where(peaks == 0, 1, peaks)
