"""Channels of equal size: what the model computes stays, and the ranges of kernels meet."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfcompress as tfc

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8, 8, 8, 3)).astype("float32")


def scrambled(model, spread=3.0, seed=0):
    """Kernels, gammas, betas and biases of channels that differ by factors up to `e^spread`."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for v in layer.weights:
            factors = np.exp(random.uniform(-spread, spread, v.shape[-1]))
            if v.name == "moving_variance":
                v.assign(random.uniform(0.5, 2, v.shape))
            elif v.name in ("kernel", "gamma"):
                v.assign(random.normal(0.1, 1, v.shape) * factors)
            else:
                v.assign(random.normal(0, 1, v.shape) * factors)
    return model


def depthwise_net(rectifier=layers.ReLU):
    image = x = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(x)
    x = rectifier(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    x = layers.ZeroPadding2D()(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depthwise")(x)
    x = rectifier(name="middle_relu")(layers.BatchNormalization(name="middle_norm")(x))
    x = layers.Conv2D(5, 1, name="point")(x)
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(layers.LeakyReLU()(x)))
    return keras.Model(image, layers.Dense(4, name="out")(x))


def folded(model, layer, norm=None):
    w = np.abs(model.get_layer(layer).kernel.numpy())
    if norm is None:
        return w
    norm = model.get_layer(norm)
    by = np.abs(norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon))
    return w * (by.reshape(w.shape[-2:]) if layer == "depthwise" else by)


def close(one, other):
    return np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


def test_a_depthwise_network_computes_the_same_with_equal_channels():
    model = scrambled(depthwise_net())
    before = [w.copy() for w in model.get_weights()]
    new = tfc.equalize(model)
    assert close(new(X).numpy(), model(X).numpy())
    assert all(map(np.array_equal, before, model.get_weights()))
    given_ = folded(new, "stem", "stem_norm").max((0, 1, 2))
    taken = folded(new, "depthwise", "middle_norm").max((0, 1, 3))
    np.testing.assert_allclose(given_, taken, rtol=0.05)
    given_ = folded(new, "depthwise", "middle_norm").max((0, 1)).ravel()
    np.testing.assert_allclose(given_, folded(new, "point").max((0, 1, 3)), rtol=0.05)
    given_ = folded(new, "point").max((0, 1, 2))
    np.testing.assert_allclose(given_, folded(new, "out").max(1), rtol=0.05)
    again = tfc.equalize(new)
    for one, other in zip(again.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.05)


def test_the_hand_worked_case_of_two_dense_layers():
    """Ranges 8 and 1 of the first kernel, 2 and 4 of the second: both become 4 and 2."""
    parts = [layers.Dense(2, "relu", name="a"), layers.Dense(2, name="b")]
    model = keras.Sequential([keras.Input((1,)), *parts])
    weights = [[-8.0, 1.0]], [4.0, 3.0], [[2.0, -1.0], [0.0, 4.0]], [5.0, 6.0]
    model.set_weights(list(map(np.float32, weights)))
    a, a_bias, b, b_bias = tfc.equalize(model).get_weights()
    np.testing.assert_allclose(a, [[-4, 2]])
    np.testing.assert_allclose(a_bias, [2, 6])
    np.testing.assert_allclose(b, [[4, -2], [0, 2]])
    np.testing.assert_allclose(b_bias, [5, 6])


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.sampled_from(["relu", "linear", "leaky_relu"]),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_chains_of_dense_layers_compute_the_same(widths, activation, bias, seed):
    parts = [layers.Dense(n, activation, use_bias=bias) for n in widths]
    model = scrambled(keras.Sequential([keras.Input((3,)), *parts]), 4.0, seed)
    kernel = model.layers[0].kernel
    kernel.assign(kernel.numpy() * (RANDOM.random(kernel.shape) > 0.3))
    x = np.random.default_rng(seed).normal(size=(16, 3)).astype("float32")
    new = tfc.equalize(model)
    assert close(new(x).numpy(), model(x).numpy())
    assert np.array_equal(new.layers[0].kernel.numpy() == 0, kernel.numpy() == 0)


