import keras
import numpy as np
import pytest
import scipy.linalg
from keras import ops

from tfcompress.layers.shared.circular_convolution import circular

SIZES = [(4, 1, 1, 8), (3, 1, 1, 7), (2, 1, 1, 1), (5, 3, 2, 4), (4, 2, 3, 5), (1, 2, 2, 1)]


def arrays(rng, b, p, q, n):
    shapes = (b, p, n), (q, p, n), (b, q, n)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def matrix(r):
    """The block-circulant matrix, one block after the other."""
    return np.block([[scipy.linalg.circulant(block) for block in row] for row in r])


@pytest.mark.parametrize("b, p, q, n", SIZES)
def test_is_the_product_with_the_matrix(b, p, q, n):
    rng = np.random.default_rng(0)
    x, r, _ = arrays(rng, b, p, q, n)
    expected = (x.reshape(b, -1) @ matrix(r).T).reshape(b, q, n)
    np.testing.assert_allclose(circular(ops.array(x), ops.array(r)), expected, atol=1e-5)


def gradients(function, *operands):
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function, argnums=range(len(operands)))(*operands)
    import tensorflow as tf

    operands = [tf.constant(a) for a in operands]
    with tf.GradientTape() as tape:
        tape.watch(operands)
        value = function(*operands)
    return tape.gradient(value, operands)


@pytest.mark.parametrize("b, p, q, n", SIZES)
def test_gradient_is_that_of_the_matrix(b, p, q, n):
    rng = np.random.default_rng(0)
    x, r, to_y = arrays(rng, b, p, q, n)
    to_x, to_r = gradients(lambda *a: ops.sum(to_y * circular(*a)), x, r)
    expected = (to_y.reshape(b, -1) @ matrix(r)).reshape(b, p, n)
    np.testing.assert_allclose(to_x, expected, atol=1e-5)
    for place in np.ndindex(r.shape):  # the matrix is linear in r
        one = np.zeros_like(r)
        one[place] = 1
        expected = np.sum(to_y.reshape(b, -1) * (x.reshape(b, -1) @ matrix(one).T))
        np.testing.assert_allclose(to_r[place], expected, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.GradientTape")
@pytest.mark.parametrize("b, p, q, n", [(4, 1, 1, 8), (5, 3, 2, 4)])
def test_second_derivatives_see_the_kept_transforms(b, p, q, n):
    """Of sum(y^2) / 2, which is quadratic in r: the Hessian times r is the gradient."""
    rng = np.random.default_rng(0)
    import tensorflow as tf

    x, r, _ = map(tf.constant, arrays(rng, b, p, q, n))
    with tf.GradientTape() as outer:
        outer.watch(r)
        with tf.GradientTape() as inner:
            inner.watch(r)
            loss = tf.reduce_sum(circular(x, r) ** 2) / 2
        first = inner.gradient(loss, r)
        along = tf.reduce_sum(first * tf.stop_gradient(r))
    np.testing.assert_allclose(outer.gradient(along, r), first, rtol=1e-4, atol=1e-4)
