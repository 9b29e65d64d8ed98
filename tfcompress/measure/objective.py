"""A model's loss as second-order estimators need it: by example, and with a root of its Hessian.

Letters: b examples, e entries of an example (time steps, pixels), N = b e, C numbers per entry.
"""

import keras
import numpy as np
import tensorflow as tf
from keras.src.losses.losses import LossFunctionWrapper

from tfcompress.graph.paths import walk
from tfcompress.utils.batches import batches
from tfcompress.utils.progress import progress

KERNELS = ("kernel", "embeddings", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel")


def kernels(model) -> dict[str, keras.Variable]:
    """The weights of a model that its layers multiply or look up, by path, frozen ones too.

    A layer's `kernel` (or `embeddings`) has the layer's own path; any other is named after it:
    `"lstm/lstm_cell"` and `"lstm/lstm_cell/recurrent_kernel"`, `"conv/pointwise_kernel"`.
    Compressed layers, whose kernel is computed, are not listed.
    """
    found, seen = {}, set()
    for path, (layer, _) in walk(model).items():
        for name in KERNELS:
            variable = getattr(layer, name, None)
            if not isinstance(variable, keras.Variable) or id(variable) in seen:
                continue
            if keras.backend.is_float_dtype(variable.dtype):
                seen.add(id(variable))
                found[path if name in KERNELS[:2] else f"{path}/{name}"] = variable
    if not found:
        raise ValueError(
            "The model has no kernels to take the curvature of; if it is not built yet, call it on "
            f"an input first. Received: {model}"
        )
    return found


class Objective:
    """The loss of a model on batches, as a sum over examples, in inference mode.

    An example counts with its sample weight and the mean over its entries, and outputs with their
    loss weights; `sum over examples / number of examples` is what Keras calls the loss. Penalties
    of regularizers and `add_loss` take no part.

    Args:
        model: a built model.
        loss: as in `compile`, or None for the compiled one.
    """

    def __init__(self, model, loss=None):
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "The curvature of a loss is taken with TensorFlow. Set KERAS_BACKEND=tensorflow. "
                f"Received: the backend {keras.backend.backend()!r}"
            )
        self.kernels = kernels(model)
        self.model = model
        self.variables = [variable.value for variable in self.kernels.values()]
        weights = None
        if loss is None:
            loss, weights = _compiled(model)
        self.terms = [
            None if one is None else Term(one, 1.0 if weight is None else weight)
            for one, weight in zip(self._spread(loss), self._spread(weights), strict=True)
        ]

    def loss(self, x, y, weights):
        """The loss summed over the examples of a batch."""
        return self.total(self.parts(x, y, weights))

    def total(self, parts):
        """The loss of `parts`, summed over the examples of a batch."""
        return tf.add_n([tf.reduce_sum(w * term.values(y, z)) for term, y, z, w in parts])

    def projected(self, x, y, weights, draw):
        """`sum u z` of each output `z`, where `u = S r` is constant.

        `S S^T` is the Hessian of the loss by `z`. The gradient of the sum is
        `J^T S r`: with `E[r r^T] = 1`, a draw of the square root of Gauss-Newton.

        Args:
            draw: called with the shape `(N, C)` of an output as a table, and the output's number;
                returns `r`, `(..., N, C)`, whose leading axes are kept.
        """
        sums = []
        for number, (term, labels, z, w) in enumerate(self.parts(x, y, weights)):
            r = draw(tf.shape(z), number)
            u = tf.sqrt(w)[:, None] * term.root(labels, tf.stop_gradient(z), r)
            sums.append(tf.reduce_sum(tf.stop_gradient(u) * z, [-2, -1]))
        return sums

    def mean(self, contribution, steps, seed=0) -> dict[str, np.ndarray]:
        """The mean over examples of what batches contribute to the arrays of the kernels.

        Args:
            contribution: called in a graph as `contribution(x, y, weights, key)`; returns a sum
                over examples for each kernel. `key` seeds stateless random numbers.
            steps: batches `(x, y, weights)`.
            seed: of the keys.
        """
        sums = [tf.Variable(tf.zeros(v.shape, "float32")) for v in self.variables]

        def add(x, y, weights, key):
            for total, part in zip(sums, contribution(x, y, weights, key), strict=True):
                total.assign_add(tf.reshape(tf.cast(part, "float32"), total.shape))

        count, graph = 0, None
        for step, batch in enumerate(progress(steps, "Measuring curvature")):
            batch = keras.tree.map_structure(_tensor, batch)
            key = tf.constant([1000 * seed, step])
            if graph is None:  # one trace for batches of all sizes
                specs = keras.tree.map_structure(_any_size, batch)
                graph = tf.function(add, autograph=False).get_concrete_function(*specs, key)
            graph(*batch, key)
            count += int(keras.tree.flatten(batch)[0].shape[0])
        return {path: s.numpy() / count for path, s in zip(self.kernels, sums, strict=True)}

    def parts(self, x, y, weights):
        """`(term, labels (N, ...), z (N, C), weight (N,))` of each output that has a loss."""
        return self.parts_of(keras.tree.flatten(self.model(x, training=False)), y, weights)

    def parts_of(self, outputs, y, weights):
        """The same, from a list of the model's outputs."""
        spread = zip(self.terms, outputs, self._spread(y), self._spread(weights), strict=True)
        for term, z, labels, w in spread:
            if term is None:
                continue
            leading = max(len(z.shape) - 1, 1)  # axes that count entries
            width = z.shape[-1] if len(z.shape) > 1 else 1
            table = tf.reshape(tf.cast(z, "float32"), [-1, width])
            if labels is not None:
                labels = tf.cast(labels, "float32")  # as Keras does
                labels = tf.reshape(labels, tf.concat([[-1], tf.shape(labels)[leading:]], 0))
            w = _entry_weights(w, z, tf.shape(table)[0])
            yield term, labels, table, w * term.weight

    def _spread(self, value) -> list:
        """One value for each output."""
        names = self._names()
        if isinstance(value, dict):
            return [value.get(name) for name in names]
        if isinstance(value, (list, tuple)):
            return list(value)
        return [value] * len(names)

    def _names(self):
        output = getattr(self.model, "output", None)  # a subclassed model has no graph
        if isinstance(output, dict):
            return keras.tree.flatten({name: name for name in output})
        return getattr(self.model, "output_names", ["output"])


