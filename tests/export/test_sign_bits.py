"""`keras.ops.argmax` and `signbit` in files, whose zeros have signs."""

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import tfcompress as tfc
from tfcompress.export.convert.sign_bits import sign_bits_as_comparisons


def test_the_file_gives_the_places_of_the_largest_and_smallest():
    x = keras.Input((4,), name="x")
    outputs = {
        "largest": keras.ops.argmax(x, axis=-1),
        "smallest": keras.ops.argmin(x, axis=-1),
        "signs": keras.ops.signbit(x),
    }
    rows = np.array([[-0.0, 0.0, -1, -2], [0.0, -0.0, 1, 2], [-3, 5, 5, -0.0]], "float32")
    blob = tfc.to_tflite(keras.Model(x, outputs), check=rows)
    found = Interpreter(model_content=blob).get_signature_runner()(x=rows)
    np.testing.assert_array_equal(found["largest"], [1, 3, 1])
    np.testing.assert_array_equal(found["smallest"], [3, 1, 0])
    np.testing.assert_array_equal(found["signs"], np.signbit(rows))


def test_every_other_product_of_bits_is_as_it_was():
    x, plain = np.array([-5, 0, 6], "int32"), tf.bitwise.bitwise_and
    with sign_bits_as_comparisons():
        for y in (np.int32(3), np.array([-(2**31), 7, 2], "int32"), np.int32(-(2**31))):
            np.testing.assert_array_equal(tf.bitwise.bitwise_and(x, y), x & y)
    assert tf.bitwise.bitwise_and is plain
