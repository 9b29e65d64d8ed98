import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress.layers.shared.codebook import k_means, nearest
from tfcompress.numerics.metric import Kronecker


def fitted(w, size=16, metric=None):
    layer = tfc.layers.CodebookDense(w.shape[1], size=size)
    layer.build((None, w.shape[0]))
    layer.fit_kernel(w, metric)
    return layer


def squared_error(w, d, codebook):
    return np.sum(d * (w - codebook[nearest(codebook, w)]) ** 2)


def exact(w, d, size):
    """The least squared error of `size` entries, one of them 0, by dynamic programming.

    In sorted order clusters are runs. `best[k][zero][n]`: the first n weights in k free runs, and
    whether the run of the zero is among them.
    """
    order = np.argsort(w)
    w, d = w[order], d[order]
    count = len(w)

    def cost(i, j, zero):  # of the run i..j-1
        part, weight = w[i:j], d[i:j]
        centre = 0 if zero else np.sum(weight * part) / np.sum(weight)
        return np.sum(weight * (part - centre) ** 2)

    inf = float("inf")
    best = {(k, z): [inf] * (count + 1) for k in range(size) for z in (0, 1)}
    best[0, 0][0] = 0.0
    for n in range(1, count + 1):
        for k in range(size):
            for i in range(n):
                if k:
                    for z in (0, 1):
                        best[k, z][n] = min(best[k, z][n], best[k - 1, z][i] + cost(i, n, False))
                best[k, 1][n] = min(best[k, 1][n], best[k, 0][i] + cost(i, n, True))
    return min(best[k, z][count] for k in range(size) for z in (0, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10**6), st.booleans())
def test_k_means_never_beats_and_comes_near_dynamic_programming(size, seed, weighted):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(16)
    d = rng.random(16) + 0.01 if weighted else np.ones(16)
    best, found = exact(w, d, size), squared_error(w, d, k_means(w, d, size))
    assert best - 1e-9 <= found <= best + 0.1 * np.sum(d * w**2)


def test_k_means_is_near_the_optimum_on_average():
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        w, d = rng.standard_normal(24), rng.random(24)
        ratios.append(squared_error(w, d, k_means(w, d, 4)) / exact(w, d, 4))
    assert np.mean(ratios) < 1.1


def test_a_fine_codebook_reaches_the_quantizer_of_a_normal_distribution():
    """Lloyd and Max: distortion 0.009497 at 16 levels."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(100_000)
    error = squared_error(w, np.ones(w.shape), k_means(w, np.ones(w.shape), 16)) / w.size
    assert error < 1.03 * 0.009497


def test_by_hand():
    w = np.array([[0.0, 1.0], [0.9, -2.0], [0.0, 1.1], [-2.2, 0.1]])
    stored = fitted(w, size=3).stored()
    np.testing.assert_array_equal(stored["indices"] == 0, np.abs(w) < 0.5)
    np.testing.assert_allclose(sorted(stored["codebook"]), [-2.1, 0, 1.0], rtol=1e-6)
    weights = np.ones((4, 2))
    weights[3, 0] = 3
    stored = fitted(w, 3, weights).stored()
    np.testing.assert_allclose(sorted(stored["codebook"]), [-2.15, 0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("metric", [None, "kronecker"])
def test_pruned_zeros_stay_zero_in_fit_and_training(metric):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((20, 8)) * (rng.random((20, 8)) < 0.3)
    if metric:
        x = rng.standard_normal((50, 20)) @ rng.standard_normal((20, 20))
        metric = Kronecker(x.T @ x / 50)
    layer = fitted(w, 8, metric)
    model = keras.Sequential([keras.Input((20,)), layer])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(rng.random((64, 20)), rng.random((64, 8)), epochs=2, verbose=0)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    np.testing.assert_array_equal(kernel[w == 0], 0)
    assert len(np.unique(kernel)) <= 8


def test_gradients_are_summed_per_index():
    rng = np.random.default_rng(0)
    layer = fitted(rng.standard_normal((6, 3)), 4)
    model = keras.Sequential([keras.Input((6,)), layer])
    x, y = rng.random((5, 6)).astype("float32"), rng.random((5, 3)).astype("float32")
    before, indices = layer.stored()["codebook"], layer.stored()["indices"]
    gradient = x.T @ (2 / y.size * (keras.ops.convert_to_numpy(model(x)) - y))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, y, verbose=0)
    expected = before - 0.1 * np.bincount(indices.ravel(), gradient.ravel(), 4)
    np.testing.assert_allclose(layer.stored()["codebook"][1:], expected[1:], rtol=1e-4)
    np.testing.assert_array_equal(layer.stored()["indices"], indices)


def test_compensation_is_worth_it():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 40))
    metric = Kronecker(x.T @ x / 200 + 1e-3 * np.eye(40))
    w = rng.standard_normal((40, 12))
    plain, fit = (np.asarray(fitted(w, 8, m).kernel) for m in (None, metric))
    assert metric.quadratic(w - fit) < 0.5 * metric.quadratic(w - plain)


def test_bits():
    rng = np.random.default_rng(0)
    layer = fitted(rng.standard_normal((64, 32)), 8)
    assert layer.pack()["indices"].bits == 3 * 64 * 32
    assert layer.bits == 3 * 64 * 32 + 8 * 32


@pytest.mark.parametrize("w", [np.zeros((4, 3)), np.ones((4, 3)), np.full((4, 3), -2.0)])
def test_degenerate_kernels(w):
    for metric in (None, np.zeros(w.shape), Kronecker(np.zeros((4, 4)))):
        np.testing.assert_allclose(np.asarray(fitted(w, 4, metric).kernel), w)


@pytest.mark.parametrize("size", [1, 257, 2.5, True])
def test_bad_size(size):
    with pytest.raises(ValueError, match="size"):
        tfc.layers.CodebookDense(4, size=size)
