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


def normalized():
    keras.utils.set_random_seed(0)
    hidden = L.Dense(4, "tanh", name="a")
    parts = [hidden, L.LayerNormalization(epsilon=0.1), L.Dense(2, name="b")]
    return keras.Sequential([keras.Input((3,)), *parts])


def second_derivative_of_variance():
    """By what every thread but the one that takes a Hessian sees: its mean is a constant."""
    x = tf.Variable([1.0, 2.0, 6.0])
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            variance = tf.nn.moments(x, [0])[1]
        slope = inner.gradient(variance, x)
    return np.asarray(outer.gradient(slope, x))


@pytest.mark.parametrize("measure", ["exact", "hutchinson"])
def test_a_hessian_changes_nothing_for_other_threads(measure):
    original, data = tf.nn.moments, (X[:6, 0, :3, 0], X[:6, 1, :2, 0])
    alone, *others = [normalized() for _ in range(3)]
    alone = getattr(tfc.curvature, measure)(alone, data, "mse")
    expected, seen, found = second_derivative_of_variance(), [], []

    def run(model):
        found.append(getattr(tfc.curvature, measure)(model, data, "mse"))

    threads = [threading.Thread(target=run, args=(model,)) for model in others]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(second_derivative_of_variance())
    for thread in threads:
        thread.join()
    assert tf.nn.moments is original
    assert seen and all(np.array_equal(one, expected) for one in seen)
    assert [list(one) for one in found] == [["a", "b"]] * 2
    for one in found:
        for path in alone:
            np.testing.assert_array_equal(one[path], alone[path])
