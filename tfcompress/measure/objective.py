"""A model's loss as second-order estimates need it: example by example, with a root of its Hessian.

Letters: b examples, e entries of an example (time steps, pixels), N = b e, C numbers per entry.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.graph.features import output_activations
from tfcompress.graph.nodes import calls_its_graph, graph_of
from tfcompress.graph.paths import check_finite_weights
from tfcompress.graph.private_keras import mask_of, outputs_structure
from tfcompress.graph.private_training import compiled_loss
from tfcompress.measure.kernels import kernels
from tfcompress.measure.loss_term import Term
from tfcompress.utils.batches import batches, examples_in
from tfcompress.utils.checks import check_integer
from tfcompress.utils.label_checks import check_labels, warn_of_probabilities
from tfcompress.utils.outputs import per_output
from tfcompress.utils.progress import progress
from tfcompress.utils.types import ClassWeight, Data, Loss, Tensor

SEEDS = 2**62 - 57  # a prime: seeds of any size then start draws of their own

WEIGHTED = "mean_with_sample_weight"  # a reduction
MEANS = ("sum_over_batch_size", "mean", "none", None)  # of which Keras reports the mean


class Objective:
    """The loss of a model on batches, as a sum over examples, in inference mode.

    The loss of an example is the mean over its entries times its sample weight, summed over the
    outputs with their loss weights. The sum over examples divided by their number is what Keras
    reports as the loss of one batch that holds all the data. A loss with `reduction="sum"` is not
    divided, neither by the entries nor by the examples; one with `"mean_with_sample_weight"` is
    divided by the sum of the weights. As in Keras, the mean is over the entries of a batch that its
    mask and `ignore_class` leave. Penalties of regularizers and of `add_loss` are left out.

    Args:
        model: a built model.
        loss: as in `compile`, or None for the compiled one.
        compiled: the model whose compiled loss is meant; None for `model` itself.
        loss_weights: as in `compile`, beside `loss`.

    Raises:
        ValueError: the backend is not TensorFlow; the model has no kernels or no loss; its outputs
            have losses with different reductions.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Loss = None,
        compiled: keras.Model | None = None,
        loss_weights: Any = None,
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "The curvature of a loss is taken with TensorFlow. Set KERAS_BACKEND=tensorflow. "
                f"Received: the backend {keras.backend.backend()!r}"
            )
        check_finite_weights(model)
        self.model = model
        self.given = (loss, loss_weights) if loss is not None else _compiled(compiled or model)
        whole = model.built and calls_its_graph(model)
        self.structure = outputs_structure(graph_of(model)) if whole else None
        self._weighed = tf.Variable(0.0)  # the sum of all weights so far
        if self.structure is not None:
            for term, activation in zip(self.terms, output_activations(model) or (), strict=False):
                if term is not None:
                    warn_of_probabilities(term.loss, activation)

    def see(self, x: Tensor) -> None:
        """Takes the structure of the outputs of a batch; without a graph only a call tells it."""
        if self.structure is None:
            self._take(self.model(x, training=False))

    def _take(self, outputs):
        if self.structure is None:
            self.structure = keras.tree.map_structure(lambda _: 0, outputs)

    @cached_property
    def terms(self) -> list[Term | None]:
        """The loss of each output."""
        loss, weights = map(self._spread, self.given)
        return [
            None if one is None else Term(one, 1.0 if weight is None else weight)
            for one, weight in zip(loss, weights, strict=True)
        ]

    @cached_property
    def reduction(self) -> str | None:
        return _reduction([term for term in self.terms if term is not None])

    @cached_property
    def kernels(self) -> dict[str, keras.Variable]:
        """The kernels of the model by path."""
        return kernels(self.model)

    @cached_property
    def variables(self) -> list:
        """What the kernels are held in, by the first replica where there are several."""
        held = (variable.value for variable in self.kernels.values())
        return [one.values[0] if hasattr(one, "values") else one for one in held]

    def check_labels(self, y: Tensor) -> None:
        """Raises `ValueError` for labels that are no classes of the outputs."""
        outputs = None if self.structure is None else getattr(self.model, "outputs", None)
        if outputs and y is not None:
            for term, labels, output in zip(self.terms, self._spread(y), outputs, strict=True):
                if term is not None and labels is not None:
                    check_labels(term.loss, labels, output.shape)

    def loss(self, x: Tensor, y: Tensor, weights: Tensor) -> Any:
        """The loss summed over the examples of a batch."""
        return self.total(self.parts(x, y, weights))

    def total(self, parts: Any) -> Any:
        """The loss of what `parts` or `parts_of` yields, summed over the examples of a batch."""
        return tf.add_n([tf.reduce_sum(w * term.values(y, z)) for term, y, z, w in parts])

    def begin(self) -> None:
        """Starts a sum over examples."""
        self._weighed.assign(0.0)

    def divisor(self, count: int) -> float:
        """What the sum over all examples since `begin` is divided by, of `count` examples."""
        if self.reduction == "sum":
            return 1.0
        if self.reduction == WEIGHTED:
            return max(float(self._weighed), keras.backend.epsilon())
        return count

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
        self,
        contribution: Callable[..., Any],
        steps: Any,
        seed: int = 0,
        total: int | None = None,
    ) -> dict[str, np.ndarray]:
        """The mean over examples of an array for each kernel, added up batch by batch.

        Args:
            contribution: called inside a `tf.function` as `contribution(x, y, weights, key)`;
                returns for each kernel a sum over the examples of the batch. `key` is the seed of
                stateless random numbers.
            steps: batches `(x, y, weights)`.
            seed: seed from which each batch gets its key.
            total: the number of batches, if it is known.
        """
        check_integer(seed, "seed")
        sums = [tf.Variable(tf.zeros(v.shape, "float32")) for v in self.variables]

        def add(x, y, weights, key):
            for total, part in zip(sums, contribution(x, y, weights, key), strict=True):
                total.assign_add(tf.reshape(tf.cast(part, "float32"), total.shape))

        self.begin()
        count, specs = 0, None
        for step, batch in enumerate(progress(steps, "Measuring curvature", total)):
            self.check_labels(batch[1])
            batch = keras.tree.map_structure(_tensor, batch)
            key = tf.constant([1000 * seed % SEEDS, step], "int64")
            specs, known = _that_fit(batch, specs), specs
            if specs != known:  # one trace for batches of all sizes
                graph = tf.function(add, autograph=False).get_concrete_function(*specs, key)
            graph(*batch, key)
            count += examples_in(batch)
        size = self.divisor(count)
        return {path: s.numpy() / size for path, s in zip(self.kernels, sums, strict=True)}

    def parts(self, x: Tensor, y: Tensor, weights: Tensor) -> Any:
        """Yields `(term, labels (N, ...), z (N, C), weight (N,))` for each output with a loss."""
        outputs = self.model(x, training=False)
        self._take(outputs)
        return self.parts_of(keras.tree.flatten(outputs), y, weights)

    def parts_of(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Any:
        """The same from a list of the model's outputs; see `see` for those without a graph."""
        self._take(outputs)
        spread = zip(self.terms, outputs, self._spread(y), self._spread(weights), strict=True)
        for term, z, labels, w in spread:
            if term is None:
                continue
            of_entries, labels, table = term.entries(labels, z)
            kept = of_entries.kept(labels), mask_of(z)
            w = _entry_weights(w, kept, tf.shape(z)[0], tf.shape(table)[0], self.reduction)
            if self.reduction == WEIGHTED:
                self._weighed.assign_add(tf.reduce_sum(w))
            yield of_entries, labels, table, w * term.weight

    def _spread(self, value) -> list:
        """One value for each output."""
        return per_output(value, self.structure, getattr(self.model, "output_names", None))


def mean_loss(
    model: keras.Model,
    data: Data,
    loss: Loss = None,
    batch_size: int = 256,
    compiled: keras.Model | None = None,
    class_weight: ClassWeight = None,
) -> float:
    """Computes the loss of a model on data: the mean over examples, in inference mode.

    Args:
        model: a built model.
        data, class_weight: as in `tfcompress.curvature`.
        loss, compiled: as in `Objective`.
        batch_size: larger batches are cut to this size.
    """
    objective, total, count = Objective(model, loss, compiled), 0.0, 0
    for x, y, weights in batches(model, data, batch_size, class_weight):
        objective.check_labels(y)
        total += float(objective.loss(x, y, weights))
        count += examples_in(x)
    return total / objective.divisor(count)


def _reduction(terms) -> str | None:
    found = {"sum_over_batch_size" if t.reduction in MEANS else t.reduction for t in terms}
    if len(found) > 1 or (len(terms) > 1 and found == {WEIGHTED}):
        raise ValueError(
            "The losses of several outputs are added with one reduction: give all of them "
            f"'sum_over_batch_size' or 'sum'. Received: {sorted(found)}"
        )
    return found.pop() if found else None


def _tensor(value):
    return None if value is None else tf.convert_to_tensor(value)


def _that_fit(batch, specs):
    """Specs of any number of examples, and of any of what has differed from batch to batch."""
    new = keras.tree.map_structure(_any_number, batch)
    return new if specs is None else keras.tree.map_structure(_of_both, specs, new)


def _any_number(tensor):
    return None if tensor is None else tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def _of_both(one, other):
    return one if one is None else one.most_specific_common_supertype([other])


def _entry_weights(weights, kept, b, entries, reduction):
    """Sample weights and masks by entry, `(N,)`, of `b` examples.

    Where the loss is a mean over entries, those of an unweighted example add up to 1.
    """
    w = tf.ones([b, 1]) if weights is None else tf.cast(tf.reshape(weights, [b, -1]), "float32")
    w = tf.reshape(tf.repeat(w, entries // tf.size(w), axis=1), [-1])
    masks = [tf.reshape(tf.cast(one, "float32"), [-1]) for one in kept if one is not None]
    if masks:  # as in Keras, the mean is over the entries that all masks keep
        mask = math.prod(masks)
        if reduction not in ("sum", WEIGHTED):
            mask *= tf.math.divide_no_nan(tf.cast(entries, "float32"), tf.reduce_sum(mask))
        w *= mask
    if reduction in ("sum", WEIGHTED):
        return w
    return w * tf.cast(b, "float32") / tf.cast(entries, "float32")


def _compiled(model):
    compiled = compiled_loss(model)
    if compiled is None:
        raise ValueError(
            "The model is not compiled with a loss, so `loss` must be given, such as "
            "`loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
        )
    return compiled
