"""Helpers of the tests of structured layers in files: networks, and one comparison."""

import keras
import numpy as np
from keras import layers
from oracles_export import error, operators, run

import tfcompress as tfc


def samples(shape, count=3, seed=1):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")


def same(blob, model, limit):
    """The file computes what the model does, for one sample and for three, in both resolvers."""
    x = samples(model.input_shape[1:])
    for count in (1, 3):
        expected = model(x[:count], training=False)
        for delegates in (True, False):
            assert error(run(blob, [x[:count]], delegates)[0], expected) < limit
    assert not [name for name in operators(blob) if "Flex" in name or name == "CUSTOM"]


def circulant(inputs, units, **options):
    layer = tfc.layers.CirculantDense(units, name="fc", **options)
    model = keras.Sequential([keras.Input((inputs,)), layer])
    if layer.bias is not None:
        layer.bias.assign(np.linspace(-1, 1, units))
    return model


def hashed(units=64, inputs=96, **options):
    model = keras.Sequential(
        [keras.Input((inputs,)), tfc.layers.HashedDense(units, name="fc", **options)]
    )
    model.get_layer("fc").bias.assign(np.linspace(-1, 1, units))
    return model


def codebook(kind, shape, size, *arguments, **options):
    layer = kind(*arguments, size=size, name="fc", **options)
    model = keras.Sequential([keras.Input(shape), layer])
    random, stored = np.random.default_rng(0), layer.stored()
    entries = np.concatenate([[0], random.standard_normal(size - 1)]).astype("float32")
    layer.restore(stored | {"codebook": 0.05 * entries})
    return model


def pruned(shape, block, share, integers=True, seed=0, kind=layers.Dense, arguments=(64,)):
    """A layer whose kernel has a share of nonzero blocks along its inputs."""
    layer = kind(*arguments, name="fc")
    model = keras.Sequential([keras.Input(shape), layer])
    random, size = np.random.default_rng(seed), layer.kernel.shape
    rows = np.prod(size[:-1])
    mask = np.repeat(random.random((rows // block, size[-1])) < share, block, axis=0)
    if integers:
        values = random.integers(-127, 128, (rows, size[-1])) * random.uniform(0.5, 1.5, size[-1])
        values[:, 0] = 127 * np.sign(values[:, 0])
    else:
        values = random.standard_normal((rows, size[-1]))
    layer.kernel.assign((values * mask).reshape(size) / 127)
    layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    return model
