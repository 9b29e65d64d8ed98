import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.hashing import signed_codes
from tfcompress.layers.hashed import gather
from tfcompress.metric import Kronecker

rng = np.random.default_rng(0)


def built(units, inputs, **options):
    layer = tfc.layers.HashedDense(units, **options)
    layer.build((None, inputs))
    return layer


def test_kernel_is_the_papers_formula():
    layer = built(5, 7, buckets=6, seed=2)
    bank, kernel = layer.stored()["bank"], keras.ops.convert_to_numpy(layer.kernel)
    codes = signed_codes(35, 6, seed=2)
    for i in range(7):
        for j in range(5):
            code = codes[j * 7 + i]  # positions are counted in (o, i) order
            sign = 1 if code < 6 else -1
            assert kernel[i, j] == sign * bank[code % 6]


def test_gradient_is_the_papers_sum():
    layer = built(5, 7, buckets=6)
    model = keras.Sequential([keras.Input((7,)), layer])
    x, y = rng.random((3, 7), "float32"), rng.random((3, 5), "float32")
    before, kernel = layer.stored()["bank"], keras.ops.convert_to_numpy(layer.kernel)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, y, verbose=0)
    to_kernel = x.T @ (2 * (x @ kernel - y) / y.size)
    codes = signed_codes(35, 6).reshape(5, 7).T
    expected = np.zeros(6)
    np.add.at(expected, codes % 6, np.where(codes < 6, 1, -1) * to_kernel)
    np.testing.assert_allclose(before - layer.stored()["bank"], expected, rtol=1e-4, atol=1e-6)


def test_fit_is_the_mean_of_each_bucket_and_the_least_squares_solution():
    w, layer = rng.standard_normal((8, 6)), built(6, 8, buckets=9)
    layer.fit_kernel(w)
    codes = signed_codes(48, 9).reshape(6, 8).T
    signs, buckets = np.where(codes < 9, 1.0, -1.0), codes % 9
    means = [np.mean((signs * w)[buckets == k]) if np.any(buckets == k) else 0 for k in range(9)]
    np.testing.assert_allclose(layer.stored()["bank"], means, rtol=1e-5, atol=1e-7)
    x = rng.standard_normal((30, 8)) @ rng.standard_normal((8, 8))
    metric = Kronecker(x.T @ x, rng.random(6) + 0.1)
    layer.fit_kernel(w, metric)
    design = np.zeros((48, 9))  # the dense way: kernel entries are a linear map of the bank
    design[np.arange(48), buckets.ravel()] = signs.ravel()
    hessian = np.kron(metric.blocks[0][0], np.diag(metric.g))
    dense = np.linalg.lstsq(design.T @ hessian @ design, design.T @ hessian @ w.ravel(), rcond=None)
    np.testing.assert_allclose(layer.stored()["bank"], dense[0], rtol=0.02, atol=1e-3)


def test_file_holds_the_bank_and_no_index(tmp_path):
    layer = built(256, 256, ratio=64)
    assert [w.shape for w in layer.weights] == [(1024,), (256,)]
    model = keras.Sequential([keras.Input((256,)), layer])
    model.save(tmp_path / "hashed.keras")
    assert (tmp_path / "hashed.keras").stat().st_size < 4 * (1024 + 256) + 30_000


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.GradientTape")
def test_gather_is_differentiable_in_a_function():
    import tensorflow as tf

    index = tf.constant([[0, 2], [2, 3]])

    @tf.function
    def gradient(table):
        with tf.GradientTape() as tape:
            tape.watch(table)
            loss = tf.reduce_sum(gather(table, index) * [[1.0, 2.0], [3.0, 4.0]])
        return tape.gradient(loss, table)

    np.testing.assert_array_equal(gradient(tf.ones(4)), [1, 0, 5, 4])
