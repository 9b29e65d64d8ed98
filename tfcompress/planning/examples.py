"""The examples that `compress` trains on: in memory or, if they are too many, read anew."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from tfcompress.utils.arrays import concatenated
from tfcompress.utils.batches import HELD, are_arrays, batches, bytes_of, check_repeats, first
from tfcompress.utils.types import Data

CALIBRATION_EXAMPLES = 2000  # that plans are made on
ARRAYS_BATCH = 1024  # only to check arrays: they are joined again


class Stream(NamedTuple):
    """Examples that are not held in memory.

    Attributes:
        data: what yields them in batches, for `fit`.
        first: `(x, y, sample_weight)` of the first ones, as arrays.
        steps: the number of batches.
    """

    data: Data
    first: tuple[Any, ...]
    steps: int


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
    held, size, steps = [], 0, 0
    for batch in batches(model, data, ARRAYS_BATCH if arrays else sys.maxsize):
        if check_labels is not None:
            check_labels(batch[1])
        if arrays or size < HELD:
            held.append(batch)
        else:
            check_repeats(data, 2)
        size, steps = size + bytes_of(batch), steps + 1
    if arrays or size < HELD:
        return tuple(concatenated(held))
    return Stream(data, first(iter(held), CALIBRATION_EXAMPLES, HELD // 2), steps)
