"""One loss on one output of a model: its values, and a square root of its Hessian.

Letters: N entries of an output (examples x time steps or pixels), C numbers per entry.
"""

from typing import Any

import keras
import tensorflow as tf

from tfcompress.graph.private_keras import LossFunctionWrapper
from tfcompress.utils.types import Loss, Tensor


class Term:
    """One loss on one output.

    Args:
        loss: a Keras loss, its name, or a function `(y, z)` with one value per entry.
        weight: the loss weight of this output.
    """

    def __init__(self, loss: Loss, weight: Tensor) -> None:
        loss = keras.losses.get(loss)
        self.weight = float(weight)
        self.loss = loss if isinstance(loss, keras.losses.Loss) else LossFunctionWrapper(loss)
        config = getattr(self.loss, "_fn_kwargs", {})
        self.logits = config.get("from_logits", False)
        root = CLOSED_ROOTS.get(getattr(self.loss, "fn", None), Term._general)
        # the closed roots count every entry, an ignored class too
        self._root = Term._general if config.get("ignore_class") is not None else root

    def values(self, y: Tensor, z: Tensor) -> Any:
        """The loss of each entry, `(N,)`."""
        if y is None:
            raise ValueError(f"The loss {self.loss} needs labels: give `data` as `(x, y)`.")
        values = tf.cast(self.loss.call(y, z), "float32")
        if len(values.shape) != 1:
            raise ValueError(
                "A loss must give one value for each example (or each time step or pixel). "
                f"Received: {self.loss}, which gives values of shape {values.shape} for an output "
                f"of shape {z.shape}"
            )
        return values

    def root(self, y: Tensor, z: Tensor, r: Tensor) -> Any:
        """`S r`, where `S S^T` is the Hessian of the loss by `z`.

        If the model gives probabilities, it is the Hessian that is expected when the labels are
        drawn from them, which is the Hessian by the logits.

        Args:
            y: labels.
            z: an output, `(N, C)`.
            r: directions, `(..., N, C)`.
        """
        return self._root(self, y, z, r)

    def _softmax(self, y, z, r):
        if not self.logits:
            return r / tf.sqrt(tf.maximum(z, keras.backend.epsilon()))
        p = tf.nn.softmax(z)
        u = tf.sqrt(p) * r
        return u - p * tf.reduce_sum(u, -1, keepdims=True)

    def _sigmoid(self, y, z, r):
        width = tf.cast(tf.shape(z)[-1], "float32")
        p = tf.sigmoid(z) if self.logits else z
        spread = tf.sqrt(tf.maximum(p * (1 - p), keras.backend.epsilon() ** 2) / width)
        return spread * r if self.logits else r / (spread * width)

    def _square(self, y, z, r):
        return tf.sqrt(2.0 / tf.cast(tf.shape(z)[-1], "float32")) * r

    def _general(self, y, z, r):
        """From the Hessian itself, `C x C` for each entry; negative curvature counts as zero."""
        with tf.GradientTape() as outer:
            outer.watch(z)
            with tf.GradientTape() as inner:
                inner.watch(z)
                total = tf.reduce_sum(self.values(y, z))
            slope = inner.gradient(total, z, unconnected_gradients="zero")
        hessian = outer.batch_jacobian(slope, z, unconnected_gradients="zero")
        curved, axes = tf.linalg.eigh(hessian)
        return tf.einsum("nij,...nj->...ni", axes, tf.sqrt(tf.maximum(curved, 0)) * r)


CLOSED_ROOTS = {
    keras.losses.sparse_categorical_crossentropy: Term._softmax,
    keras.losses.categorical_crossentropy: Term._softmax,
    keras.losses.binary_crossentropy: Term._sigmoid,
    keras.losses.mean_squared_error: Term._square,
}
