import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.numerics.hashing import signed_codes
from tfcompress.numerics.metric import Kronecker


def built(units, inputs, **options):
    layer = tfc.layers.TileHashedDense(units, use_bias=False, **options)
    layer.build((None, inputs))
    return layer


def by_hand(layer, inputs, units, tile, tiles, seed):
    """The kernel, tile by tile; places are counted in (out, in) order."""
    rows, columns = -(-inputs // tile), -(-units // tile)
    codes, bank = signed_codes(rows * columns, tiles, seed), layer.stored()["bank"]
    kernel = np.zeros((rows * tile, columns * tile), np.float32)
    for a in range(columns):
        for b in range(rows):
            code = codes[a * rows + b]
            place = slice(b * tile, (b + 1) * tile), slice(a * tile, (a + 1) * tile)
            kernel[place] = bank[code % tiles] * (1 if code < tiles else -1)
    return kernel[:inputs, :units]


@pytest.mark.parametrize("inputs, units, tile, tiles", [(8, 12, 4, 3), (9, 7, 2, 4), (5, 5, 3, 1)])
def test_kernel_and_product_by_hand(inputs, units, tile, tiles):
    rng = np.random.default_rng(0)
    layer = built(units, inputs, tile=tile, tiles=tiles, seed=3)
    expected = by_hand(layer, inputs, units, tile, tiles, 3)
    np.testing.assert_array_equal(layer.kernel, expected)
    x = rng.standard_normal((2, 3, inputs)).astype("float32")
    np.testing.assert_allclose(layer(x), x @ expected, rtol=1e-4, atol=1e-5)
    assert layer.bits == 32 * tiles * tile**2


def test_the_kernel_is_a_sum_of_kronecker_products():
    layer = built(12, 8, tile=4, tiles=3)
    signs = layer.signs().reshape(2, 3, 3)  # row, tile, column
    total = sum(np.kron(signs[:, u], layer.stored()["bank"][u]) for u in range(3))
    np.testing.assert_array_equal(layer.kernel, total)
    assert (np.abs(signs).sum(axis=1) == 1).all()


def test_macs_are_those_of_the_two_products():
    layer = built(64, 96, tile=8, tiles=2)
    assert layer.macs((None, 96)) == 96 * 8 * 2 + 96 * 64 * 2 // 8


def test_fit_in_a_metric_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    w, layer = rng.standard_normal((8, 6)), built(6, 8, tile=2, tiles=2)
    x = rng.standard_normal((50, 8)) @ rng.standard_normal((8, 8))
    metric = Kronecker(x.T @ x / 50, rng.random(6) + 0.1)
    layer.fit_kernel(w, metric)
    design = np.zeros((48, 8))  # the kernel is a linear map of the bank
    for k in range(8):
        layer2 = built(6, 8, tile=2, tiles=2)
        layer2.restore({"bank": np.eye(8, dtype="float32")[k].reshape(2, 2, 2)})
        design[:, k] = np.ravel(layer2.kernel)
    hessian = np.kron(metric.blocks[0][0], np.diag(metric.g))
    dense = np.linalg.solve(design.T @ hessian @ design, design.T @ hessian @ w.ravel())
    np.testing.assert_allclose(layer.stored()["bank"].ravel(), dense, rtol=1e-2, atol=1e-3)


def test_a_kernel_of_tiles_comes_back_exactly():
    teacher, student = built(40, 24, tile=8, tiles=4), built(40, 24, tile=8, tiles=4)
    student.fit_kernel(keras.ops.convert_to_numpy(teacher.kernel))
    np.testing.assert_allclose(student.stored()["bank"], teacher.stored()["bank"], atol=1e-7)
