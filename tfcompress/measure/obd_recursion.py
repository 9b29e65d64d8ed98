"""The recursion of the Optimal Brain Damage paper."""

import keras
import numpy as np
import tensorflow as tf

from tfcompress.measure.objective import Objective
from tfcompress.utils.batches import batches
from tfcompress.utils.types import ClassWeight, Data, Loss

ELEMENTWISE = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
)
SHAPES_ONLY = (keras.layers.InputLayer, keras.layers.Flatten, keras.layers.Dropout)


def obd_recursion(
    model: keras.Model,
    data: Data,
    loss: Loss = None,
    batch_size: int = 256,
    class_weight: ClassWeight = None,
) -> dict[str, np.ndarray]:
    """Estimates the Hessian's diagonal by the recursion of LeCun, Denker and Solla.

    With `a = w x + b` and an activation `f`, from the outputs back to the inputs,
    `d2L/da_i = f'(a_i)^2 sum_o w_io^2 d2L/da_o + f''(a_i) dL/dx_i` and
    `d2L/dw_io = x_i^2 d2L/da_o`. This is exact except for the cross terms between the outputs of a
    layer, which it leaves out. It is here for history and for tests: `gauss_newton` ranks weights
    better and takes any model.

    Cost: about 2 gradient passes.

    Args: see `gauss_newton`; labels are needed, and larger batches are cut to `batch_size`.

    Raises:
        ValueError: the model is not a chain of Dense layers and elementwise activations.

    Reference: LeCun et al., "Optimal Brain Damage", 1990.
    """
    objective = Objective(model, loss)
    chain = _chain(model)

    def recursion(x, y, weights, key):
        inputs = _forward(chain, x)
        term, labels, z, w = next(objective.parts(x, y, weights))
        d1 = w[:, None] * _slope(lambda z: term.values(labels, z), z)
        directions = tf.eye(tf.shape(z)[1])[:, None]
        d2 = w[:, None] * tf.reduce_sum(tf.square(term.root(labels, z, directions)), 0)
        found = []
        for part, x_in in zip(reversed(chain), reversed(inputs), strict=True):
            if isinstance(part, keras.layers.Dense):
                kernel = tf.cast(part.kernel.value, "float32")
                found.append(tf.matmul(tf.square(x_in), d2, transpose_a=True))
                d2 = tf.matmul(d2, tf.square(kernel), transpose_b=True)
                d1 = tf.matmul(d1, kernel, transpose_b=True)
            else:
                first = lambda a, f=part: _slope(f, a)  # noqa: E731
                d2 = tf.square(first(x_in)) * d2 + _slope(first, x_in) * d1
                d1 = first(x_in) * d1
        return found[::-1]

    return objective.mean(recursion, batches(model, data, batch_size, class_weight))


def _chain(model):
    """The Dense layers of a model, as linear maps, and the elementwise functions between them."""
    chain = []
    for layer in model.layers:
        if (
            isinstance(layer, keras.layers.Dense)
            and layer.activation is not keras.activations.softmax
        ):
            chain.append(layer)
            if layer.activation is not keras.activations.linear:
                chain.append(layer.activation)
        elif isinstance(layer, ELEMENTWISE):
            chain.append(layer)
        elif not isinstance(layer, SHAPES_ONLY):
            raise ValueError(
                "The recursion needs a chain of Dense layers and elementwise activations, with "
                f"logits at its end. Received: {layer} of type {type(layer).__name__}"
            )
    return chain


def _forward(chain, x):
    """What goes into each part of a chain."""
    h = tf.reshape(tf.cast(x, "float32"), [tf.shape(x)[0], -1])
    inputs = []
    for part in chain:
        inputs.append(h)
        if isinstance(part, keras.layers.Dense):
            h = tf.matmul(h, tf.cast(part.kernel.value, "float32"))
            h = h if part.bias is None else h + tf.cast(part.bias.value, "float32")
        else:
            h = part(h)
    return inputs


def _slope(function, a):
    """The derivative of an elementwise function."""
    with tf.GradientTape() as tape:
        tape.watch(a)
        total = tf.reduce_sum(function(a))
    return tape.gradient(total, a, unconnected_gradients="zero")
