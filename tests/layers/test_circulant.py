import keras
import numpy as np
import pytest
import scipy.linalg

import tfcompress as tfc
from tfcompress.numerics.metric import Kronecker


def built(units, inputs, **options):
    layer = tfc.layers.CirculantDense(units, use_bias=False, **options)
    layer.build((None, inputs))
    return layer


@pytest.mark.parametrize("inputs, units", [(8, 8), (7, 7), (9, 5), (5, 9), (1, 1), (2, 1)])
@pytest.mark.parametrize("signs", [True, False])
def test_equals_the_explicit_circulant_matrix(inputs, units, signs):
    rng = np.random.default_rng(0)
    layer, n = built(units, inputs, signs=signs), max(inputs, units)
    r = layer.stored()["circulants"].reshape(-1)
    matrix = scipy.linalg.circulant(r)  # first column r: C[j, i] = r[(j - i) mod n]
    x = rng.random((4, inputs), "float32")
    padded = np.zeros((4, n))
    padded[:, :inputs] = x * layer._signs
    expected = (padded @ matrix.T)[:, :units]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(kernel, (layer._signs * matrix[:units, :inputs]).T, rtol=1e-6)
    assert layer.bits == 32 * n


@pytest.mark.parametrize("inputs, units, block", [(12, 8, 4), (10, 7, 4), (5, 11, 3), (6, 6, 1)])
def test_blocks(inputs, units, block):
    rng = np.random.default_rng(0)
    layer = built(units, inputs, block=block)
    circulants = layer.stored()["circulants"]
    rows = [np.hstack([scipy.linalg.circulant(r) for r in row]) for row in circulants]
    matrix = np.vstack(rows)[:units, :inputs] * layer._signs
    np.testing.assert_allclose(np.asarray(layer.kernel), matrix.T, rtol=1e-6)
    x = rng.random((2, 3, inputs), "float32")
    np.testing.assert_allclose(layer(x), x @ matrix.T, rtol=1e-4, atol=1e-5)


def test_a_circulant_kernel_comes_back_exactly():
    teacher, student = built(9, 7, seed=4), built(9, 7, seed=4)
    student.fit_kernel(keras.ops.convert_to_numpy(teacher.kernel))
    np.testing.assert_allclose(
        student.stored()["circulants"], teacher.stored()["circulants"], rtol=1e-5, atol=1e-7
    )


def test_fit_is_the_mean_along_the_diagonals():
    rng = np.random.default_rng(0)
    w, layer = rng.standard_normal((4, 4)), built(4, 4, signs=False)
    layer.fit_kernel(w)
    expected = [np.mean([w[i, (i + k) % 4] for i in range(4)]) for k in range(4)]
    np.testing.assert_allclose(layer.stored()["circulants"].ravel(), expected, rtol=1e-5)


def test_fit_in_a_metric_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    w, layer = rng.standard_normal((6, 6)), built(6, 6)
    x = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6))
    metric = Kronecker(x.T @ x / 50, rng.random(6) + 0.1)
    layer.fit_kernel(w, metric)
    design = np.zeros((36, 6))
    design[np.arange(36), layer._index().ravel()] = np.repeat(layer._signs, 6)
    hessian = np.kron(metric.blocks[0][0], np.diag(metric.g))
    dense = np.linalg.solve(design.T @ hessian @ design, design.T @ hessian @ w.ravel())
    np.testing.assert_allclose(layer.stored()["circulants"].ravel(), dense, rtol=1e-2, atol=1e-3)


def test_signs_come_from_the_seed():
    a, b, c = (built(64, 64, seed=seed)._signs for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert set(a) == {-1, 1}


def test_large_layers_of_blocks_multiply_spectra_and_small_ones_kernels():
    rng = np.random.default_rng(0)
    layer = built(200, 180, block=33)
    assert layer.by_fft() and not built(20, 18, block=5).by_fft() and built(20, 18).by_fft()
    x = rng.standard_normal((3, 180)).astype("float32")
    np.testing.assert_allclose(layer(x), x @ np.asarray(layer.kernel), atol=1e-5)


@pytest.mark.parametrize("inputs, filters, block", [(6, 4, None), (6, 8, 3), (5, 7, 4), (1, 3, 1)])
def test_a_convolution_has_circulant_blocks_of_channels(inputs, filters, block):
    layer = tfc.layers.CirculantConv2D(filters, (2, 3), block=block, seed=1)
    layer.build((None, 8, 8, inputs))
    r, n = layer.stored()["circulants"], block or max(inputs, filters)
    assert r.shape == (2, 3, -(-filters // n), -(-inputs // n), n)
    for (h, w, i, o), value in np.ndenumerate(np.asarray(layer.kernel)):
        assert value == layer._signs[i] * r[h, w, o // n, i // n, (o - i) % n]


def test_a_circulant_convolution_comes_back_exactly():
    teacher, student = (tfc.layers.CirculantConv2D(8, 3, block=4) for _ in range(2))
    for layer in (teacher, student):
        layer.build((None, 8, 8, 6))
    student.fit_kernel(np.asarray(teacher.kernel))
    np.testing.assert_allclose(student.kernel, teacher.kernel, atol=1e-7)


def test_a_convolution_is_fitted_in_the_metric():
    rng = np.random.default_rng(0)
    conv = keras.layers.Conv2D(6, 3)
    conv.build((None, 8, 8, 4))
    metric = rng.random(conv.kernel.shape) + 0.1
    layer = tfc.layers.CirculantConv2D.from_layer(conv, metric, block=2)
    w, signs = np.asarray(conv.kernel), layer._signs[:, None]
    r = np.zeros((9 * 3 * 2 * 2,))
    for k in range(len(r)):
        here = layer._index() == k
        r[k] = np.sum((metric * signs * w)[here]) / np.sum(metric[here])
    np.testing.assert_allclose(layer.stored()["circulants"].ravel(), r, rtol=1e-5, atol=1e-7)
