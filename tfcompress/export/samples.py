"""The sample inputs on which a file is verified and its ranges are measured."""

import math
from typing import Any

import numpy as np

from tfcompress.export.exported import Exported
from tfcompress.graph.private_keras import layers_in
from tfcompress.utils.types import Sample

FREE_BATCH_SIZE = 3  # beside a batch of 1, where the model leaves the batch size free
BATCH_SIZE = 32  # of all other batches
MOST_SAMPLES, LEAST_SAMPLES, MOST_BATCHES = 1000, 32, 100  # of `check` on which a file is verified
MOST_PRODUCTS = 4e9  # of samples and weights, by which large models are verified on fewer samples


def sample_arrays(model: Exported, check: Sample) -> list[np.ndarray]:
    """One array of samples for each input of a model, in the input's own type.

    Args:
        check: arrays in the structure of the model's inputs, or None for random ones.

    Raises:
        ValueError: `check` does not fit the model, leaves out an optional input or holds NaN or
            infinite numbers; or it is None and a size other than the batch is unknown.
    """
    if check is None:
        tables = any("Embedding" in type(layer).__name__ for layer in layers_in(model.model))
        return [_random_samples(tensor, tables) for tensor in model.tensors]
    shapes = [tuple(tensor.shape) for tensor in model.tensors]
    names = model.input_names()
    left_out = [n for n, a in zip(names, model.flat(check), strict=False) if a is None]
    if left_out:
        raise ValueError(
            f"A file takes an array for each input of its model, optional or not, and for "
            f"{left_out} the samples have None. Give arrays, or export a model without that input."
        )
    arrays = [np.asarray(array) for array in model.flat(check)]
    arrays = [array.astype(array.dtype.newbyteorder("="), copy=False) for array in arrays]
    fits = len(arrays) == len(shapes) and all(map(_fits, arrays, shapes))
    if not fits or len({len(array) for array in arrays}) != 1 or len(arrays[0]) == 0:
        received = f"shapes {[array.shape for array in arrays]}"
        if arrays and not any(array.ndim for array in arrays):
            received = "numbers in lists, which are arrays after `np.array(check)`"
        raise ValueError(
            f"`check` must hold samples for the inputs of shapes {shapes}. Received: {received}"
        )
    return [_cast(*entry) for entry in zip(arrays, model.tensors, names, strict=True)]


def _cast(array, tensor, name) -> np.ndarray:
    """Samples in the type and the byte order of an input.

    Raises:
        ValueError: that changes them, or they are not finite.
    """
    if tensor.dtype == "string":
        return array
    numbers = array.dtype.kind in "fiub" or array.dtype.name == "bfloat16"
    with np.errstate(over="ignore", invalid="ignore"):
        new = array.astype(tensor.dtype) if numbers else array
    whole = new.dtype.kind in "fV" or np.array_equal(new, array)
    if not numbers or not whole:
        raise ValueError(
            f"Expected `check` to hold samples of type {tensor.dtype} for input {name!r}. "
            f"Received: {array.dtype} with other numbers"
        )
    finite = np.isfinite(new.astype(np.float32)).reshape(len(new), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"The samples in `check` hold NaN or infinite values. Expected finite {tensor.dtype} "
            f"numbers. Received: sample {int(np.argmin(finite))} of input {name!r}"
        )
    return new


def first_batches(model: Exported, arrays: Any) -> list[list[np.ndarray]]:
    """A batch of one sample and a batch of a few, or one batch of the size that the model fixes."""
    size = _fixed_size(model)
    return [_take(arrays, 0, count) for count in ([1, FREE_BATCH_SIZE] if size is None else [size])]


def all_batches(model: Exported, arrays: Any) -> list[list[np.ndarray]]:
    """All samples, in batches of a size that the model accepts."""
    size = _fixed_size(model) or max(min(BATCH_SIZE, len(arrays[0])), 1)
    return [_take(arrays, start, size) for start in range(0, len(arrays[0]), size)]


def other_batches(model: Exported, arrays: Any, count: int) -> list[list[np.ndarray]]:
    """The first `count` samples without those of `first_batches`."""
    start = _fixed_size(model) or FREE_BATCH_SIZE
    return all_batches(model, [array[start:count] for array in arrays])


def verified_samples(model: Exported, arrays: Any) -> int:
    """The number of samples on which a file is verified.

    All of them, up to `MOST_SAMPLES`; fewer where the model is large or fixes a small batch.
    """
    weights = max(sum(math.prod(v.shape) for v in model.model.weights), 1)
    most = max(min(MOST_SAMPLES, int(MOST_PRODUCTS / weights)), LEAST_SAMPLES)
    return min(len(arrays[0]), most, MOST_BATCHES * (_fixed_size(model) or BATCH_SIZE))


def _take(arrays, start, size):
    """`size` samples; where too few are left, the first ones follow again."""
    places = np.arange(start, start + size) % len(arrays[0])
    return [array[places] for array in arrays]


def _fixed_size(model) -> int | None:
    sizes = [tensor.shape[0] for tensor in model.tensors if len(tensor.shape)]
    return next((size for size in sizes if size is not None), None)


def _fits(array, shape) -> bool:
    pairs = zip(array.shape[1:], shape[1:], strict=False)
    return array.ndim == len(shape) and all(size in (None, got) for got, size in pairs)


def _random_samples(tensor, tables):
    """Random numbers; where the model has `tables`, those that may be ids are rows of any table."""
    if any(size is None for size in tensor.shape[1:]):
        raise ValueError(
            f"Input {tensor.name!r} has sizes that are not known: {tuple(tensor.shape)}. Give "
            "sample inputs as `check`, or build the model with those sizes."
        )
    random, shape = np.random.default_rng(0), (FREE_BATCH_SIZE, *tensor.shape[1:])
    if "float" in tensor.dtype and tables:
        return random.uniform(0, 2, shape).astype(tensor.dtype)
    if "float" in tensor.dtype:
        return random.standard_normal(shape).astype(tensor.dtype)
    if tensor.dtype == "string":
        return np.full(shape, "a", object)
    high = 256 if tensor.dtype == "uint8" else 2
    return random.integers(0, high, shape).astype(tensor.dtype)
