"""What a model computes for one thread does not change while another one measures it."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype("float32")


def net():
    keras.utils.set_random_seed(0)
    start = keras.Input(X.shape[1:])
    x = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, activation="relu", name="conv")(start))
    return keras.Model(start, L.Dense(3, name="out")(L.Flatten()(x)))


MEASURES = {
    "kronecker": lambda model: tfc.curvature.kronecker(model, X),
    "gauss_newton": lambda model: tfc.curvature.gauss_newton(model, (X, np.zeros((64, 3))), "mse"),
    "swap": lambda model: tfc.swap(model, tfc.layers.rounding(4), data=X),
    "prune": lambda model: tfc.prune(model, 0.5, data=X, score="obs"),
    "recalibrate": lambda model: tfc.recalibrate_batch_norm(tfc.swap(model, {}), X),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_a_model_runs_right_while_it_is_measured(measure):
    model, x = net(), X[:8]
    expected, seen, done = np.asarray(model(x, training=False)), [], threading.Event()
    own = L.Layer.__call__, L.Dense.call, tf.nn.moments, model.get_layer("out").call

    def run():
        seen.append(np.asarray(model(x, training=False)))
        while not done.is_set():
            seen.append(np.asarray(model(x, training=False)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        MEASURES[measure](model)
    finally:
        done.set()
        thread.join()
    assert all(np.array_equal(y, expected) for y in seen)
    assert (L.Layer.__call__, L.Dense.call, tf.nn.moments) == own[:3]
    assert model.get_layer("out").call == own[3]


def test_two_threads_measure_one_model():
    model, found = net(), []
    alone = tfc.curvature.kronecker(model, X)
    threads = [
        threading.Thread(target=lambda: found.append(tfc.curvature.kronecker(model, X)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for one in found:
        for path, metric in alone.items():
            for a, b in zip(metric.blocks, one[path].blocks, strict=True):
                np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
