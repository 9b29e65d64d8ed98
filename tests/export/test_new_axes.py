"""Indices that only add axes to a tensor, as layers of attention write them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from oracles_export import run

from tfcompress.export import ExportError, to_tflite
from tfcompress.export.convert.new_axes import new_axes_as_operators

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
KEYS = {
    "first": (None,),
    "alone": None,
    "two": (slice(None), None, None, slice(None), slice(None)),
    "rest": (Ellipsis, None),
    "around": (None, Ellipsis, None, slice(None)),
    "whole": (slice(None), slice(None), slice(None), None),
    "number": (0, None),
    "part": (slice(1, None), None),
    "reversed": (slice(None, None, -1), None),
    "none new": (slice(None), Ellipsis),
    "number last": (None, Ellipsis, -1),
}


@pytest.mark.parametrize("dtype", ["float32", "bool"])
@pytest.mark.parametrize("name", KEYS)
def test_every_index_gives_what_numpy_gives(name, dtype):
    x = (X > 0) if dtype == "bool" else X
    with new_axes_as_operators():
        y = tf.function(
            lambda t: t[KEYS[name]], input_signature=[tf.TensorSpec((None, 3, 4), dtype)]
        )(x)
    np.testing.assert_array_equal(y, x[KEYS[name]])


class Masked(layers.Layer):
    """Softmax over what a mask leaves, as in attention with groups of heads."""

    def call(self, x):
        mask = ops.matmul(x, ops.transpose(x, (0, 2, 1))) > 0  # (b, t, t), of unknown sizes
        scores = ops.zeros_like(ops.cast(mask, x.dtype))[:, None, None, :, :] + ops.sum(x)
        weights = ops.softmax(ops.where(mask[:, None, None, :, :], scores, -1e9))
        nothing = ops.all(ops.logical_not(mask), axis=-1, keepdims=True)[..., None]
        return weights[:, 0, 0] + ops.cast(nothing[..., 0], x.dtype)


def test_masks_of_five_axes_and_unknown_sizes():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, Masked()(inputs))
    blob = to_tflite(model, check=X)
    np.testing.assert_allclose(run(blob, [X])[0], model(X), atol=1e-6)


class Broken(layers.Layer):
    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        raise RuntimeError("no")


def test_indexing_is_as_it_was_afterwards():
    before = tf.Tensor.__getitem__
    inputs = keras.Input((4,))
    to_tflite(keras.Model(inputs, layers.Dense(2)(inputs)))
    assert tf.Tensor.__getitem__ is before
    with pytest.raises(ExportError):
        to_tflite(keras.Model(inputs, Broken()(inputs)))
    assert tf.Tensor.__getitem__ is before
