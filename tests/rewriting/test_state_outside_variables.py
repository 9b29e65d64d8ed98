"""State that a layer derives from its variables: models that are made anew derive it again."""

import keras
import numpy as np
import pytest

import tfcompress as tfc

L = keras.layers
X = np.random.default_rng(0).normal([5, -3, 100], [0.1, 2, 30], (64, 3)).astype("float32")
WORDS = np.array([["red"], ["green"], ["blue"], ["pink"]])


def normalized():
    norm = L.Normalization(name="norm")
    norm.adapt(X)
    start = keras.Input((3,))
    return keras.Model(start, L.Dense(2, name="out")(L.Dense(16, name="in")(norm(start)))), X


def in_a_block():
    inner, _ = normalized()
    start = keras.Input((3,))
    return keras.Model(start, L.Dense(2)(inner(start))), X


def fractions():
    start = keras.Input((3,))
    bins = L.Discretization(bin_boundaries=[0.0, 4.0, 50.0])
    return keras.Model(start, L.Dense(2)(L.CategoryEncoding(4, "multi_hot")(bins(start)))), X


def words():
    start = keras.Input((1,), dtype="string")
    lookup = L.StringLookup(vocabulary=["red", "green", "blue"], output_mode="one_hot")
    return keras.Model(start, L.Dense(2)(lookup(start))), WORDS


def archived(model, folder):
    tfc.archive.save(model, folder / "model.tfc")
    return tfc.archive.load(folder / "model.tfc")


def saved(model, folder):
    tfc.swap(model, tfc.layers.rounding(8)).save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


VERBS = {
    "swap": lambda model, _: tfc.swap(model, {}),
    "rounded": lambda model, _: tfc.swap(model, tfc.layers.rounding(8)),
    "to_ordinary": lambda model, _: tfc.to_ordinary(tfc.swap(model, tfc.layers.rounding(8))),
    "archive": archived,
    "keras": saved,
}


PAIRS = [(build, verb) for build in (normalized, in_a_block, fractions, words) for verb in VERBS]
PAIRS.remove((words, "archive"))  # archives refuse layers that can read files


@pytest.mark.parametrize(("build", "verb"), PAIRS)
def test_outputs_stay(build, verb, tmp_path):
    model, x = build()
    x = keras.ops.convert_to_tensor(x)
    expected = np.asarray(model(x))
    exact = verb in ("swap", "archive")
    found = np.asarray(VERBS[verb](model, tmp_path)(x))
    error = np.abs(found - expected).max()
    assert error == 0 if exact else error < 0.02 * np.abs(expected).max()


def test_models_of_tf_keras_bring_it_along():
    tf_keras = pytest.importorskip("tf_keras")
    pytest.importorskip("tensorflow_model_optimization")
    norm = tf_keras.layers.Normalization()
    norm.adapt(X)
    old = tf_keras.Sequential([tf_keras.Input((3,)), norm, tf_keras.layers.Dense(2)])
    new = tfc.interop.tfmot.from_tf_keras(old)
    np.testing.assert_allclose(new(X), old(X), rtol=1e-5)
    back = tfc.interop.tfmot.to_tf_keras(new)
    np.testing.assert_allclose(back(X), old(X), rtol=1e-5)
