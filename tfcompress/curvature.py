"""Second derivatives of a model's loss by its kernels, measured on data.

Each function returns `{path: array like the kernel}` in the paths of `tfcompress.walk` (a layer's
second kernel under its own name: `"lstm/lstm_cell/recurrent_kernel"`), of the loss as a mean over
examples, in inference mode. `data` is `(x, y)`, `(x, y, sample_weight)`, a `tf.data.Dataset`, a
`PyDataset` or a generator of batches; where no labels are needed, `x` alone will do. `loss=None`
takes the compiled one with its loss weights.

P weights, n examples; one gradient pass is a forward and a backward over the data.
"""

import numpy as np
import tensorflow as tf

from .metric import Diagonal, Kronecker
from .moments import BLOCK, can_measure, layer_inputs, measure
from .objective import Objective, batches
from .progress import progress
from .walk import walk


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
    >>> curvature = gauss_newton(model, np.array([[1.0, 2.0]]), "mse")
    >>> curvature["out"].ravel().tolist()
    [2.0, 8.0]

    Schraudolph, "Fast Curvature Matrix-Vector Products", 2002; Liu et al., "Sophia", 2023 (the
    sampled-label form); Martens, Sutskever, Swersky, "Curvature Propagation", 2012 (random signs).
    """
    if passes > 1 and hasattr(data, "__next__"):
        raise ValueError("A generator can be used only once. Give arrays or a dataset, or passes=1.")
    objective = Objective(model, loss)
    sums = _zeros(objective)

    @tf.function(reduce_retracing=True)
    def add(x, y, weights, key):
        def signs(shape):
            drawn = tf.random.stateless_uniform(shape, key, 0, 2, "int32")
            return tf.cast(2 * drawn - 1, "float32")

        with _tape(objective) as tape:
            total = objective.projected(x, y, weights, signs)
        _add_squares(sums, tape.gradient(total, objective.variables))

    def steps():
        for number in range(passes):
            for step, batch in enumerate(batches(data, batch_size, class_weight)):
                yield batch, tf.constant([seed + 7919 * number, step])

    return _mean(objective, sums, steps(), add, passes)
