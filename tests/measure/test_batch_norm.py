import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress as tfc
from tfcompress.measure.batch_norm import recalibrate_batch_norm

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(130, 6)).astype("float32")


def nested():
    block = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(name="inner"), layers.Dense(3)], name="block"
    )
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, activation="relu"),
            layers.BatchNormalization(name="outer"),
            layers.Dropout(0.5),
            block,
        ]
    )


def test_the_statistics_are_those_of_the_data():
    model = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(name="norm")])
    recalibrate_batch_norm(model, X)  # 64 + 64 + 2 examples
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean.numpy(), X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), X.var(0), rtol=1e-5)
    stream = tf.data.Dataset.from_tensor_slices(X).batch(64)
    recalibrate_batch_norm(model, stream, batches=1)
    np.testing.assert_allclose(norm.moving_mean.numpy(), X[:64].mean(0), rtol=1e-5)


def test_examples_that_lie_by_class_count_alike():
    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization()])
    x = np.repeat([[0.0], [10.0]], 640, axis=0)
    recalibrate_batch_norm(model, x, batches=4)
    assert 4 < float(model.layers[0].moving_mean[0]) < 6
    recalibrate_batch_norm(model, tf.constant(x))  # of a backend, with each example once
    assert float(model.layers[0].moving_mean[0]) == pytest.approx(5)


def test_a_large_mean_costs_no_digits_of_the_variance():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.BatchNormalization()])
    x = RNG.normal(300.0, 1.0, size=(64, 4, 4, 3)).astype("float32")
    recalibrate_batch_norm(model, x)
    expected = x.astype("float64").var((0, 1, 2))
    np.testing.assert_allclose(model.layers[0].moving_variance.numpy(), expected, rtol=1e-4)


def test_later_layers_see_what_earlier_ones_normalize():
    rng = np.random.default_rng(0)
    model = nested()
    model.layers[0].set_weights([rng.normal(size=(6, 4)), rng.normal(size=4)])
    recalibrate_batch_norm(model, X[:64])
    h = np.asarray(model.layers[0](X[:64]))
    first = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-3)  # no dropout
    inner = model.get_layer("block").get_layer("inner")
    np.testing.assert_allclose(inner.moving_mean.numpy(), first.mean(0), atol=1e-5)
    np.testing.assert_allclose(inner.moving_variance.numpy(), first.var(0), atol=1e-4)


def test_nothing_else_changes_and_frozen_layers_are_measured():
    model = nested()
    model.trainable = False
    before = {w.path: w.numpy() for w in model.weights}
    recalibrate_batch_norm(model, X)
    for w in model.weights:
        same = np.array_equal(w.numpy(), before[w.path])
        assert same == ("moving" not in w.path)
    assert not model.trainable
    for layer in (model.get_layer("outer"), model.get_layer("block").get_layer("inner")):
        assert layer.momentum == 0.99 and "call" not in vars(layer)


def test_images_another_axis_masks_and_half_precision():
    rng = np.random.default_rng(0)
    images = rng.normal(1.0, 2.0, size=(20, 5, 4, 3)).astype("float32")
    for axis, sums in ((-1, (0, 1, 2)), (1, (0, 2, 3))):
        model = keras.Sequential([keras.Input((5, 4, 3)), layers.BatchNormalization(axis=axis)])
        recalibrate_batch_norm(model, images)
        mean = model.layers[0].moving_mean.numpy()
        np.testing.assert_allclose(mean, images.mean(sums), rtol=1e-4)
    steps = images[:, :, 0]
    steps[:, 3:] = 0
    model = keras.Sequential([keras.Input((5, 3)), layers.Masking(), layers.BatchNormalization()])
    recalibrate_batch_norm(model, steps)
    mean = model.layers[1].moving_mean.numpy()
    np.testing.assert_allclose(mean, steps[:, :3].mean((0, 1)), rtol=1e-4)
    half = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(dtype="mixed_float16")])
    recalibrate_batch_norm(half, X)
    np.testing.assert_allclose(half.layers[0].moving_mean.numpy(), X.mean(0), rtol=1e-2)


def test_every_kind_of_data_and_models_without_the_layer():
    models = [nested() for _ in range(3)]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    x = X[:64]  # one batch, in which the order means nothing
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(64))).batch(64)
    recalibrate_batch_norm(models[0], x)
    recalibrate_batch_norm(models[1], dataset)
    recalibrate_batch_norm(models[2], iter([x]))
    for model in models[1:]:
        for found, expected in zip(model.get_weights(), models[0].get_weights(), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    recalibrate_batch_norm(keras.Sequential([keras.Input((6,)), layers.Dense(2)]), X)


def test_an_error_on_the_way_leaves_the_model_as_it_was():
    model = nested()
    before = model.get_weights()

    def broken():
        yield X[:64]
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        recalibrate_batch_norm(model, broken())
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_bad_input():
    with pytest.raises(ValueError, match="Received: 0"):
        recalibrate_batch_norm(nested(), X, batches=0)
    with pytest.raises(ValueError, match="no examples"):
        recalibrate_batch_norm(nested(), X[:0])
    with pytest.raises(TypeError, match=r"keras\.Model"):
        recalibrate_batch_norm(layers.Dense(2), X)


def test_a_plan_leaves_the_statistics_of_frozen_layers():
    keras.utils.set_random_seed(0)
    norms = [layers.BatchNormalization(name=name) for name in ("held", "free")]
    parts = [layers.Dense(32, name="fc"), norms[0], layers.Dense(32), norms[1], layers.Dense(2)]
    model = keras.Sequential([keras.Input((8,)), *parts])
    norms[0].trainable = False
    inputs = np.random.default_rng(0).normal(3, 2, (64, 8)).astype("float32")
    eight = {"8 bits": tfc.layers.QuantizedDense.using(bits=8)}
    new = tfc.plan(model, inputs, 0.9, candidates=eight).model
    held, free = (new.get_layer(norm.name).moving_mean.numpy() for norm in norms)
    np.testing.assert_array_equal(held, np.zeros(32))
    assert np.abs(free).min() > 0
