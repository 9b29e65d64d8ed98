"""Rows of a table by an index, with a fast gradient; and the index of a hashed layer.

On TensorFlow both come from hash_index.py, the only file here that imports it; other backends need
no more than a few lines.
"""

import keras
from keras import ops

from tfcompress.numerics.hashing import signed_codes
from tfcompress.utils.types import Tensor

if keras.backend.backend() == "tensorflow":
    from tfcompress.layers.shared.hash_index import HashIndex, sum_rows, take
else:

    class HashIndex:
        """The codes as an array: it is no variable, so no file holds it."""

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
    """`table[index]` along the first axis; the gradient of a row is the sum over its copies.

    Args:
        table: floats; their first axis is indexed.
        index: Tensor32.
        training: whether XLA may compile the lookup. In inference it must not, because a model that
            is saved for serving may meet a runtime that takes no compiled functions.
    """

    @ops.custom_gradient
    def lookup(table):
        def gradient(*args, upstream=None):
            return sum_rows(args[0] if upstream is None else upstream, index, table.shape[0])

        return take(table, index) if training else ops.take(table, index, axis=0), gradient

    return lookup(table)
