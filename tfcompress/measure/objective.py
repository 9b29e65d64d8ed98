"""A model's loss as second-order estimates need it: example by example, with a root of its Hessian.

Letters: b examples, e entries of an example (time steps, pixels), N = b e, C numbers per entry.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.graph.features import output_activations
from tfcompress.graph.paths import walk
from tfcompress.graph.private_keras import compiled_loss, layers_in, mask_of
from tfcompress.graph.sound import check_finite_weights
from tfcompress.measure.label_checks import check_classes, warn_of_probabilities
from tfcompress.measure.loss_term import Term
from tfcompress.utils.batches import batches
from tfcompress.utils.checks import check_integer
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Data, Loss, Tensor

KERNEL_NAMES = ("kernel", "embeddings", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel")


def kernels(model: keras.Model) -> dict[str, keras.Variable]:
    """The kernels and embeddings of a model by path, those of frozen layers included.

    A layer's `kernel` (or `embeddings`) has the path of the layer. Any other kernel has its name
    appended: `"lstm/lstm_cell/kernel"` and `"lstm/lstm_cell/recurrent_kernel"`,
    `"conv/pointwise_kernel"`; these are also the paths of the parts that `tfcompress.opened` makes.
    Compressed layers, whose kernel is computed and not stored, are not listed.

    Raises:
        ValueError: the model has no kernels.
    """
    found, seen = {}, set()
    for path, (layer, _) in walk(model).items():
        of_parts = {id(v) for part in layers_in(layer, include_self=False) for v in part.weights}
        own = {name: getattr(layer, name, None) for name in KERNEL_NAMES}
        for name, variable in own.items():
            if not isinstance(variable, keras.Variable) or id(variable) in seen | of_parts:
                continue
            if keras.backend.is_float_dtype(variable.dtype):
                seen.add(id(variable))
                alone = name in KERNEL_NAMES[:2] and own["recurrent_kernel"] is None
                found[path if alone else f"{path}/{name}"] = variable
    if not found:
        raise ValueError(
            "The model has no kernels to take the curvature of; if it is not built yet, call it on "
            f"an input first. Received: {model}"
        )
    return found


class Objective:
    """The loss of a model on batches, as a sum over examples, in inference mode.

    The loss of an example is the mean over its entries times its sample weight, summed over the
    outputs with their loss weights. The sum over examples divided by their number is what Keras
    reports as the loss. Penalties of regularizers and of `add_loss` are left out.

    Args:
        model: a built model.
        loss: as in `compile`, or None for the compiled one.

    Raises:
        ValueError: the backend is not TensorFlow; the model has no kernels or no loss.
    """

    def __init__(self, model: keras.Model, loss: Loss = None) -> None:
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "The curvature of a loss is taken with TensorFlow. Set KERAS_BACKEND=tensorflow. "
                f"Received: the backend {keras.backend.backend()!r}"
            )
        check_finite_weights(model)
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
        for term, activation in zip(self.terms, output_activations(model) or [], strict=False):
            if term is not None:
                warn_of_probabilities(term.loss, activation)

    def check_labels(self, y: Tensor) -> None:
        """Raises `ValueError` for labels that are no classes of the outputs."""
        outputs = keras.tree.flatten(getattr(self.model, "outputs", None) or [])
        for term, labels, output in zip(self.terms, keras.tree.flatten(y), outputs, strict=False):
            if term is not None and labels is not None:
                check_classes(term.loss, labels, output.shape[-1])

    def loss(self, x: Tensor, y: Tensor, weights: Tensor) -> Any:
        """The loss summed over the examples of a batch."""
        return self.total(self.parts(x, y, weights))

    def total(self, parts: Any) -> Any:
        """The loss of what `parts` or `parts_of` yields, summed over the examples of a batch."""
        return tf.add_n([tf.reduce_sum(w * term.values(y, z)) for term, y, z, w in parts])

    def projected(self, x: Tensor, y: Tensor, weights: Tensor, draw: Any) -> Any:
        """`sum u z` for each output `z`, with a constant `u = S r`.

        `S S^T` is the Hessian of the loss by `z`, so the gradient of the sum is `J^T S r`. If
        `E[r r^T] = 1`, the expected outer product of this gradient is the Gauss-Newton matrix.

        Args:
            x, y, weights: a batch.
            draw: called with the shape `(N, C)` of an output and the number of the output; returns
                `r`, `(..., N, C)`, whose leading axes are kept.
        """
        sums = []
        for number, (term, labels, z, w) in enumerate(self.parts(x, y, weights)):
            r = draw(tf.shape(z), number)
            u = tf.sqrt(w)[:, None] * term.root(labels, tf.stop_gradient(z), r)
            sums.append(tf.reduce_sum(tf.stop_gradient(u) * z, [-2, -1]))
        return sums

    def mean(
        self, contribution: Callable[..., Any], steps: int, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """The mean over examples of an array for each kernel, added up batch by batch.

        Args:
            contribution: called inside a `tf.function` as `contribution(x, y, weights, key)`;
                returns for each kernel a sum over the examples of the batch. `key` is the seed of
                stateless random numbers.
            steps: batches `(x, y, weights)`.
            seed: seed from which each batch gets its key.
        """
        check_integer(seed, "seed")
        sums = [tf.Variable(tf.zeros(v.shape, "float32")) for v in self.variables]

        def add(x, y, weights, key):
            for total, part in zip(sums, contribution(x, y, weights, key), strict=True):
                total.assign_add(tf.reshape(tf.cast(part, "float32"), total.shape))

        count, graph = 0, None
        for step, batch in enumerate(progress(steps, "Measuring curvature")):
            self.check_labels(batch[1])
            batch = keras.tree.map_structure(_tensor, batch)
            key = tf.constant([1000 * seed, step])
            if graph is None:  # one trace for batches of all sizes
                specs = keras.tree.map_structure(_any_size, batch)
                graph = tf.function(add, autograph=False).get_concrete_function(*specs, key)
            graph(*batch, key)
            count += int(keras.tree.flatten(batch)[0].shape[0])
        return {path: s.numpy() / count for path, s in zip(self.kernels, sums, strict=True)}

    def parts(self, x: Tensor, y: Tensor, weights: Tensor) -> Any:
        """Yields `(term, labels (N, ...), z (N, C), weight (N,))` for each output with a loss."""
        return self.parts_of(keras.tree.flatten(self.model(x, training=False)), y, weights)

    def parts_of(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Any:
        """The same from a list of the model's outputs."""
        spread = zip(self.terms, outputs, self._spread(y), self._spread(weights), strict=True)
        for term, z, labels, w in spread:
            if term is None:
                continue
            leading = max(len(z.shape) - 1, 1)  # the axes over which entries are counted
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


