"""Each cause by a kernel that was damaged in that way, at two strengths."""

import keras
import numpy as np
import pytest

import tfcompress as tfc

X = np.random.default_rng(0).standard_normal((400, 24)).astype("float32")
RANDOM = np.random.default_rng(1)


def explained(change, layer=None, x=X, **arguments):
    """The row of a layer whose kernel a function changes."""
    keras.utils.set_random_seed(0)
    layer = layer or keras.layers.Dense(24, name="fc")
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    small = keras.models.clone_model(model)
    small.set_weights(model.get_weights())
    kernel = small.layers[-1].kernel
    kernel.assign(change(np.array(kernel)))
    (row,) = tfc.explain(model, small, x, **arguments).layers
    assert row.path == layer.name
    return row


def clip(w, share):
    bound = np.quantile(np.abs(w), share)
    return np.clip(w, -bound, bound)


def without(w, *outputs):
    w = w.copy()
    w[..., list(outputs)] = 0
    return w


def scaled(w, output, factor):
    w = w.copy()
    w[..., output] *= factor
    return w


def rounded(w, peak, count):
    step = peak * np.abs(w).max() / count
    return step * np.clip(np.rint(w / step), -count, count)


def truncated(w, rank):
    u, s, v = np.linalg.svd(w.reshape(-1, w.shape[-1]), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(w.shape)


def pruned(w, share):
    return w * (np.abs(w) > np.quantile(np.abs(w), share))


CHANGES = {
    "scale off": [
        lambda w: 0.8 * w,
        lambda w: 3 * w,
        lambda w: -w,
        lambda w: scaled(w, 5, 4.0),
        lambda w: scaled(w, 2, -1.0),
    ],
    "weights clipped": [lambda w: clip(w, 0.8), lambda w: clip(w, 0.4)],
    "dead channels": [lambda w: without(w, 7), lambda w: without(w, *range(10))],
    "weights moved": [
        lambda w: w.T if w.ndim == 2 else w[::-1],
        lambda w: w[..., ::-1],
        lambda w: w[..., RANDOM.permutation(w.shape[-1])],
    ],
    "rank below the knee": [lambda w: truncated(w, 1), lambda w: truncated(w, 6)],
    "few bits": [lambda w: rounded(w, 0.9, 3), lambda w: np.sign(w) * np.abs(w).mean()],
    "outliers set the range": [lambda w: rounded(w, 1.8, 3)],
    "weights removed": [lambda w: pruned(w, 0.5), lambda w: pruned(w, 0.95)],
    "kernel changed": [lambda w: RANDOM.permutation(w.ravel()).reshape(w.shape)],
}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, i) for name, changes in CHANGES.items() for i in range(len(changes))],
)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_the_cause_of_a_damaged_kernel(name, number, kind):
    layer, x = keras.layers.Dense(24, name="fc"), X
    if kind == "conv":
        layer = keras.layers.Conv2D(24, 3, name="conv")
        x = np.random.default_rng(0).standard_normal((60, 6, 6, 4)).astype("float32")
    assert explained(CHANGES[name][number], layer, x).cause.name == name


def test_one_scale_for_outputs_of_different_size():
    sizes = np.where(np.arange(24) % 6, 0.05, 1.0)
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(24, name="fc")
    model = keras.Sequential([keras.Input((24,)), layer])
    layer.kernel.assign(np.array(layer.kernel) * sizes)
    small = keras.models.clone_model(model)
    step = np.abs(np.array(layer.kernel)).max() / 7
    small.layers[-1].kernel.assign(step * np.rint(np.array(layer.kernel) / step))
    row = tfc.explain(model, small, X).layers[0]
    assert row.cause.name == "channels of different size"


def test_a_binary_layer_that_was_not_fitted_has_few_bits_and_no_wrong_scale():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(6, name="out")])
    random = np.random.default_rng(0)
    kernel = np.abs(random.standard_normal((40, 6))) ** 3  # few large weights, met by large inputs
    model.get_layer("out").kernel.assign(kernel)
    x = kernel.mean(1) * random.uniform(0.5, 1.5, (200, 40))
    small = tfc.swap(model, {"out": tfc.layers.BinaryDense})
    assert tfc.explain(model, small, x)["out"].cause.name == "few bits"