def test_only_pairs_that_nothing_else_touches_change():
    image = keras.Input((8, 8, 3))
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="read_twice")(image)
    x = layers.Conv2D(4, 3, padding="same", activation="relu6", name="relu6")(shared)
    x = layers.Add()([shared, x])
    x = layers.Conv2D(4, 1, activation="relu", name="first")(x)
    x = layers.Conv2D(4, 1, activation="relu", groups=2, name="grouped")(x)
    binary = layers.Conv2D(4, 1, activation="relu", name="binary")
    x = binary(x)
    block = keras.Sequential([layers.Conv2D(4, 1, name="inner"), layers.Conv2D(4, 1, name="last")])
    model = scrambled(keras.Model(image, block(x)))
    scrambled(block)
    binary.kernel.assign(np.sign(binary.kernel.numpy()))
    new = tfc.equalize(model)
    changed = {
        path
        for path, (layer, _) in tfc.walk(new).items()
        if layer.weights
        and not np.allclose(layer.kernel, tfc.walk(model)[path][0].kernel, rtol=1e-6)
    }
    assert {path.split("/")[-1] for path in changed} == {"inner", "last"}
    assert close(new(X).numpy(), model(X).numpy())


def test_where_there_is_nothing_to_equalize():
    with pytest.raises(ValueError, match="ReLU6 lets no factor through"):
        tfc.equalize(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
    parts = [layers.Dense(4), layers.ReLU(6.0), layers.Dense(2)]
    with pytest.raises(ValueError, match="Received: model"):
        tfc.equalize(keras.Sequential([keras.Input((3,)), *parts]))


def test_few_bits_bear_unequal_depthwise_channels_once_they_are_equalized():
    keras.utils.set_random_seed(0)
    model = depthwise_net()
    factors = np.exp(RANDOM.uniform(-2, 2, 12)).astype("float32")
    norm, point = model.get_layer("middle_norm"), model.get_layer("point")
    before = model(X).numpy()
    norm.gamma.assign(norm.gamma.numpy() * factors)
    point.kernel.assign(point.kernel.numpy() / factors[:, None])
    assert close(model(X).numpy(), before)
    rules = {"point": tfc.layers.QuantizedConv2D.using(bits=4)}
    errors = [
        np.square(tfc.swap(one, rules)(X).numpy() - before).mean()
        for one in (model, tfc.equalize(model))
    ]
    assert errors[1] < 0.5 * errors[0]


class Transposed(layers.Layer):
    """The transposed kernel of another layer, as in a tied autoencoder."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.shift = dense, self.add_weight((dense.kernel.shape[0],), name="shift")

    def call(self, x):
        return x @ keras.ops.transpose(self.dense.kernel) + self.shift


def tied(activation):
    first, second = layers.Dense(6, "relu", name="first"), layers.Dense(4, "relu", name="second")
    x = keras.Input((8,))
    inner = second(first(x))
    back = layers.Activation(activation)(Transposed(second, name="back")(inner))
    return keras.Model(x, Transposed(first, name="out")(back))


def test_kernels_that_other_layers_or_graphs_compute_with_stay():
    with pytest.raises(ValueError, match="that other layers hold"):
        tfc.equalize(tied("tanh"))
    last = layers.Dense(3)
    x, beside = keras.Input((8,)), keras.Input((6,))
    part = keras.Model(x, last(layers.Dense(6, "relu")(x)))
    with pytest.raises(ValueError, match="that are called twice"):
        tfc.equalize(keras.Model([x, beside], [part(x), last(beside)]))


def test_a_kernel_with_an_adapter_stays():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, "relu"), layers.Dense(4)])
    model.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="Received: model"):
        tfc.equalize(model)
