"""The sign bit of numbers without a bitwise operator, as `keras.ops.argmax` reads it.

Keras asks for `bits & 0x80000000` to tell -0.0 from 0.0, and no builtin LiteRT operator does that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import tensorflow as tf

from tfcompress.export.convert.new_axes import ONE_AT_A_TIME


@contextmanager
def sign_bits_as_comparisons() -> Iterator[None]:
    """While it lasts, `tf.bitwise.bitwise_and(x, int32.min)` is a comparison of x with 0.

    Other threads see the same values: the values of the function itself stay as they are.
    """
    with ONE_AT_A_TIME:
        plain = tf.bitwise.bitwise_and

        def bitwise_and(x, y, name=None):
            x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
            value = tf.get_static_value(y) if y.shape.rank == 0 else None
            if x.dtype == tf.int32 and value == tf.int32.min:
                return tf.where(x < 0, y, 0)
            return plain(x, y, name)

        with mock.patch.object(tf.bitwise, "bitwise_and", bitwise_and):
            yield
