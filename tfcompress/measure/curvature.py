"""Second derivatives of a model's loss by its kernels, measured on data.

Each function returns `{path: array like the kernel}` in the paths of `tfcompress.walk` (a layer's
second kernel under its own name: `"lstm/lstm_cell/recurrent_kernel"`), of the loss as a mean over
examples, in inference mode. `data` is `(x, y)`, `(x, y, sample_weight)`, a `tf.data.Dataset`, a
`PyDataset` or a generator of batches; where no labels are needed, `x` alone will do. `loss=None`
takes the compiled one with its loss weights.

P weights, n examples; one gradient pass is a forward and a backward over the data.
"""

import contextlib
from unittest import mock

import numpy as np
import tensorflow as tf

from tfcompress.graph.paths import walk
from tfcompress.measure.moments import BLOCK, Moments, can_measure, watch_inputs
from tfcompress.measure.obd_recursion import obd_recursion as obd_recursion
from tfcompress.measure.objective import Objective
from tfcompress.numerics.metric import Diagonal, Kronecker
from tfcompress.utils.batches import batches, check_repeats, passes_over
from tfcompress.utils.progress import progress


def gauss_newton(model, data, loss=None, passes=1, batch_size=32, seed=0, class_weight=None):
    """The diagonal of Gauss-Newton from random signs: the default curvature.

    With `J` the outputs' derivatives and `S S^T` the Hessian of the loss by the outputs, each small
    batch draws signs `r` and adds the square of `g = sum J^T S r`, whose mean is
    `diag(J^T S S^T J)`. Never negative; the same each time for the same seed. In a network that is
    piecewise linear (ReLU) it is the diagonal of the Hessian.

    Cost: `passes` gradient passes. Its relative error falls with the number of batches, as
    `sqrt(2 / batches)`: many small batches, not few large ones.

    Args:
        model: a built `keras.Model`.
        data: see above. Labels are needed only for losses other than cross-entropy and MSE.
        loss: a loss as in `compile` (a list or dict for several outputs), or None for the compiled.
            Cross-entropy and MSE have closed roots; others take `C x C` numbers per example.
        passes: over the data, each with signs of its own.
        batch_size: larger batches are cut to it.
        seed: of the signs.
        class_weight: dict `{class: weight}`, as in `fit`.

    Returns:
        Dict `{path: array like the kernel}`.

    Raises:
        ValueError: no loss is compiled and none given; the loss is no sum over examples; no data.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    >>> gauss_newton(model, np.array([[1.0, 2.0]]), "mse")["out"].round(3).tolist()
    [[2.0], [8.0]]

    Schraudolph, "Fast Curvature Matrix-Vector Products", 2002; Liu et al., "Sophia", 2023 (the
    sampled-label form); Martens, Sutskever, Swersky, "Curvature Propagation", 2012 (random signs).
    """
    objective = Objective(model, loss)

    def squares(x, y, weights, key):
        with _tape(objective) as tape:
            parts = objective.projected(x, y, weights, lambda *args: _signs(*args, key))
            total = tf.add_n(parts)
        return map(tf.square, _gradient(tape, total, objective))

    return objective.mean(squares, passes_over(data, passes, batch_size, class_weight), seed)


def gauss_newton_exact(model, data, loss=None, class_weight=None):
    """The diagonal of Gauss-Newton itself, from the derivatives of each output of each example.

    Cost: a backward for each output number of each example, one by one: small networks, tests.

    Args: see `gauss_newton`.
    """
    objective = Objective(model, loss)

    def squares(x, y, weights, key):
        with _tape(objective, persistent=True) as tape:
            rows = tf.concat(objective.projected(x, y, weights, _each_direction), 0)
        squared = tf.map_fn(
            lambda unit: [tf.square(part) for part in _gradient(tape, rows, objective, unit)],
            tf.eye(tf.size(rows)),
            fn_output_signature=[v.dtype for v in objective.variables],
        )
        return [tf.reduce_sum(part, 0) for part in squared]

    return objective.mean(squares, batches(data, 1, class_weight))


def fisher(model, data, loss=None, class_weight=None):
    """The empirical Fisher diagonal: the mean over examples of the squared gradient. Needs labels.

    Cost: a backward for each example, one by one.

    Args: see `gauss_newton`.
    """
    objective = Objective(model, loss)

    def squares(x, y, weights, key):
        with _tape(objective) as tape:
            total = objective.loss(x, y, weights)
        return map(tf.square, _gradient(tape, total, objective))

    return objective.mean(squares, batches(data, 1, class_weight))


