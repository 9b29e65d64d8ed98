import keras
import numpy as np
import pytest

import tfcompress as tfc


def net():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            tfc.layers.BinaryDense(12, stochastic=True, seed=0, use_bias=False, name="fc"),
            keras.layers.BatchNormalization(name="norm"),
        ]
    )
    model.compile("adam", "mse")
    return model


def statistics(model):
    norm = model.get_layer("norm")
    return [keras.ops.convert_to_numpy(v) for v in (norm.moving_mean, norm.moving_variance)]


def test_statistics_are_those_of_the_inference_weights_at_each_evaluation():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((128, 16)).astype("float32"), rng.random((128, 12))
    model, seen = net(), []

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            hidden = x @ keras.ops.convert_to_numpy(self.model.get_layer("fc").kernel)
            seen.append([hidden.mean(0), hidden.var(0), *statistics(self.model)])

    recalibrate = tfc.callbacks.RecalibrateBatchNorm(x)
    model.fit(x, y, epochs=2, validation_data=(x, y), callbacks=[recalibrate, Look()], verbose=0)
    assert len(seen) == 2
    hidden = x @ keras.ops.convert_to_numpy(model.get_layer("fc").kernel)
    for mean, variance, *measured in [*seen, [hidden.mean(0), hidden.var(0), *statistics(model)]]:
        np.testing.assert_allclose(measured[0], mean, atol=1e-5)
        np.testing.assert_allclose(measured[1], variance, rtol=1e-4)
    recalibrate.set_model(model)
    model.get_layer("norm").moving_mean.assign(np.ones(12))
    model.evaluate(x, y, callbacks=[recalibrate], verbose=0)  # outside of `fit` it does nothing
    np.testing.assert_array_equal(statistics(model)[0], 1)


def test_training_is_not_touched():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((128, 16)), rng.random((128, 12))
    kernels = []
    for callbacks in ([], [tfc.callbacks.RecalibrateBatchNorm(x)]):
        keras.utils.set_random_seed(0)
        model = net()
        model.fit(x, y, epochs=2, validation_data=(x, y), callbacks=callbacks, verbose=0)
        kernels.append(keras.ops.convert_to_numpy(model.get_layer("fc").kernel))
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize("first", [True, False])
def test_statistics_are_those_of_what_is_restored_and_pruned(first):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((128, 16)).astype("float32"), rng.random((128, 12))
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(12, name="fc"),
            keras.layers.BatchNormalization(name="norm"),
        ]
    )
    model.compile(keras.optimizers.Adam(1.0), "mse")
    stopping = keras.callbacks.EarlyStopping("loss", mode="max", restore_best_weights=True)
    prune = tfc.callbacks.Prune(lambda step: min(0.1 * step, 0.8), every=1)
    recalibrate = tfc.callbacks.RecalibrateBatchNorm(x)
    others = [prune, stopping]
    callbacks = [recalibrate, *others] if first else [*others, recalibrate]
    with pytest.warns(UserWarning, match="EarlyStopping restored"):
        model.fit(x, y, epochs=4, callbacks=callbacks, verbose=0)
    measured = statistics(model)
    tfc.recalibrate_batch_norm(model, x)
    for a, b in zip(measured, statistics(model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_generator_is_refused():
    with pytest.raises((TypeError, ValueError)):
        tfc.callbacks.RecalibrateBatchNorm(iter([np.ones((2, 3))]))
