"""Diagonals of a model's curvature: second derivatives of its loss by its kernels, on data.

Each function returns `{path: array of the kernel's shape}`. The paths are those of
`tfcompress.walk`; a layer's second kernel is listed under its own name, as in
`"lstm/lstm_cell/recurrent_kernel"`. The loss is the mean over examples, in inference mode. `data`
is `(x, y)`, `(x, y, sample_weight)`, a `tf.data.Dataset`, a `PyDataset` or a generator of batches;
where no labels are needed, `x` alone is enough. `loss=None` takes the compiled loss with its loss
weights.

Letters: P weights, C numbers per output. A gradient pass is a forward and a backward pass over the
data.
"""

import contextlib
import threading
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from tfcompress.measure.obd_recursion import obd_recursion as obd_recursion
from tfcompress.measure.objective import Objective
from tfcompress.utils.batches import batches, number_of_batches, passes_over
from tfcompress.utils.progress import showing
from tfcompress.utils.types import ClassWeight, Data, Loss, Verbose

_ONE_AT_A_TIME = threading.RLock()  # threads that put another function in the place of `moments`


def gauss_newton(
    model: keras.Model,
    data: Data,
    loss: Loss = None,
    passes: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    class_weight: ClassWeight = None,
    verbose: Verbose = "auto",
) -> dict[str, np.ndarray]:
    """Estimates the diagonal of the Gauss-Newton matrix with random signs: the default curvature.

    `J` is the derivative of the outputs and `S S^T` the Hessian of the loss by the outputs. Each
    small batch draws random signs `r` and adds the square of `g = sum J^T S r`, whose expectation
    is `diag(J^T S S^T J)`. The result is never negative, and the same seed gives the same result.
    In a network that is piecewise linear (ReLU) it estimates the diagonal of the Hessian.

    Cost: `passes` gradient passes. The relative error falls with the number of batches, as
    `sqrt(2 / batches)`, so many small batches are better than few large ones.

    Args:
        model: a built `keras.Model`.
        data: arrays, a dataset or a generator, as `fit` takes them. Labels are needed only for
            losses other than cross-entropy and mean squared error.
        loss: a loss as in `compile` (a list or dict for several outputs), or None for the compiled
            one. Cross-entropy and mean squared error have roots `S` in closed form; other losses
            need `C x C` numbers per example.
        passes: number of passes over the data, each with new random signs.
        batch_size: larger batches are cut to this size.
        seed: seed of the random signs.
        class_weight: `{class: weight}`, as in `fit`; sample weights are multiplied by them.
        verbose: as in Keras' `fit`; see `swap`.

    Returns:
        Dict `{path: array of the kernel's shape}`.

    Raises:
        ValueError: no loss is compiled and none is given; the loss does not give one value for
            each example; there are no data.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    >>> gauss_newton(model, np.array([[1.0, 2.0]]), "mse")["out"].round(3).tolist()
    [[2.0], [8.0]]

    References: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient
    Descent", 2002; Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language
    Model Pre-training", 2023 (samples labels); Martens et al., "Estimating the Hessian by
    Back-propagating Curvature", 2012 (random signs).
    """
    objective = Objective(model, loss)

    def squares(x, y, weights, key):
        with _tape(objective) as tape:
            parts = objective.projected(x, y, weights, lambda *args: _signs(*args, key))
            total = tf.add_n(parts)
        return map(tf.square, _gradient(tape, total, objective))

    steps = passes_over(model, data, passes, batch_size, class_weight)
    with showing(verbose):
        return objective.mean(squares, steps, seed, number_of_batches(data, batch_size, passes))


def gauss_newton_exact(
    model: keras.Model,
    data: Data,
    loss: Loss = None,
    class_weight: ClassWeight = None,
    verbose: Verbose = "auto",
) -> dict[str, np.ndarray]:
    """Computes the diagonal of the Gauss-Newton matrix exactly, output by output.

    Cost: one backward pass for each number in each output of each example. Meant for small networks
    and for tests.

    Args: see `gauss_newton`.
    """
    objective = Objective(model, loss)

    def squares(x, y, weights, key):
        with _tape(objective, persistent=True) as tape:
            rows = tf.concat(objective.projected(x, y, weights, _unit_vectors), 0)
        squared = tf.map_fn(
            lambda unit: [tf.square(part) for part in _gradient(tape, rows, objective, unit)],
            tf.eye(tf.size(rows)),
            fn_output_signature=[v.dtype for v in objective.variables],
        )
        return [tf.reduce_sum(part, 0) for part in squared]

    with showing(verbose):
        steps = batches(model, data, 1, class_weight)
        return objective.mean(squares, steps, total=number_of_batches(data, 1))


def fisher(
    model: keras.Model,
    data: Data,
    loss: Loss = None,
    class_weight: ClassWeight = None,
    verbose: Verbose = "auto",
) -> dict[str, np.ndarray]:
    """Computes the diagonal of the empirical Fisher matrix: the mean squared gradient of examples.

    It needs labels.

    Cost: one backward pass for each example.

    Args: see `gauss_newton`.
    """
    objective = Objective(model, loss)

    def squares(x, y, weights, key):
        with _tape(objective) as tape:
            total = objective.loss(x, y, weights)
        return map(tf.square, _gradient(tape, total, objective))

    with showing(verbose):
        steps = batches(model, data, 1, class_weight)
        return objective.mean(squares, steps, total=number_of_batches(data, 1))