def hutchinson(model, data, loss=None, passes=10, batch_size=256, seed=0, class_weight=None):
    """The Hessian's diagonal as the mean of `v * H v` over signs `v`, drawn anew for each batch.

    Unbiased, of either sign, and noisy: what lies off the diagonal of `H` is its noise, and 100
    passes rank weights worse than one pass of `gauss_newton`. Needs labels.

    Cost: about `2 passes` gradient passes.

    Args: see `gauss_newton`.

    Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1989.
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

    return objective.mean(products, passes_over(data, passes, batch_size, class_weight), seed)


def exact(model, data, loss=None, batch_size=1024, class_weight=None):
    """The Hessian's diagonal itself, a Hessian-vector product for each weight. Needs labels.

    Cost: up to `2 P` gradient passes: small networks, tests.

    Args: see `gauss_newton`; here `batch_size` only bounds the memory.
    """
    objective = Objective(model, loss)

    def diagonal(x, y, weights, key):
        outer, slopes = _slopes(objective, x, y, weights)
        return [
            tf.map_fn(
                lambda place, slope=slope, v=v: _second(outer, slope, v, place),
                tf.range(tf.size(slope)),
                fn_output_signature=slope.dtype,
            )
            for slope, v in zip(slopes, objective.variables, strict=True)
        ]

    return objective.mean(diagonal, batches(data, batch_size, class_weight))


def kronecker(model, data, loss=None, batch_size=256, block=BLOCK, seed=0, class_weight=None):
    """The Kronecker metric of each layer: second moment of its inputs, scale of its outputs.

    `A = mean x x^T` over examples and positions, and with a loss `g_o = sum_i d_io / tr A`, which
    matches the trace of the `gauss_newton` diagonal `d`. Without a loss `g = 1`, which is all that
    rounding or pruning within a layer needs; `g` lets layers and outputs be compared.

    Cost: a forward pass, `fan_in^2` multiply-adds per position and layer, and one gradient pass
    with a loss. Memory: `fan_in^2` numbers per layer (`4096 fan_in` above), 64 MB of patches.

    Args:
        model: a built `keras.Model` of any kind.
        data: see above; labels are not needed, but see `gauss_newton`.
        loss: as in `gauss_newton`; None means no loss, `g = 1`.
        batch_size: larger batches are cut to it.
        block: a larger fan-in is block-diagonal.
        seed, class_weight: of `gauss_newton`.

    Returns:
        Dict `{path: Kronecker}` of the Dense, Conv1D/2D/3D, depthwise and EinsumDense layers, and
        `{path: Diagonal}` of the embeddings. Transposed and separable convolutions, recurrent
        cells, and layers that run only inside a graph of their own are left out; with a loss,
        compressed layers too.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    >>> kronecker(model, np.array([[1.0, 2.0]]))["out"].blocks[0].tolist()
    [[[1.0, 2.0], [2.0, 4.0]]]

    Martens, Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
    2015 (there `g` is a full matrix).
    """
    if loss is not None:
        check_repeats(data, 2)
    layers = {path: layer for path, (layer, _) in walk(model).items() if can_measure(layer)}
    moments = {id(layer): Moments(layer, block) for layer in layers.values()}
    for x, _, _ in progress(batches(data, batch_size), "Measuring inputs"):
        watch_inputs(model, x, layers.values(), lambda layer, x: moments[id(layer)].add(x))
    metrics = {
        path: moments[id(layer)].metric()
        for path, layer in layers.items()
        if moments[id(layer)].count
    }
    if loss is None:
        return metrics
    diagonals = gauss_newton(model, data, loss, seed=seed, class_weight=class_weight)
    return {
        path: _matched(metric, diagonals[path])
        for path, metric in metrics.items()
        if path in diagonals
    }


@contextlib.contextmanager
def _tape(objective, persistent=False):
    with tf.GradientTape(persistent, watch_accessed_variables=False) as tape:
        tape.watch(objective.variables)
        yield tape


def _gradient(tape, target, objective, direction=None):
    """By each kernel, dense (an Embedding's comes as slices)."""
    slopes = tape.gradient(
        target, objective.variables, output_gradients=direction, unconnected_gradients="zero"
    )
    return [tf.convert_to_tensor(slope) for slope in slopes]


def _slopes(objective, x, y, weights):
    """A tape and the gradient under it, to be differentiated once more: reverse over reverse."""
    with _tape(objective, persistent=True) as outer:
        with _tape(objective) as inner, mock.patch.object(tf.nn, "moments", _moments):
            total = objective.loss(x, y, weights)
        slopes = _gradient(inner, total, objective)
    return outer, slopes


def _moments(x, axes, shift=None, keepdims=False, name=None):
    """Mean and variance, to be differentiated twice.

    TensorFlow's own `tf.nn.moments`, under Keras' LayerNormalization and GroupNormalization, stops
    the gradient at the mean: right for the first derivative and silently wrong for the second.
    """
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return (mean if keepdims else tf.squeeze(mean, axes)), variance


def _second(tape, slope, variable, place):
    """An entry of the Hessian's diagonal."""
    unit = tf.reshape(tf.one_hot(place, tf.size(slope), dtype=slope.dtype), tf.shape(slope))
    row = tape.gradient(slope, variable, output_gradients=unit, unconnected_gradients="zero")
    return tf.reshape(tf.convert_to_tensor(row), [-1])[place]


def _signs(shape, number, key):
    """Random signs of a shape; `number` tells apart those of one step."""
    drawn = tf.random.stateless_uniform(shape, key + tf.stack([number, 0]), 0, 2, "int32")
    return tf.cast(2 * drawn - 1, "float32")


def _each_direction(shape, number):
    """All unit vectors of an output of `shape (N, C)`, `(N C, N, C)`."""
    size = tf.reduce_prod(shape)
    return tf.reshape(tf.eye(size), tf.concat([[size], shape], 0))


def _matched(metric, d):
    """The Kronecker metric with the trace, output by output, of a diagonal."""
    if isinstance(metric, Diagonal):  # of an Embedding, whose rows never meet
        return Diagonal(d)
    trace = sum(np.trace(block, axis1=1, axis2=2) for block in metric.blocks)  # (G,)
    g = metric.split(d).sum(1) / np.maximum(trace, np.finfo("float32").tiny)[:, None]
    return Kronecker(metric.blocks, g.reshape(-1), metric.damping)
