"""Rows of a table by an index, with a fast gradient; and the index of a hashed layer."""

import keras
from keras import ops

from tfcompress.numerics.hashing import signed_codes
from tfcompress.utils.types import Tensor

if keras.backend.backend() == "tensorflow":
    from tfcompress.layers.shared.hash_index import HashIndex, sum_rows, take
else:

    class HashIndex:
        """`tfcompress.hashing.signed_codes` as an array: no variable, so nothing saves it."""

        def __init__(self, count: int, buckets: int, seed: int) -> None:
            self.codes = signed_codes(count, buckets, seed)

        def read(self) -> Tensor:
            return self.codes

    def take(table: Tensor, index: Tensor) -> Tensor:
        return ops.take(table, index, axis=0)

    def sum_rows(values: Tensor, index: Tensor, count: int) -> Tensor:
        rows = ops.reshape(values, (-1, *values.shape[index.ndim :]))
        return ops.segment_sum(rows, ops.reshape(index, [-1]), count)


def gather(table: Tensor, index: Tensor, training: bool | None = False) -> Tensor:
    """`table[index]` along the first axis; its gradient adds up the rows of each place.

    Args:
        table: floats; their first axis is indexed.
        index: Tensor32.
        training: whether XLA may compile the lookup itself. A file that is served from should hold
            no compiled function, as not every runtime takes one.
    """

    @ops.custom_gradient
    def lookup(table):
        def gradient(*args, upstream=None):
            return sum_rows(args[0] if upstream is None else upstream, index, table.shape[0])

        return take(table, index) if training else ops.take(table, index, axis=0), gradient

    return lookup(table)
