import itertools

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.layers.discrete.latent import fit_grid
from tfcompress.numerics.compensated_rounding import compensate
from tfcompress.numerics.metric import Kronecker


def built(layer, *shape):
    layer.build(shape)
    return layer


def test_zero_is_plus_one():
    layer = built(tfc.layers.BinaryDense(1, scale=False), None, 3)
    layer.latent.assign([[0.0], [-0.0], [-1e-9]])
    np.testing.assert_array_equal(layer.stored()["signs"].ravel(), [1, 1, -1])


def test_one_step_of_binaryconnect_by_hand():
    """w <- clip(w - lr dL/dV, -H, H), the gradient taken at the binary weights and not masked."""
    layer = built(tfc.layers.BinaryDense(1, use_bias=False, scale=False), None, 2)
    h = np.sqrt(1.5 / 3)
    np.testing.assert_allclose(layer.limit, h)
    layer.latent.assign([[0.1], [-h]])
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = np.array([[1.0, 2.0]], "float32"), np.array([[1.0]], "float32")
    out = h * 1 - h * 2
    gradient = 2 * (out - 1) * x[0]  # (-, -): both latents grow
    model.fit(x, y, verbose=0)
    expected = np.clip([0.1 - 0.1 * gradient[0], -h - 0.1 * gradient[1]], -h, h)
    np.testing.assert_allclose(layer.latent.numpy().ravel(), expected, rtol=1e-5)
    model.compile(keras.optimizers.SGD(100.0), "mse")
    model.fit(x, y, verbose=0)
    np.testing.assert_allclose(np.abs(layer.latent.numpy()), h, rtol=1e-6)  # clipped


def test_training_leaves_two_values_per_channel():
    rng = np.random.default_rng(0)
    layer = built(tfc.layers.BinaryDense(5), None, 8)
    model = keras.Sequential([keras.Input((8,)), layer])
    model.compile("adam", "mse")
    model.fit(rng.random((64, 8)), rng.random((64, 5)), epochs=3, verbose=0)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    scale = layer.stored()["scale"]
    assert len(set(scale)) == 5
    np.testing.assert_array_equal(np.abs(kernel), np.broadcast_to(np.abs(scale), kernel.shape))


@pytest.mark.parametrize("levels", [(-1, 1), (-1, 0, 1)])
def test_fit_comes_near_the_best_of_all_codes(levels):
    """Brute force over all codes with their best scale, 6 weights, 30 problems."""

    def nearest(u):
        table = np.array(levels)
        return table[np.argmin(np.abs(np.asarray(u)[..., None] - table), -1)]

    excess = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 6))
        metric = Kronecker(x.T @ x / 40 + 0.05 * np.eye(6), damping=0.0)
        w = rng.standard_normal((6, 1))
        best = np.inf
        for codes in itertools.product(levels, repeat=6):
            b = np.array(codes, float)[:, None]
            if np.any(b):
                a = np.sum(b * metric.apply(w)) / np.sum(b * metric.apply(b))
                best = min(best, metric.quadratic(w - a * b))
        codes, scale = fit_grid(w, nearest, np.mean(np.abs(w)), metric)
        found, none = metric.quadratic(w - scale * codes), metric.quadratic(w)
        assert best <= found + 1e-9 and found <= none
        plain = nearest(w / np.mean(np.abs(w)))
        excess.append(
            [(found - best) / none, (metric.quadratic(w - np.abs(w).mean() * plain) - best) / none]
        )
    found, plain = np.mean(excess, 0)
    assert found < 0.1 and found < 0.5 * plain


def test_scale_is_the_weighted_least_squares_one():
    rng = np.random.default_rng(0)
    w, d = rng.standard_normal((9, 4)), rng.random((9, 4))
    layer = built(tfc.layers.BinaryDense(4), None, 9)
    layer.fit_kernel(w, d)
    expected = np.sum(d * np.abs(w), 0) / np.sum(d, 0)
    np.testing.assert_allclose(layer.stored()["scale"], expected, rtol=1e-6)
    np.testing.assert_array_equal(layer.stored()["signs"], np.where(w >= 0, 1, -1))