def mean_loss(model, data, loss=None, batch_size=256) -> float:
    """The loss of a model on data, a mean over examples, in inference mode.

    Args:
        model: a built model.
        data: as in `tfcompress.curvature`.
        loss: as in `compile`, or None for the compiled one.
        batch_size: larger batches are cut to it.
    """
    objective, total, count = Objective(model, loss), 0.0, 0
    for x, y, weights in batches(data, batch_size):
        total += float(objective.loss(x, y, weights))
        count += len(keras.tree.flatten(x)[0])
    return total / count


class Term:
    """One loss on one output.

    Args:
        loss: a Keras loss, its name, or a function `(y, z)` with one value per entry.
        weight: of this output among the others.
    """

    def __init__(self, loss, weight):
        loss = keras.losses.get(loss)
        self.weight = float(weight)
        self.loss = loss if isinstance(loss, keras.losses.Loss) else LossFunctionWrapper(loss)
        config = getattr(self.loss, "_fn_kwargs", {})
        self.logits = config.get("from_logits", False)
        root = ROOTS.get(getattr(self.loss, "fn", None), Term._general)
        self._root = Term._general if config.get("ignore_class") is not None else root

    def values(self, y, z):
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

    def root(self, y, z, r):
        """`S r`, like `z (N, C)` or with more leading axes; `S S^T` is the Hessian of the loss.

        For probabilities it is the one expected under them, which is that of their logits.
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
        """From the Hessian itself, `C x C` for each entry; directions that curve down are left."""
        with tf.GradientTape() as outer:
            outer.watch(z)
            with tf.GradientTape() as inner:
                inner.watch(z)
                total = tf.reduce_sum(self.values(y, z))
            slope = inner.gradient(total, z, unconnected_gradients="zero")
        hessian = outer.batch_jacobian(slope, z, unconnected_gradients="zero")
        curved, axes = tf.linalg.eigh(hessian)
        return tf.einsum("nij,...nj->...ni", axes, tf.sqrt(tf.maximum(curved, 0)) * r)


ROOTS = {
    keras.losses.sparse_categorical_crossentropy: Term._softmax,
    keras.losses.categorical_crossentropy: Term._softmax,
    keras.losses.binary_crossentropy: Term._sigmoid,
    keras.losses.mean_squared_error: Term._square,
}


def _tensor(value):
    return None if value is None else tf.convert_to_tensor(value)


def _any_size(tensor):
    return None if tensor is None else tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def _entry_weights(weights, z, entries):
    """Sample weights and mask of an output by entry, `(N,)`; those of an example average 1."""
    b = tf.shape(z)[0]
    w = tf.ones([b, 1]) if weights is None else tf.cast(tf.reshape(weights, [b, -1]), "float32")
    w = tf.reshape(tf.repeat(w, entries // tf.size(w), axis=1), [-1])
    mask = getattr(z, "_keras_mask", None)
    if mask is not None:  # as Keras does, the mean over what is left
        mask = tf.reshape(tf.cast(mask, "float32"), [-1])
        w *= mask * tf.math.divide_no_nan(tf.cast(entries, "float32"), tf.reduce_sum(mask))
    return w * tf.cast(b, "float32") / tf.cast(entries, "float32")


def _compiled(model):
    if not getattr(model, "compiled", False) or model._compile_loss is None:
        raise ValueError(
            "The model is not compiled with a loss, so `loss` must be given, such as "
            "`loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
        )
    return model.loss, model._compile_loss._user_loss_weights
