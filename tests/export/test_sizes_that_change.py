"""One interpreter that is given inputs of ever other sizes: each result is right."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import call, load, run

from tfcompress.export import to_tflite
from tfcompress.tflite.reader import read
from tfcompress.tflite.runner import Runner

SIZES = (5, 4), (3, 3), (3, 17), (5, 2), (5, 6), (7, 30), (6, 12), (5, 12), (4, 50), (1, 1)


def means_of(*parts):
    inputs = keras.Input((None, 6))
    x = inputs
    for part in parts:
        x = part(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def sums():
    inputs = keras.Input((None, 6))
    x = layers.Softmax(axis=1)(layers.Dense(8)(inputs))  # weighs the steps
    return keras.Model(inputs, layers.Dense(2)(keras.ops.sum(x * layers.Dense(8)(inputs), 1)))


def attention():
    inputs = keras.Input((None, 6))
    x = layers.Dense(8)(inputs)
    x = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(inputs, layers.Dense(2)(x))


MODELS = {
    "attention": attention,
    "sums": sums,
    "a loop": lambda: means_of(layers.GRU(8, return_sequences=True)),
    "a normalization": lambda: means_of(layers.Dense(8), layers.LayerNormalization()),
    "convolutions": lambda: means_of(layers.Conv1D(8, 3, padding="same", activation="relu")),
}


@pytest.mark.parametrize("activations", ["static_int8", "int8"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_means_and_sums_over_free_axes(make, activations):
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 10, 6)).astype("float32")
    blob = to_tflite(make(), check=x, activations=activations, rest="int8")
    runner = load(blob)
    for batch, steps in SIZES:
        x = random.normal(size=(batch, steps, 6)).astype("float32")
        np.testing.assert_allclose(call(runner, [x])[0], run(blob, [x])[0], atol=1e-5)


def test_a_runner_gives_other_sizes_to_another_interpreter():
    """In one that was resized, products of some files with loops read what lay there before."""
    blob = to_tflite(means_of(layers.GRU(8, return_sequences=True)), check=np.ones((2, 5, 6), "f4"))
    runner = Runner(read(blob))
    runner([np.ones((1, 5, 6), "float32")])
    first = runner.interpreter
    runner([np.zeros((1, 5, 6), "float32")])
    assert runner.interpreter is first
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")
    np.testing.assert_array_equal(runner([x])[0], run(blob, [x])[0])
    assert runner.interpreter is not first