def test_dead_outputs_and_inputs():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((6, 3))
    w[:, 0] = 0
    for metric in (None, np.zeros((6, 3)), Kronecker(np.zeros((6, 6)))):
        for cls in (tfc.layers.BinaryDense, tfc.layers.TernaryDense):
            layer = built(cls(3), None, 6)
            layer.fit_kernel(w, metric)
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            assert np.all(np.isfinite(kernel))
            # A binary output has no zeros: it keeps a scale that is next to none.
            assert np.abs(kernel[:, 0]).max() <= (1e-6 if cls is tfc.layers.BinaryDense else 0)
            layer.restore(layer.stored())
            np.testing.assert_array_equal(kernel, keras.ops.convert_to_numpy(layer.kernel))


@pytest.mark.parametrize("cls", [tfc.layers.BinaryDense, tfc.layers.QuantizedDense])
def test_gradients_from_the_outputs_are_those_from_the_kernel(cls):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((9, n)).astype("float32") for n in (6, 3))
    found = []
    for more in ((), (1,)):  # with a third axis the scale's gradient comes from the kernel
        layer = built(cls(3, activation="tanh"), None, *more, 6)
        layer.fit_kernel(np.linspace(-1, 1, 18).reshape(6, 3))
        model = keras.Sequential([keras.Input((*more, 6)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(x.reshape(9, *more, 6), y.reshape(9, *more, 3))
        found.append(layer.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def stochastic(w, **options):
    layer = built(tfc.layers.BinaryDense(w.shape[1], stochastic=True, **options), None, w.shape[0])
    layer.fit_kernel(w)
    return layer


def test_draws_have_the_probabilities_of_the_paper():
    """P(+H) = clip((w / H + 1) / 2, 0, 1); two values only; a new draw for each call."""
    shares = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    layer = stochastic(np.zeros((5, 20_000)), scale=False, use_bias=False, seed=3)
    layer.latent.assign(layer.latent * 0 + layer.limit * shares[:, None])
    inputs = np.eye(5, dtype="float32")
    draws = np.asarray(layer(inputs, training=True))
    np.testing.assert_allclose(np.abs(draws), np.broadcast_to(layer.limit, draws.shape), rtol=1e-6)
    deviation = np.sqrt(0.25 / draws.shape[1])
    np.testing.assert_allclose(np.mean(draws > 0, 1), (shares + 1) / 2, atol=5 * deviation)
    assert np.all(draws[0] < 0) and np.all(draws[-1] > 0)
    assert np.mean(draws != np.asarray(layer(inputs, training=True))) > 0.1


def test_a_probability_between_two_bytes_is_not_rounded():
    layer = stochastic(np.zeros((1, 20_000)), scale=False, use_bias=False, seed=1)
    layer.latent.assign(layer.latent * 0 + layer.limit * (2 * 0.5 / 256 - 1))
    share = np.mean([np.mean(layer(np.ones((1, 1)), training=True) > 0) for _ in range(200)])
    assert 0.35 < 256 * share < 0.65


def test_inference_of_a_stochastic_layer_is_the_mean_of_its_draws():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((6, 3)).astype("float32")
    layer = stochastic(w, seed=0)
    x = rng.standard_normal((4, 6)).astype("float32")
    np.testing.assert_allclose(layer.kernel, w, rtol=1e-5)  # a trained kernel is kept
    np.testing.assert_allclose(layer(x), x @ w, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    mean = np.mean([layer(x, training=True) for _ in range(400)], 0)
    # a weight of a draw is s or -s, so its variance is s^2 - w^2
    deviation = np.sqrt(np.square(x) @ (np.square(np.asarray(layer.scale)) - np.square(w)) / 400)
    assert np.all(np.abs(mean - x @ w) < 5 * deviation)
    assert np.abs(mean - x @ w).max() > 0.1 * deviation.max()  # they do vary


def test_one_stochastic_step_by_hand():
    """The gradient is that at the drawn weights; latents at their bounds are always drawn alike."""
    layer = stochastic(np.zeros((2, 1)), use_bias=False, scale=False)
    h = layer.limit
    layer.latent.assign([[h], [-h]])
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = np.array([[1.0, 2.0]], "float32"), np.array([[1.0]], "float32")
    gradient = 2 * (h - 2 * h - 1) * x[0]
    model.fit(x, y, verbose=0)
    expected = np.clip([h - 0.1 * gradient[0], -h - 0.1 * gradient[1]], -h, h)
    np.testing.assert_allclose(np.ravel(layer.latent), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [True, False])
def test_a_stochastic_layer_stores_what_inference_uses(scale):
    rng = np.random.default_rng(0)
    layer = stochastic(rng.standard_normal((6, 3)), scale=scale)
    scale_bits = 32 * (3 if scale else 1)
    assert layer.bits == 32 * 18 + scale_bits
    for _ in range(2):  # the real weights, then the signs
        kernel, stored = np.asarray(layer.kernel), layer.stored()
        other = stochastic(np.zeros((6, 3)), scale=scale)
        other.restore(tfc.unpack(layer.pack()))
        np.testing.assert_array_equal(other.kernel, kernel)
        np.testing.assert_array_equal(layer.to_ordinary()[0].kernel, kernel)
        signs = np.sign(kernel)
        layer.binarize()
    assert set(stored) == {"signs", "scale"} and layer.bits == 24 + scale_bits
    np.testing.assert_array_equal(np.asarray(layer.kernel), stored["scale"] * signs)


def test_binarize_takes_a_metric_and_leaves_a_deterministic_layer():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 4)) @ rng.standard_normal((4, 12))
    metric, w = Kronecker(x.T @ x / 40), rng.standard_normal((12, 5))
    plain, measured = stochastic(w), stochastic(w)
    plain.binarize()
    measured.binarize(metric)
    assert metric.quadratic(w - measured.kernel) < metric.quadratic(w - plain.kernel)
    layer = built(tfc.layers.BinaryDense(5), None, 12)
    before = layer.get_weights()
    layer.binarize()
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_binarized_layers_are_exact_in_a_compiled_model_and_in_the_file():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            tfc.layers.BinaryDense(32, stochastic=True, seed=1, name="fc"),
            keras.layers.BatchNormalization(),
        ]
    )
    model.compile("adam", "mse")
    x = rng.standard_normal((64, 64)).astype("float32")
    model.fit(x, rng.random((64, 32)), epochs=2, verbose=0)
    model.predict(x, verbose=0)  # the compiled function must see the new weights
    model.get_layer("fc").binarize()
    tfc.recalibrate_batch_norm(model, x)
    kernel, bias = np.asarray(model.get_layer("fc").kernel), np.asarray(model.get_layer("fc").bias)
    assert np.all(np.ptp(np.abs(kernel), 0) == 0)
    expected = model.layers[1](x @ kernel + bias)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-3, atol=1e-4)


