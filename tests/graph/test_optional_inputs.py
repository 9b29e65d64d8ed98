"""Inputs that a model may go without, `keras.Input(optional=True)`, for which `fit` takes None."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc

X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = np.arange(64) % 3
FOUR = {layers.Dense: tfc.layers.QuantizedDense.using(bits=4)}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable("optional")
class Sum(layers.Layer):
    """The sum of what there is."""

    def call(self, x, more=None):
        return x if more is None else x + more

    def compute_output_shape(self, x_shape, more_shape=None):
        return x_shape


def net(optional=True):
    keras.utils.set_random_seed(0)
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b", optional=optional)
    hidden = layers.Dense(64, "relu", name="fc")(Sum()(a, b))
    model = keras.Model([a, b], layers.Dense(3, name="out")(hidden))
    model.compile("sgd", LOSS)
    return model


VERBS = {
    "plan": lambda model, x: tfc.plan(model, (x, Y), 0.3).model,
    "swap": lambda model, x: tfc.swap(model, FOUR, data=x),
    "curvature": lambda model, x: tfc.curvature.fisher(model, (x, Y)),
    "explain": lambda model, x: tfc.explain(model, tfc.swap(model, FOUR), (x, Y)),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("form", ["list", "dict"])
def test_an_input_that_is_not_given(verb, form):
    x = [X, None] if form == "list" else {"a": X, "b": None}
    model = net()
    found = VERBS[verb](model, x)
    if verb in ("plan", "swap"):
        assert found(x).shape == found([X, X]).shape == (64, 3)
        without = found([X, 0 * X])
        np.testing.assert_allclose(found(x), without, atol=1e-5)


def test_what_is_fitted_is_what_is_given():
    """The kernel is rounded for `a` alone, not for a sum with anything."""
    rules = {"fc": tfc.layers.QuantizedDense.using(bits=2)}
    wide = X * np.geomspace(0.01, 10, 8, dtype="float32")
    alone = tfc.swap(net(), rules, data=[wide, None]).get_layer("fc").to_ordinary()[0].kernel
    zeros = tfc.swap(net(), rules, data=[wide, 0 * X]).get_layer("fc").to_ordinary()[0].kernel
    np.testing.assert_allclose(alone, zeros, atol=1e-6)
    others = tfc.swap(net(), rules, data=[wide, X[:, ::-1]]).get_layer("fc").to_ordinary()[0].kernel
    assert np.abs(np.subtract(alone, others)).max() > 1e-3


def test_an_input_that_is_needed_is_named():
    with pytest.raises(ValueError, match="'b' is not optional"):
        tfc.plan(net(optional=False), ([X, None], Y), 0.3)


def test_what_no_file_can_leave_out_is_told_before_anything_is_tried(monkeypatch):
    monkeypatch.setattr("tfcompress.planning.attempts.Planner", None)
    with pytest.raises(ValueError, match=r"for \['b'\] the samples have None"):
        tfc.compress(net(), ([X, None], Y), 0.9)
    with pytest.raises(ValueError, match=r"for \['b'\] the samples have None"):
        tfc.to_tflite(net(), check=[X, None])
