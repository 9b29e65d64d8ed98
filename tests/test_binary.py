import itertools

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.layers.grid import fit_grid
from tfcompress.metric import Kronecker

rng = np.random.default_rng(0)


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
    w, d = rng.standard_normal((9, 4)), rng.random((9, 4))
    layer = built(tfc.layers.BinaryDense(4), None, 9)
    layer.fit_kernel(w, d)
    expected = np.sum(d * np.abs(w), 0) / np.sum(d, 0)
    np.testing.assert_allclose(layer.stored()["scale"], expected, rtol=1e-6)
    np.testing.assert_array_equal(layer.stored()["signs"], np.where(w >= 0, 1, -1))


def test_dead_outputs_and_inputs():
    w = rng.standard_normal((6, 3))
    w[:, 0] = 0
    for metric in (None, np.zeros((6, 3)), Kronecker(np.zeros((6, 6)))):
        for cls in (tfc.layers.BinaryDense, tfc.layers.TernaryDense):
            layer = built(cls(3), None, 6)
            layer.fit_kernel(w, metric)
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            assert np.all(np.isfinite(kernel)) and not np.any(kernel[:, 0])
            layer.restore(layer.stored())
            np.testing.assert_array_equal(kernel, keras.ops.convert_to_numpy(layer.kernel))
