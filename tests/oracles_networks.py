"""Small networks of one layer, or a few, for the table of forms."""

import keras
import numpy as np
from keras import layers
from oracles_export import EIGHT_BITS, FOUR_BITS, TERNARY, on_grid

import tfcompress as tfc


def dense(inputs, units, levels=TERNARY, **options):
    layer = layers.Dense(units, name="fc", **options)
    return on_grid(keras.Sequential([keras.Input((inputs,)), layer]), levels)


def conv(image, levels, *arguments, kind=layers.Conv2D, **options):
    layer = kind(*arguments, name="fc", **options)
    return on_grid(keras.Sequential([keras.Input(image), layer]), levels)


def compressed(shape, layer, bias=True):
    model = keras.Sequential([keras.Input(shape), layer])
    if bias:
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    return model


def halves(model):
    (layer,) = model.layers
    layer.kernel.assign(layer.kernel.numpy().astype("float16"))
    return model


def plain(shape, layer):
    return keras.Sequential([keras.Input(shape), layer])


def normalized(model, low=0.5):
    """A batch normalization behind it, which scales each row of the kernel."""
    norm = layers.BatchNormalization(epsilon=1e-3)
    model.add(norm)
    count = norm.gamma.shape[0]
    norm.set_weights([np.linspace(low, 1.5, count), *np.ones((3, count))])
    return model


def network():
    kinds = tfc.layers
    x = [
        kinds.BinaryConv2D(32, 3, activation="relu", name="binary"),
        layers.Flatten(),
        kinds.HashedDense(128, ratio=32, activation="relu", name="hashed"),
        kinds.CirculantDense(512, activation="relu", name="circulant"),
        kinds.TileHashedDense(512, activation="relu", name="tiles"),
        kinds.CodebookDense(64, size=8, name="codebook"),
        layers.Dense(10, name="out"),
    ]
    return keras.Sequential([keras.Input((6, 6, 32)), *x])


def inputs_of(model, count=3, seed=1):
    random, shape = np.random.default_rng(seed), (count, *model.input_shape[1:])
    for layer in model.layers:
        if "Embedding" in type(layer).__name__:  # rounded or not: ids of its rows
            return random.integers(0, layer.input_dim, shape).astype("float32")
    return random.standard_normal(shape).astype("float32")


def chain(shape, kind, maker, parts):
    """A layer as a chain of smaller ones, which are compressed again."""
    layer = kind(128, name="fc") if kind is layers.Dense else kind(48, 3, name="fc")
    model = tfc.to_ordinary(tfc.swap(plain(shape, layer), {"fc": maker}))
    used = {type(layer) for layer in model.layers}
    return tfc.swap(model, {kind: maker for kind, maker in parts.items() if kind in used})


def tied(table):
    """A table that is looked up, and whose transpose makes the output."""
    inputs = keras.Input((6,))
    return keras.Model(inputs, table(layers.Dense(64, "relu")(table(inputs)), reverse=True))


def learned_ranges():
    """What quantization-aware training leaves: the ranges of the activations are known."""
    kind = tfc.layers.FakeQuant
    x = [kind(-4.0, 4.0), layers.Dense(40, activation="relu", name="fc"), kind(0.0, 3.0)]
    return on_grid(keras.Sequential([keras.Input((64,)), *x]), EIGHT_BITS)


def small_cnn():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 16)),
            layers.Conv2D(32, 3, activation="relu", name="conv"),
            layers.DepthwiseConv2D(3, name="depth"),
            layers.Flatten(),
            layers.Dense(32, name="fc"),
        ]
    )
    return on_grid(model, FOUR_BITS)
