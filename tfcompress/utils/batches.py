"""Any data that `fit` takes, with the meaning that `fit` gives them, as `(x, y, sample_weight)`."""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.utils.arrays import concatenated, rows, spread, to_numpy
from tfcompress.utils.checks import is_whole, whole_number
from tfcompress.utils.class_weights import class_weighted
from tfcompress.utils.input_checks import NOT_BATCHED, check_inputs
from tfcompress.utils.types import ClassWeight, Data

STREAM_BATCH = 32  # of what is drawn from a stream
HELD = 512 * 2**20  # bytes of a stream that are held in memory, where all of it would be too much
PARTS = ("inputs", "labels", "sample weights")


def passes_over(
    model: keras.Model,
    data: Data,
    passes: int,
    size: int,
    class_weight: ClassWeight = None,
) -> Iterator[Any]:
    """The batches of several passes over `data`; see `batches`."""
    whole_number(passes, "passes")
    check_repeats(data, passes)
    return itertools.chain.from_iterable(
        batches(model, data, size, class_weight) for _ in range(passes)
    )


def number_of_batches(data: Data, size: int, passes: int = 1) -> int | None:
    """How many batches of at most `size` examples arrays make; None for what yields batches."""
    if not (are_arrays(data) and is_whole(size) and is_whole(passes)):
        return None
    shapes = [getattr(array, "shape", ()) for array in keras.tree.flatten(data)]
    count = next((shape[0] for shape in shapes if len(shape)), None)
    return None if count is None else passes * -(-int(count) // size)


def are_arrays(data: Data) -> bool:
    """Whether `data` are arrays in memory, and not what yields batches of them."""
    return isinstance(data, (tuple, list, dict)) or hasattr(data, "shape")


def check_repeats(data: Data, times: int) -> None:
    """Raises if `data` cannot be read so many times."""
    check_no_path_or_function(data)
    if times > 1 and hasattr(data, "__next__"):
        raise ValueError(
            f"`data` is read {times} times, and a generator can be used only once. Give arrays, a "
            "`tf.data.Dataset` or a `PyDataset`."
        )


def check_no_path_or_function(data: Data) -> None:
    """Raises for a file in the place of what it holds, and a function in that of what it yields."""
    if isinstance(data, (str, bytes, os.PathLike)):
        raise ValueError(
            "Expected `data` that `fit` takes: arrays, a dataset or a generator. Load the file "
            f"first, as by `np.load`. Received: {data!r:.80}"
        )
    if callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        raise ValueError(
            "Expected data, and `data` is a function that makes them. Call it, or, if they are "
            "read several times, give `tf.data.Dataset.from_generator(...).batch(32)`. "
            f"Received: {data!r:.80}"
        )


def batches(
    model: keras.Model | None,
    data: Data,
    size: int,
    class_weight: ClassWeight = None,
    unknown_labels: bool = False,
) -> Iterator[Any]:
    """Batches `(x, y, sample_weight)` of at most `size` examples, checked.

    Args:
        model: the model that takes the inputs, whose shapes are compared; None compares nothing.
        data: inputs alone (an array, or a list or dict of arrays), a tuple `(x, y)` or
            `(x, y, sample_weight)` of such; or what yields batches of this form, each a tuple or a
            list: a `tf.data.Dataset`, a `PyDataset`, a generator. Larger batches are cut.
        size: examples per batch.
        class_weight: see `class_weighted`.
        unknown_labels: whether labels may be NaN.

    Raises:
        ValueError: the inputs, labels and weights are no arrays, differ in length, hold NaN or
            infinite values, or do not fit the model; and as in `class_weighted`.
    """
    whole_number(size, "batch_size")
    empty = True
    for batch in _raw_batches(data):
        whole = keras.tree.map_structure(_array, _parts(batch))
        whole = class_weighted(whole, class_weight)
        if empty:
            check_inputs(model, whole[0])
        count = _count(whole)
        for start in range(0, count, size):
            empty = False
            batch = rows(whole, slice(start, start + size))
            x, y, weights = batch
            _check_finite((x, None if unknown_labels else y, weights))
            yield batch
    if empty:
        raise ValueError("`data` holds no examples. A generator can be used only once.")


def some(model: keras.Model | None, data: Data, most: int, held: int) -> Any:
    """The inputs of at most so many examples of `data`.

    Args:
        model: as in `batches`.
        data: as in `batches`. Of arrays rows are drawn from all of them, or all are taken, which
            are not copied. Of what yields batches the first ones are taken and held.
        most: how many examples.
        held: how many bytes a stream's examples may take; of one example at least.

    Returns:
        Inputs like those of a batch: an array, or a list or dict of arrays.
    """
    if are_arrays(data):
        parts = keras.tree.map_structure(_array, _parts(data))
        whole, count = parts[0], _count(parts)
        check_inputs(model, whole)
        if count <= most:
            return whole
        return rows(_to_numpy(whole), spread(count, most))
    x, _, _ = first(batches(model, data, STREAM_BATCH), most, held)
    return x


def mixed(data: Data, size: int, most: int) -> Data:
    """Batches of `size` examples, as `(x, y, sample_weight)`, of at most `most` in all.

    Of arrays examples are drawn without replacement, always the same ones, as classes may stand one
    behind another. What yields batches is what it is.

    Args:
        data: as in `batches`, which checks what this yields.
    """
    if not are_arrays(data):
        return data
    whole = _to_numpy(keras.tree.map_structure(_array, _parts(data)))
    drawn = np.random.default_rng(0).permutation(_count(whole))[:most]
    return (rows(whole, drawn[i : i + size]) for i in range(0, len(drawn), size))


def first(found: Iterator[Any], most: int | None, held: int | None) -> tuple[Any, ...]:
    """`(x, y, sample_weight)` of the first examples, as arrays.

    Args:
        found: batches, as `batches` yields them.
        most: how many examples; None is no limit.
        held: how many bytes they may take, where one batch is always taken; None is no limit.
    """
    parts, count, size = [], 0, 0
    for batch in found:
        parts.append(_to_numpy(batch))
        count, size = count + examples_in(batch), size + bytes_of(parts[-1])
        if (held is not None and size >= held) or (most is not None and count >= most):
            break
    return rows(tuple(concatenated(parts)), slice(most))


def examples_in(batch: Any) -> int:
    """How many examples a batch holds, whose optional inputs may be None."""
    return len(next(array for array in keras.tree.flatten(batch) if array is not None))


def bytes_of(batch: Any) -> int:
    """The size of the arrays of a batch."""
    return sum(to_numpy(array).nbytes for array in keras.tree.flatten(batch) if array is not None)


def _to_numpy(batch):
    return keras.tree.map_structure(lambda a: None if a is None else to_numpy(a), batch)


def _raw_batches(data):
    check_no_path_or_function(data)
    if are_arrays(data):
        return [data]
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise ValueError("`data` never ends. Give a PyDataset with `__len__`.")
        items = (data[index] for index in range(data.num_batches))
    elif hasattr(data, "cardinality") and int(data.cardinality()) == -1:  # a tf.data.Dataset
        raise ValueError("`data` never ends. Give `data.take(n)`.")
    elif not hasattr(data, "__iter__"):
        raise ValueError(
            "Expected `data` that `fit` takes: arrays, a dataset or a generator. "
            f"Received: {data!r:.80}"
        )
    else:
        items = data
    # of what yields batches, a list stands for a tuple
    return (tuple(batch) if isinstance(batch, list) else batch for batch in items)


def _parts(batch):
    parts = batch if isinstance(batch, tuple) else (batch,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            "Expected `data` as `x`, `(x, y)` or `(x, y, sample_weight)`. "
            f"Received: a tuple of {len(parts)}"
        )
    # Several arrays become a list: where the inputs are given on alone, a tuple would be `(x, y)`.
    parts = [list(part) if type(part) is tuple else part for part in parts]
    return (*parts, None, None)[:3]


def _array(value):
    if value is None or keras.ops.is_tensor(value):
        return value
    array = np.asarray(value)
    ragged = array.dtype.kind == "O" and not isinstance(value, np.ndarray)
    if ragged or (not array.ndim and not hasattr(value, "shape")):
        raise ValueError(
            "Expected `data` to hold arrays whose first axis counts the examples. A list or tuple "
            "stands for several of them: give `np.array(...)` in place of a list of numbers. "
            f"Received: {value!r:.80}"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _count(batch) -> int:
    """The number of examples, the same in all arrays."""
    arrays = [[a for a in keras.tree.flatten(part) if a is not None] for part in batch]
    if any(not len(array.shape) for part in arrays for array in part):
        raise ValueError(NOT_BATCHED.format("single numbers"))
    sizes = {
        name: sorted({int(array.shape[0]) for array in part})
        for name, part in zip(PARTS, arrays, strict=True)
    }
    found = {size for some in sizes.values() for size in some}
    if len(found) != 1 or not sizes["inputs"]:
        raise ValueError(
            "Expected `data` to hold inputs, labels and weights for the same examples. Received: "
            + ", ".join(f"{name} of {some} examples" for name, some in sizes.items() if some)
        )
    return found.pop()


def _check_finite(batch) -> None:
    for name, part in zip(PARTS, batch, strict=True):
        for array in keras.tree.flatten(part):
            if array is None or not _is_float(array):
                continue
            if not np.isfinite(to_numpy(array)).all():
                raise ValueError(f"The {name} in `data` hold NaN or infinite values.")


def _is_float(array) -> bool:
    if isinstance(array, np.ndarray) and array.dtype.kind not in "fV":  # V: bfloat16 and float8
        return False
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype))
