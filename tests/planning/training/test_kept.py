"""What a model is (zeros, discrete weights, frozen layers) outlives compression and training."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.numerics.what_a_kernel_is import what_is_lost

X = np.random.default_rng(0).normal(size=(200, 32)).astype("float32")
Y = np.zeros((200, 4), "float32")


def net():
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(64, "relu", name="a"), layers.Dense(64, "relu", name="b")]
    model = keras.Sequential([keras.Input((32,)), *parts, layers.Dense(4, name="c")])
    model.compile("adam", "mse", jit_compile=False)
    return model


def pruned(share=0.9):
    model = tfc.prune(net(), share, layers="b")
    model.compile("adam", "mse", jit_compile=False)
    return model


def kernel(model, path="b"):
    return keras.ops.convert_to_numpy(tfc.walk(model)[path][0].kernel)


@pytest.mark.parametrize("budget", [0.9, 0.2])
def test_zeros_outlive_compress_and_its_training(budget):
    model = pruned()
    zero = kernel(model) == 0
    made = tfc.compress(model, (X, Y), budget, fine_tune=2, target="bits")
    assert not kernel(made.model)[zero].any()
    assert kernel(made.model)[~zero].any()


def test_zeros_outlive_a_training_of_ones_own():
    def train(student, teacher, data):
        for variable in student.trainable_variables:
            variable.assign(variable + 0.05)

    model = pruned()
    made = tfc.compress(model, X, 0.3, fine_tune=train, target="bits")
    assert not kernel(made.model)[kernel(model) == 0].any()


@pytest.mark.parametrize("maker", ["QuantizedDense", "TernaryDense", "CodebookDense"])
def test_zeros_outlive_a_swap_that_compensates(maker):
    model, options = pruned(), {"bits": 3} if maker == "QuantizedDense" else {}
    rules = {"a": tfc.layers.QuantizedDense.using(bits=2)}
    rules["b"] = getattr(tfc.layers, maker).using(**options)
    small = tfc.swap(model, rules, data=X)
    assert not kernel(small)[kernel(model) == 0].any()


@pytest.mark.parametrize("score", ["magnitude", "random", "obs"])
@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.9), (0.95, 0.95)])
def test_zeros_outlive_a_second_pruning(score, share, expected):
    model = pruned()
    again = tfc.prune(model, share, data=X if score == "obs" else None, score=score, layers="b")
    assert not kernel(again)[kernel(model) == 0].any()
    assert np.mean(kernel(again) == 0) == pytest.approx(expected, abs=1e-3)


def test_discrete_weights_and_frozen_layers_outlive_compress():
    model = net()
    w = kernel(model)
    model.get_layer("b").kernel.assign(np.sign(w) * (np.abs(w) > 0.05) * 0.1)
    model.get_layer("a").trainable = False
    before = kernel(model)
    made = tfc.compress(model, (X, Y), 0.4, fine_tune=2, target="bits")
    np.testing.assert_allclose(kernel(made.model), before, atol=1e-6)
    *first, second, third = made.model.layers  # of the frozen one several may have been made
    assert second.trainable and third.trainable and not any(layer.trainable for layer in first)
    assert all(v.trainable for v in made.model.get_layer("c").weights if v.name == "bias")


def test_a_form_that_would_lose_zeros_is_not_offered():
    binary = {"binary": tfc.layers.BinaryDense.using(), "ternary": tfc.layers.TernaryDense.using()}
    found = tfc.plan(pruned(), X, 0.5, candidates=binary).options
    assert [one.name for one in found["b"]] == ["ternary", "float32"]
    assert "binary" in [one.name for one in found["a"]]
    with pytest.raises(ValueError, match="b, binary: its zeros would be lost"):
        model = keras.Sequential([keras.Input((32,)), pruned().get_layer("a"), pruned().layers[1]])
        tfc.plan(tfc.prune(model, 0.5), X, 0.5, candidates={"binary": binary["binary"]})


def test_what_is_lost():
    ternary = np.tile([-2.0, 0.0, 2.0], 8)
    assert what_is_lost(ternary, ternary + 1e-5 * ternary) is None
    assert what_is_lost(ternary, 1.1 * ternary) == "its few distinct values would be lost"
    assert what_is_lost(ternary, ternary + 0.1) == "its zeros would be lost"
    assert what_is_lost(np.arange(1.0, 40.0), np.zeros(39)) is None
