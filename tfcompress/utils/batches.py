"""Any data that `fit` takes, as batches of `(x, y, sample_weight)`."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.utils.arrays import rows, to_numpy
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import Data


def passes_over(
    data: Data, passes: int, size: int, class_weight: dict[int, float] | None = None
) -> Iterator[Any]:
    """The batches of several passes over `data`; see `batches`."""
    whole_number(passes, "passes")
    check_repeats(data, passes)
    return itertools.chain.from_iterable(batches(data, size, class_weight) for _ in range(passes))


def check_repeats(data: Data, times: int) -> None:
    """Raises if `data` cannot be read so many times."""
    if times > 1 and hasattr(data, "__next__"):
        raise ValueError(
            f"`data` is read {times} times, and a generator can be used only once. Give arrays, a "
            "`tf.data.Dataset` or a `PyDataset`."
        )


def batches(data: Data, size: int, class_weight: dict[int, float] | None = None) -> Iterator[Any]:
    """Batches `(x, y, sample_weight)` of at most `size` examples, checked.

    Args:
        data: inputs alone (an array, or a list or dict of arrays), a tuple `(x, y)` or
            `(x, y, sample_weight)` of such, a `tf.data.Dataset`, a `PyDataset`, or a generator of
            batches. Larger batches are cut.
        size: examples per batch.
        class_weight: dict `{class: weight}`, as in `fit`.

    Raises:
        ValueError: the inputs, labels and weights are no arrays, differ in length, or hold NaN or
            infinite values.
    """
    whole_number(size, "batch_size")
    empty = True
    for batch in _raw_batches(data):
        x, y, weights, *_ = (*(batch if isinstance(batch, tuple) else (batch,)), None, None)
        if class_weight is not None:
            weights = _class_weights(y, weights, class_weight)
        whole = keras.tree.map_structure(_array, (x, y, weights))
        count = _count(whole)
        for start in range(0, count, size):
            empty = False
            batch = rows(whole, slice(start, start + size))
            _check_finite(batch)
            yield batch
    if empty:
        raise ValueError("`data` holds no examples. A generator can be used only once.")


def _raw_batches(data):
    if isinstance(data, (tuple, list, dict)) or hasattr(data, "shape"):
        return [data]
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise ValueError("`data` never ends. Give a PyDataset with `__len__`.")
        return (data[index] for index in range(data.num_batches))
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:  # a tf.data.Dataset
        raise ValueError("`data` never ends. Give `data.take(n)`.")
    return data


def _array(value):
    if value is None or (not isinstance(value, np.ndarray) and hasattr(value, "shape")):
        return value
    array = np.asarray(value)
    ragged = array.dtype.kind == "O" and not isinstance(value, np.ndarray)
    if ragged or not array.ndim:
        raise ValueError(
            "Expected `data` to hold arrays whose first axis counts the examples. A list or tuple "
            "stands for several of them: give `np.array(...)` in place of a list of numbers. "
            f"Received: {value!r:.80}"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _count(batch) -> int:
    """The number of examples, the same in all arrays."""
    names = ("inputs", "labels", "sample weights")
    sizes = {
        name: sorted({len(array) for array in keras.tree.flatten(part) if array is not None})
        for name, part in zip(names, batch, strict=True)
    }
    found = {size for some in sizes.values() for size in some}
    if len(found) != 1 or not sizes["inputs"]:
        raise ValueError(
            "Expected `data` to hold inputs, labels and weights for the same examples. Received: "
            + ", ".join(f"{name} of {some} examples" for name, some in sizes.items() if some)
        )
    return found.pop()


def _check_finite(batch) -> None:
    for name, part in zip(("inputs", "labels", "sample weights"), batch, strict=True):
        for array in keras.tree.flatten(part):
            if array is None or not keras.backend.is_float_dtype(_dtype(array)):
                continue
            if not np.isfinite(to_numpy(array)).all():
                raise ValueError(f"The {name} in `data` hold NaN or infinite values.")


def _dtype(array) -> str:
    return keras.backend.standardize_dtype(array.dtype) if hasattr(array, "dtype") else "object"


def _class_weights(y, weights, class_weight):
    if y is None or isinstance(y, (list, tuple, dict)):
        raise ValueError("`class_weight` needs the labels of a model with one output.")
    y = np.asarray(y)
    labels = y.argmax(-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(len(y)).astype(int)
    table = np.vectorize(lambda label: class_weight.get(int(label), 1.0), otypes=["float32"])
    return table(labels) * (1 if weights is None else np.asarray(weights))