def mean_loss(model: keras.Model, data: Data, loss: Loss = None, batch_size: int = 256) -> float:
    """Computes the loss of a model on data: the mean over examples, in inference mode.

    Args:
        model: a built model.
        data: as in `tfcompress.curvature`.
        loss: as in `compile`, or None for the compiled one.
        batch_size: larger batches are cut to this size.
    """
    objective, total, count = Objective(model, loss), 0.0, 0
    for x, y, weights in batches(data, batch_size):
        objective.check_labels(y)
        total += float(objective.loss(x, y, weights))
        count += len(keras.tree.flatten(x)[0])
    return total / count


def _tensor(value):
    return None if value is None else tf.convert_to_tensor(value)


def _any_size(tensor):
    return None if tensor is None else tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def _entry_weights(weights, z, entries):
    """Sample weights and mask by entry, `(N,)`; those of an unweighted example add up to 1."""
    b = tf.shape(z)[0]
    w = tf.ones([b, 1]) if weights is None else tf.cast(tf.reshape(weights, [b, -1]), "float32")
    w = tf.reshape(tf.repeat(w, entries // tf.size(w), axis=1), [-1])
    mask = mask_of(z)
    if mask is not None:  # as in Keras, the mean is over the entries that the mask keeps
        mask = tf.reshape(tf.cast(mask, "float32"), [-1])
        w *= mask * tf.math.divide_no_nan(tf.cast(entries, "float32"), tf.reduce_sum(mask))
    return w * tf.cast(b, "float32") / tf.cast(entries, "float32")


def _compiled(model):
    compiled = compiled_loss(model)
    if compiled is None:
        raise ValueError(
            "The model is not compiled with a loss, so `loss` must be given, such as "
            "`loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
        )
    return compiled