def test_a_class_rule_takes_stochastic_layers():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="fc")])
    small = tfc.swap(model, {keras.layers.Dense: tfc.layers.BinaryDense.using(stochastic=True)})
    assert small.get_layer("fc").stochastic


PLAIN_ROUNDS = 12
KINDS = {
    "binary": (lambda u: np.where(u >= 0, 1.0, -1.0), lambda w: np.abs(w).mean(0)),
    "ternary": (lambda u: np.clip(np.round(u), -1, 1), lambda w: 1.2 * np.abs(w).mean(0)),
    "4 bits": (lambda u: np.clip(np.round(u), -7, 7), lambda w: np.abs(w).max(0) / 9),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scales_that_go_further_do_no_more_damage_than_many_plain_rounds(kind):
    nearest, first_scale = KINDS[kind]
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(400, 33)) @ rng.normal(size=(33, 96)), 0)
    w, metric = rng.normal(size=(96, 160)) / 10, Kronecker(x.T @ x / 400)
    trial, least = first_scale(w), np.full(160, np.inf)
    for _ in range(PLAIN_ROUNDS):
        grid = compensate(w, lambda row, _, s=trial: s * nearest(row / s), metric) / trial
        toward = metric.apply(grid)
        trial = np.sum(w * toward, 0) / np.sum(grid * toward, 0)
        error = w - trial * grid
        least = np.minimum(least, np.sum(error * metric.apply(error), 0))
    grid, scale = fit_grid(w, nearest, first_scale(w), metric)
    assert metric.quadratic(w - scale * grid) < 1.002 * 0.5 * least.sum()
