"""Means of the channels of compressed layers are those of the original."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(300, 6, 6, 3)).astype("float32")


def net(norm=False):
    parts = [layers.Conv2D(8, 3, padding="same", name="first"), layers.ReLU()]
    if norm:
        parts.insert(1, layers.BatchNormalization(name="norm"))
    parts += [layers.DepthwiseConv2D(3, activation="relu", depth_multiplier=2, name="depthwise")]
    parts += [layers.GlobalAveragePooling2D(), layers.Dense(12, "relu", name="fc")]
    return keras.Sequential([keras.Input((6, 6, 3)), *parts, layers.Dense(4, name="out")])


RULES = {
    "first": tfc.layers.TernaryConv2D,
    "depthwise": tfc.layers.QuantizedDepthwiseConv2D.using(bits=2),
    "fc": tfc.layers.BinaryDense,
    "out": tfc.layers.BinaryDense,
}


@pytest.mark.parametrize("norm", [False, True])
def test_each_layer_gives_the_mean_of_the_original(norm):
    keras.utils.set_random_seed(0)
    model = net(norm)
    small = tfc.swap(model, RULES)
    if norm:
        tfc.recalibrate_batch_norm(small, X)
    biases = [layer.bias.numpy().copy() for layer in small.layers if hasattr(layer, "bias")]
    new = tfc.correct_biases(small, model, X)
    for name in RULES:
        means = []
        for one in (model, new):
            layer = one.get_layer(name)
            activation, layer.activation = layer.activation, keras.activations.linear
            y = keras.Model(one.inputs[0], layer.output)(X).numpy()
            layer.activation = activation
            means.append(y.reshape(-1, y.shape[-1]).mean(0))
        np.testing.assert_allclose(*means, atol=1e-4)
    left = [layer.bias.numpy() for layer in small.layers if hasattr(layer, "bias")]
    assert all(map(np.array_equal, biases, left))
    errors = [np.square(one(X).numpy() - model(X).numpy()).mean() for one in (small, new)]
    assert errors[1] < errors[0]


def test_what_is_exact_stays():
    keras.utils.set_random_seed(0)
    model = net()
    small = tfc.swap(model, {"fc": tfc.layers.LowRankDense.using(rank=12)})
    new = tfc.correct_biases(small, model, iter([(X[:100],), (X[100:],)]))
    np.testing.assert_allclose(new(X), model(X), atol=1e-5)


def test_the_bias_at_the_end_of_a_chain_is_corrected():
    model = net()
    chain = tfc.layers.LowRankDense.using(rank=2).then(tfc.layers.QuantizedDense.using(bits=4))
    small = tfc.swap(model, {"fc": chain, "out": tfc.layers.BinaryDense})
    before = {v.path: v.numpy() for v in small.weights}
    new = tfc.correct_biases(small, model, X)
    changed = [v.path for v in new.weights if not np.array_equal(v, before[v.path])]
    assert changed == ["fc/bias", "out/bias"]
    np.testing.assert_allclose(new(X).numpy().mean(0), model(X).numpy().mean(0), atol=1e-4)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="No layer with a bias was swapped"):
        tfc.correct_biases(net(), net(), X)


def test_each_head_has_a_mean_of_its_own():
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 8))
    model = keras.Model(x, layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    steps = np.random.default_rng(0).normal(1, 1, (300, 6, 8)).astype("float32")
    rules = {layers.MultiHeadAttention: tfc.layers.QuantizedEinsumDense.using(bits=2)}
    new = tfc.correct_biases(tfc.swap(model, rules), model, steps)
    queries = [one.get_layer("attention")._query_dense(steps) for one in (model, new)]
    np.testing.assert_allclose(*(np.mean(q, (0, 1)) for q in queries), atol=1e-5)


@pytest.mark.parametrize("axes", ["d", "bd", "b"])
def test_a_bias_along_any_axes(axes):
    keras.utils.set_random_seed(0)
    dense = layers.EinsumDense("abc,cd->abd", (6, 5), bias_axes=axes, name="out")
    model = keras.Sequential([keras.Input((6, 8)), dense])
    steps = np.random.default_rng(0).normal(1, 1, (100, 6, 8)).astype("float32")
    rules = {"out": tfc.layers.QuantizedEinsumDense.using(bits=2)}
    small = tfc.swap(model, rules)
    new = tfc.correct_biases(small, model, steps)
    sizes = (1,) * (3 - len(dense.bias.shape)) + tuple(dense.bias.shape)
    along = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    before, after = (np.mean(one(steps) - model(steps), along) for one in (small, new))
    assert np.abs(before).max() > 0.01
    np.testing.assert_allclose(after, 0, atol=1e-5)


CHAIN = tfc.layers.LowRankDense.using(rank=1).then(tfc.layers.QuantizedDense.using(bits=2))
IDS = RANDOM.integers(0, 50, (100, 7))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(16, "relu", use_bias=False), layers.Dense(4)

    def call(self, x):
        return self.last(self.first(x))


def behind(*parts):
    return keras.Sequential([*parts, layers.Dense(4, name="last")])


@pytest.mark.parametrize(
    ("make", "rules", "x"),
    [
        (
            lambda: behind(layers.Dense(16, "relu", use_bias=False, name="fc")),
            {"fc": tfc.layers.BinaryDense},
            X[:, 0, 0],
        ),
        (
            lambda: behind(layers.Dense(16, "relu", name="fc")),
            {"fc": CHAIN},
            X[:, 0, 0],
        ),
        (
            lambda: behind(layers.Embedding(50, 8, name="table"), layers.LSTM(8)),
            {"table": tfc.layers.QuantizedEmbedding.using(bits=2)},
            IDS,
        ),
        (
            lambda: behind(layers.Embedding(50, 8), layers.Bidirectional(layers.GRU(8))),
            {"*/recurrent_kernel": tfc.layers.BinaryDense},
            IDS,
        ),
        (Subclassed, {}, X[:, 0, 0]),
    ],
    ids=["no bias", "chain", "embedding", "cells", "subclassed"],
)
def test_whatever_differs_before_a_layer_counts(make, rules, x):
    keras.utils.set_random_seed(0)
    model = make()
    model(x[:1])
    small = tfc.swap(model, {**rules, layers.Dense: tfc.layers.BinaryDense})
    new = tfc.correct_biases(small, model, x)
    np.testing.assert_allclose(new(x).numpy().mean(0), model(x).numpy().mean(0), atol=1e-5)
    assert [type(one) for one in new.layers] == [type(one) for one in small.layers]