def hutchinson(
    model: keras.Model,
    data: Data,
    loss: Loss = None,
    passes: int = 10,
    batch_size: int = 256,
    seed: int = 0,
    class_weight: ClassWeight = None,
    verbose: Verbose = "auto",
) -> dict[str, np.ndarray]:
    """Estimates the diagonal of the Hessian as the mean of `v * H v` over random signs `v`.

    Each batch draws new signs. The estimate is unbiased and may be negative. It is noisy, because
    the entries off the diagonal of `H` do not cancel in a single draw: 100 passes rank weights
    worse than one pass of `gauss_newton`. It needs labels.

    Cost: about `2 passes` gradient passes.

    Args: see `gauss_newton`.

    Reference: Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix for
    Laplacian Smoothing Splines", 1989.
    """
    objective = Objective(model, loss)

    def products(x, y, weights, key):
        outer, slopes = _slopes(objective, x, y, weights)
        signs = [
            tf.cast(_signs(v.shape, i, key), v.dtype) for i, v in enumerate(objective.variables)
        ]
        return [
            v * product
            for v, product in zip(signs, _gradient(outer, slopes, objective, signs), strict=True)
        ]

    steps = passes_over(model, data, passes, batch_size, class_weight)
    with showing(verbose):
        return objective.mean(products, steps, seed, number_of_batches(data, batch_size, passes))


def exact(
    model: keras.Model,
    data: Data,
    loss: Loss = None,
    batch_size: int = 1024,
    class_weight: ClassWeight = None,
    verbose: Verbose = "auto",
) -> dict[str, np.ndarray]:
    """Computes the diagonal of the Hessian exactly, by one Hessian-vector product for each weight.

    It needs labels.

    Cost: up to `2 P` gradient passes. Meant for small networks and for tests.

    Args: see `gauss_newton`; here `batch_size` only bounds the memory.
    """
    objective = Objective(model, loss)

    def diagonal(x, y, weights, key):
        outer, slopes = _slopes(objective, x, y, weights)
        return [
            tf.map_fn(
                lambda index, slope=slope, v=v: _second_derivative(outer, slope, v, index),
                tf.range(tf.size(slope)),
                fn_output_signature=slope.dtype,
            )
            for slope, v in zip(slopes, objective.variables, strict=True)
        ]

    steps = batches(model, data, batch_size, class_weight)
    with showing(verbose):
        return objective.mean(diagonal, steps, total=number_of_batches(data, batch_size))


@contextlib.contextmanager
def _tape(objective, persistent=False):
    with tf.GradientTape(persistent, watch_accessed_variables=False) as tape:
        tape.watch(objective.variables)
        yield tape


def _gradient(tape, target, objective, direction=None):
    """The gradient by each kernel, as dense tensors: that of an Embedding comes as slices."""
    slopes = tape.gradient(
        target, objective.variables, output_gradients=direction, unconnected_gradients="zero"
    )
    return [tf.convert_to_tensor(slope) for slope in slopes]


def _slopes(objective, x, y, weights):
    """The gradient, and the tape under it that differentiates it once more."""
    with _tape(objective, persistent=True) as outer:
        with _tape(objective) as inner, _twice_differentiable_moments():
            total = objective.loss(x, y, weights)
        slopes = _gradient(inner, total, objective)
    return outer, slopes


@contextlib.contextmanager
def _twice_differentiable_moments():
    """Keras' normalization calls `_mean_and_variance` in this thread; others see no change."""
    with _ONE_AT_A_TIME:
        own, original = threading.get_ident(), tf.nn.moments

        def moments(*args, **kwargs):
            mine = threading.get_ident() == own
            return (_mean_and_variance if mine else original)(*args, **kwargs)

        with mock.patch.object(tf.nn, "moments", moments):
            yield


def _mean_and_variance(x, axes, shift=None, keepdims=False, name=None):
    """Mean and variance in a form that can be differentiated twice.

    `tf.nn.moments`, which Keras' LayerNormalization and GroupNormalization call, stops the gradient
    at the mean. That is right for the first derivative and silently wrong for the second.
    """
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return (mean if keepdims else tf.squeeze(mean, axes)), variance


def _second_derivative(tape, slope, variable, index):
    """One entry of the Hessian's diagonal."""
    unit = tf.reshape(tf.one_hot(index, tf.size(slope), dtype=slope.dtype), tf.shape(slope))
    row = tape.gradient(slope, variable, output_gradients=unit, unconnected_gradients="zero")
    return tf.reshape(tf.convert_to_tensor(row), [-1])[index]


def _signs(shape, number, key):
    """Random signs of a shape; `number` makes the draws within one step differ."""
    drawn = tf.random.stateless_uniform(
        shape, key + tf.constant([number, 0], "int64"), 0, 2, "int32"
    )
    return tf.cast(2 * drawn - 1, "float32")


def _unit_vectors(shape, number):
    """All unit vectors of an output of `shape (N, C)`: an array `(N C, N, C)`."""
    size = tf.reduce_prod(shape)
    return tf.reshape(tf.eye(size), tf.concat([[size], shape], 0))
