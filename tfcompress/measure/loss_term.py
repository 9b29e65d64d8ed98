"""One loss on one output of a model: its values, and a square root of its Hessian.

Letters: b examples, N entries of an output (examples x time steps or pixels), C numbers per entry.
"""

from typing import Any, Self

import keras
import tensorflow as tf

from tfcompress.graph.private_training import LossFunctionWrapper
from tfcompress.utils.label_checks import is_crossentropy
from tfcompress.utils.types import Loss, Tensor


class Term:
    """One loss on one output.

    Args:
        loss: a Keras loss, its name, or a function `(y, z)`.
        weight: the loss weight of this output.

    Attributes:
        reduction: what becomes of the values of all entries, as in Keras.
    """

    def __init__(self, loss: Loss, weight: Tensor) -> None:
        loss = crossentropy if is_crossentropy(loss) else keras.losses.get(loss)
        self.weight = float(weight)
        self.loss = loss if isinstance(loss, keras.losses.Loss) else LossFunctionWrapper(loss)
        self.reduction = self.loss.reduction
        self.options = getattr(self.loss, "_fn_kwargs", {})
        self.logits = self.options.get("from_logits", False)
        self.axis = self.options.get("axis", -1)
        root = CLOSED_ROOTS.get(getattr(self.loss, "fn", None), Term._general)
        # the closed roots count every entry, an ignored class too
        self.root_of = Term._general if self.options.get("ignore_class") is not None else root

    def entries(self, y: Tensor, z: Tensor) -> tuple[Self, Tensor, Tensor]:
        """The term as it is for a table of entries, with their labels and that table `(N, C)`.

        An entry is what the loss gives one value for: a position of the output, and the numbers
        along the loss's axis. A loss with one value for a whole example has examples as entries.

        Raises:
            ValueError: the loss gives one value for all examples together.
        """
        y = None if y is None else tf.cast(y, "float32")  # as Keras does
        z = tf.cast(z, "float32")
        rank = len(z.shape)
        if not isinstance(self.axis, int):
            return self._whole(y, z, self._value_rank(y, z))
        if self.axis not in (-1, rank - 1):
            if y is not None and len(y.shape) == rank:
                y = tf.squeeze(y, self.axis) if y.shape[self.axis] == 1 else _last(y, self.axis)
            z = _last(z, self.axis)
        elif self.root_of is Term._general and rank > 2 and self._value_rank(y, z) == 1:
            return self._whole(y, z, 1)
        leading = max(rank - 1, 1)  # the axes over which entries are counted
        if y is not None:
            y = tf.reshape(y, tf.concat([[-1], tf.shape(y)[leading:]], 0))
        return self, y, tf.reshape(z, [-1, z.shape[-1] if rank > 1 else 1])

    def kept(self, y: Tensor) -> Any:
        """Whether each of the labels of `entries` counts, `(N,)`; None where all do."""
        ignored = self.options.get("ignore_class")
        if ignored is None or y is None:
            return None
        return tf.reshape(tf.not_equal(y, tf.cast(ignored, y.dtype)), [-1])

    def _value_rank(self, y, z):
        self._check_labels(y)
        return len(self.loss.call(y, z).shape)

    def _whole(self, y, z, value_rank):
        if value_rank != 1:
            raise ValueError(
                "A loss must give one value for each example (or each time step or pixel), and "
                f"not one for all of them. Received: {self.loss} for an output of shape {z.shape}"
            )
        return _Whole(self, tf.shape(z)), y, tf.reshape(z, [tf.shape(z)[0], -1])

    def _check_labels(self, y):
        if y is None:
            raise ValueError(f"The loss {self.loss} needs labels: give `data` as `(x, y)`.")

    def values(self, y: Tensor, z: Tensor) -> Any:
        """The loss of each entry, `(N,)`."""
        self._check_labels(y)
        if self.axis == -1 or not isinstance(self.axis, int):
            values = self.loss.call(y, z)
        else:  # its axis is the last one of the table
            values = self.loss.fn(y, z, **self.options | {"axis": -1})
        if len(values.shape) != 1:
            raise ValueError(
                "A loss must give one value for each example (or each time step or pixel). "
                f"Received: {self.loss}, which gives values of shape {values.shape} for an output "
                f"of shape {z.shape}"
            )
        return tf.cast(values, "float32")

    def root(self, y: Tensor, z: Tensor, r: Tensor) -> Any:
        """`S r`, where `S S^T` is the Hessian of the loss by `z`.

        If the model gives probabilities, it is the Hessian that is expected when the labels are
        drawn from them, which is the Hessian by the logits.

        Args:
            y: labels.
            z: an output, `(N, C)`.
            r: directions, `(..., N, C)`.
        """
        return self.root_of(self, y, z, r)

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

    def _softmax_or_sigmoid(self, y, z, r):
        return (Term._sigmoid if z.shape[-1] == 1 else Term._softmax)(self, y, z, r)

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


class _Whole(Term):
    """A term whose entries are examples: it gives the loss the output in its own shape.

    Args:
        term: the term.
        shape: that of the output.
    """

    def __init__(self, term: Term, shape: Tensor) -> None:
        vars(self).update(vars(term))
        self.root_of = Term._general
        self.shape = shape

    def values(self, y: Tensor, z: Tensor) -> Any:
        return super().values(y, tf.reshape(z, self.shape))


def _last(array, axis):
    """An axis moved to the end."""
    order = [i for i in range(len(array.shape)) if i != axis % len(array.shape)]
    return tf.transpose(array, [*order, axis % len(array.shape)])


def crossentropy(y: Tensor, z: Tensor) -> Tensor:
    """The cross-entropy that Keras means by "crossentropy": the shapes decide which one."""
    if z.shape[-1] == 1:
        return keras.losses.binary_crossentropy(y, z)
    if len(y.shape) < len(z.shape) or y.shape[-1] == 1:
        return keras.losses.sparse_categorical_crossentropy(y, z)
    return keras.losses.categorical_crossentropy(y, z)


CLOSED_ROOTS = {
    crossentropy: Term._softmax_or_sigmoid,
    keras.losses.sparse_categorical_crossentropy: Term._softmax,
    keras.losses.categorical_crossentropy: Term._softmax,
    keras.losses.binary_crossentropy: Term._sigmoid,
    keras.losses.mean_squared_error: Term._square,
}
