"""The examples that `compress` trains on: in memory or, if they are too many, read anew."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress.utils.arrays import concatenated, rows, spread, to_numpy
from tfcompress.utils.batches import (
    HELD,
    are_arrays,
    batches,
    bytes_of,
    check_repeats,
    examples_in,
    first,
)
from tfcompress.utils.class_weights import check_class_weight, class_weighted
from tfcompress.utils.types import ClassWeight, Data, Loss

CALIBRATION_EXAMPLES = 2000  # that plans are made on
HELD_OUT_ONE_IN = 10  # of the data, if there are no other data to validate on
ARRAYS_BATCH = 1024  # only to check arrays: they are joined again


class Stream(NamedTuple):
    """Examples that are not held in memory, apart from some of the first ones.

    Attributes:
        data: what yields them in batches, for `fit`.
        held: the first batches.
        steps: the number of batches.
        count: the number of examples.
    """

    data: Data
    held: list
    steps: int
    count: int


def read(
    model: keras.Model, data: Data, check_labels: Callable[[Any], None] | None
) -> tuple[Any, ...] | Stream:
    """`(x, y, sample_weight)` as arrays, or a `Stream` if what yields them has more than 512 MiB.

    All of `data` is read once and checked.

    Args:
        model: the model that takes the inputs.
        data: as in `batches`.
        check_labels: raises for labels that the loss does not take; None without a loss.

    Raises:
        ValueError: a generator, which can be used only once, yields more than 512 MiB.
    """
    arrays = are_arrays(data)
    held, size, steps, count = [], 0, 0, 0
    for batch in batches(model, data, ARRAYS_BATCH if arrays else sys.maxsize):
        if check_labels is not None:
            check_labels(batch[1])
        if arrays or size < HELD:
            held.append(batch)
        else:
            check_repeats(data, 2)
        size, steps, count = size + bytes_of(batch), steps + 1, count + examples_in(batch)
    if arrays or size < HELD:
        return tuple(concatenated(held))
    return Stream(data, held, steps, count)


def streamed(model: keras.Model, data: Data, check_labels: Callable[[Any], None] | None) -> Stream:
    """What yields batches as a `Stream` of which nothing is held; it is read once and checked.

    Args: as of `read`.

    Raises:
        ValueError: it can be used only once, or never ends.
    """
    if are_arrays(data):
        raise ValueError(
            "`train` yields batches, as a `tf.data.Dataset` or a `PyDataset` does. Give arrays as "
            f"`data`. Received: {type(data).__name__}"
        )
    check_repeats(data, 2)
    steps, count = 0, 0
    for batch in batches(model, data, sys.maxsize):
        if check_labels is not None:
            check_labels(batch[1])
        steps, count = steps + 1, count + examples_in(batch)
    return Stream(data, [], steps, count)


def calibration(train: Any) -> tuple[Any, ...]:
    """The examples that plans are made on: spread over arrays, or the first ones of a stream."""
    if isinstance(train, Stream):
        return first(iter(train.held), CALIBRATION_EXAMPLES, None)
    return some_of(train, CALIBRATION_EXAMPLES)


def some_of(arrays: Any, count: int) -> Any:
    """At most so many examples, drawn from all of them."""
    return rows(arrays, spread(examples_in(arrays), count))


def hold_out(data: Any) -> tuple[Any, tuple[Any, ...]]:
    """What to train on, and the examples to validate on: one of each ten, or a stream's first.

    Raises:
        ValueError: a stream comes in another order each time; there is only one example.
    """
    if isinstance(data, Stream):
        return _split(data)
    count = examples_in(data)
    if count < 2:
        raise ValueError(
            "Expected at least 2 examples in `data`, of which one is held out, or "
            f"`validation_data`. Received: {count}"
        )
    held_out = np.zeros(count, bool)
    held_out[spread(count, -(-count // HELD_OUT_ONE_IN))] = True
    return rows(data, ~held_out), rows(data, held_out)


def weighed(
    examples: tuple[Any, ...] | Stream, class_weight: ClassWeight, loss: Loss
) -> tuple[Any, ...] | Stream:
    """Examples with the weights of their classes among the sample weights.

    Raises:
        ValueError: there is no loss that they weigh, or the examples are not held in memory; and as
            in `class_weighted`.
    """
    if class_weight is None:
        return examples
    check_class_weight(class_weight)
    if loss is None:
        raise ValueError("`class_weight` weighs a loss: compile the model, or give `loss`.")
    if isinstance(examples, Stream):
        raise ValueError(
            "`class_weight` weighs data that are held in memory, at most 512 MiB. Let the dataset "
            "yield `(x, y, sample_weight)` instead."
        )
    return class_weighted(examples, class_weight)


def _split(stream):
    if isinstance(stream.data, keras.utils.PyDataset):
        stream.data.on_epoch_end()  # which may shuffle
    again = next(batches(None, stream.data, sys.maxsize))
    skipped = isinstance(stream.data, keras.utils.PyDataset) or hasattr(stream.data, "skip")
    if not skipped or not _equal(again, stream.held[0]):
        raise ValueError(
            "`data` take more than 512 MiB, so that they are read anew in each epoch, and they "
            "come in another order each time: which of them are held out cannot be told. Give "
            "`validation_data`."
        )
    number, count, size = 0, 0, 0
    while count < stream.count // HELD_OUT_ONE_IN and size < HELD // 2:
        batch = stream.held[number]
        number, count, size = number + 1, count + examples_in(batch), size + bytes_of(batch)
    validation = tuple(concatenated(stream.held[:number]))
    if isinstance(stream.data, keras.utils.PyDataset):
        rest = _Rest(stream.data, number)
    else:
        rest = stream.data.skip(number)
    left = stream.held[number:]
    return Stream(rest, left, stream.steps - number, stream.count - count), validation


def _equal(one, other) -> bool:
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(a is None or np.array_equal(to_numpy(a), to_numpy(b)) for a, b in pairs)


class _Rest(keras.utils.PyDataset):
    """A PyDataset without its first batches."""

    def __init__(self, data: keras.utils.PyDataset, left_out: int) -> None:
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.left_out = data, left_out

    def __len__(self):
        return len(self.data) - self.left_out

    def __getitem__(self, index):
        return self.data[index + self.left_out]

    def on_epoch_begin(self) -> None:
        self.data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.data.on_epoch_end()
