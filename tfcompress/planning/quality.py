"""How good a model is on examples to validate on: the number that `compress` and `search` go by."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph.features import output_activations
from tfcompress.graph.private_keras import mask_of
from tfcompress.graph.suffix import outputs_of, structured_outputs
from tfcompress.measure.held_out_loss import change, joined
from tfcompress.planning import metrics
from tfcompress.planning.metrics import OutputLoss
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.batches import batches, examples_in
from tfcompress.utils.label_checks import is_crossentropy
from tfcompress.utils.outputs import per_output
from tfcompress.utils.types import Loss

BATCH_SIZE = 128
SIGNS = {"max": 1, "min": -1}


class Quality:
    """How good a model is, as one number.

    Without labels the outputs of `model` itself are the labels: its most likely classes where the
    loss is one of classes, otherwise the outputs as they are. Sample weights count in each case.

    Args:
        model: the model before any change.
        examples: `(x, y, sample_weight)` as arrays; all but `x` may be None.
        metric: as in `compress`.
        loss: as in `compile`, or None for the compiled one.

    Attributes:
        name: what is measured.
        sign: 1 if more is better, -1 if less is.

    Raises:
        ValueError: it is not known what is good, or which way is better.
    """

    def __init__(
        self, model: keras.Model, examples: Any, metric: Any = None, loss: Loss = None
    ) -> None:
        self.source, self.loss = model, loss
        self.sign, self.metrics = -1, []
        if takes_a_model(metric):
            self.name, self.sign = getattr(metric, "__name__", "metric"), 1
            self._measure = metric
            return
        compiled = model.loss if getattr(model, "compiled", False) else None
        self.known = compiled if loss is None else loss
        self.batches = list(batches(model, examples, BATCH_SIZE))
        self.labelled = self.batches[0][1] is not None
        self.structure = structured_outputs(model, self.batches[0][0])
        self.shapes = [tuple(z.shape) for z in keras.tree.flatten(self.structure)]
        names = getattr(model, "output_names", None)
        self.names = sorted(self.structure) if isinstance(self.structure, dict) else names
        self.compiled = metrics.compiled_metrics(model, len(self.shapes), self.names)
        self.losses = self._losses_of_outputs()
        self._choose(metric)

    def __call__(self, model: keras.Model) -> float:
        """The number for a model that takes the same inputs."""
        return float(self._measure(model))

    def drop(self, before: float, after: float) -> float:
        """By how much the second number is worse than the first."""
        return self.sign * (before - after)

    def check_drop(self, most: float | None) -> None:
        """Raises `ValueError` for a drop in percent of what is at most 1."""
        if most is not None and most >= 1 and "accuracy" in self.name:
            raise ValueError(
                f"Expected `max_drop` below 1, as {self.name} is at most 1. Did you mean {most:g} "
                f"points, which is {most / 100:g}? Received: max_drop={most:g}"
            )

    def _of_outputs(self, values):
        return per_output(values, self.structure, self.names)

    def _losses_of_outputs(self):
        """What the losses, or else the ends of the model, say of each output."""
        labels = self._of_outputs(self.batches[0][1])
        if self.known is None:
            return [self._seen(*row) for row in enumerate(labels)]
        given = zip(self._of_outputs(self.known), labels, self.shapes, strict=True)
        return [
            metrics.output_loss(loss, None if y is None else tuple(y.shape), shape)
            for loss, y, shape in given
        ]

    def _outputs(self, model):
        return [outputs_of(model, x) for x, _, _ in self.batches]

    def _choose(self, metric):
        sign = 0
        if isinstance(metric, str) and metric.partition(":")[0] in SIGNS:
            prefix, _, metric = metric.partition(":")
            sign = SIGNS[prefix]
        chosen = self._default() if metric is None else self._named(metric)
        if isinstance(chosen, list):
            self._take(chosen, sign, explicit=metric is not None)
        else:
            self.name, self._measure = chosen, self._loss if chosen == "loss" else self._change
        if not self.labelled:
            self._label()

    def _default(self):
        """The metric of each output that the compiled metrics and losses imply, or a name."""
        if self.labelled and any(self.compiled):
            return [row[0] if row else None for row in self.compiled]
        classes = [self._has_classes(i) for i in range(len(self.shapes))]
        pairs = zip(classes, self.losses, strict=True)
        if any(classes) and all(yes or one.function is None for yes, one in pairs):
            return ["accuracy" if yes else None for yes in classes]
        if self.known is not None and (self.labelled or all(map(_comparable, self.losses))):
            return "loss"
        if self.labelled:
            raise ValueError(
                "What a good model is cannot be told: compile it with its loss and metrics, or "
                "give `loss` or `metric`."
            )
        return "change of the outputs"

    def _named(self, metric):
        """The metric of each output that the user means, or `"loss"`."""
        count = len(self.shapes)
        if metric == "loss" or is_crossentropy(metric):
            if self.known is None:
                raise ValueError("The model has no loss: compile it with one, or give `loss`.")
            return "loss"
        if isinstance(metric, str):
            found = [self._compiled(metric, i) for i in range(count)]
            if any(one is not None for one in found):
                return found
        if isinstance(metric, dict):
            names = self.names or list(metric)
            if unknown := set(metric) - set(names):
                raise ValueError(f"`metric` names outputs {sorted(unknown)}. The outputs: {names}")
            metric = [metric.get(name) for name in names]
        elif not isinstance(metric, (list, tuple)):
            metric = [metric] * count
        rows = [[m for m in keras.tree.flatten(one) if m is not None] for one in metric]
        if len(rows) != count or max(map(len, rows)) != 1:
            raise ValueError(f"Expected one metric of each output. Received: metric={metric!r}")
        return [row[0] if row else None for row in rows]

    def _compiled(self, name, index):
        """The metric of an output that is compiled under a name, as `evaluate` gives it."""
        names = self.names or [""]
        own = name.removeprefix(f"{names[index]}_") if len(names) > 1 else name
        for metric in self.compiled[index]:
            if own == metric or (own == metrics.as_metric(metric).name and own not in ("acc",)):
                return metric
        return None

    def _take(self, chosen, sign, explicit):
        for index, metric in enumerate(chosen):
            if metric is not None:
                one = metrics.judged(metric, self.losses[index], sign, self._accuracy_by(index))
                self.metrics.append((index, one))
        signs = {one.sign for _, one in self.metrics}
        if len(signs) > 1 and (explicit or self.known is None):
            raise ValueError(
                "Of some of the metrics more is better and of others less. Give one of them, or "
                "`metric='loss'`."
            )
        if len(signs) > 1:
            self.name, self._measure = "loss", self._loss
            return
        self.sign = signs.pop()
        self.name = ", ".join(dict.fromkeys(one.metric.name for _, one in self.metrics))
        self._measure = self._mean

    def _accuracy_by(self, index):
        """The shapes by which Keras tells what a compiled "accuracy" is; None: the loss tells."""
        function = self.losses[index].function
        labels = self._of_outputs(self.batches[0][1])[index]
        compiled = any(map(metrics.is_accuracy, self.compiled[index]))
        if labels is None or (not compiled and function in metrics.OF_CLASSES):
            return None
        return tuple(labels.shape), self.shapes[index]

    def _has_classes(self, index) -> bool:
        """Whether an output says which class, or yes or no."""
        loss, shape = self.losses[index], self.shapes[index]
        if loss.function in metrics.SPARSE + metrics.CATEGORICAL:
            return loss.axis == -1
        if loss.function not in metrics.BINARY:
            return False
        if not self.labelled:  # wide ones may as well be the pixels of an autoencoder
            return len(shape) == 2 and shape[-1] == 1
        labels = (self._of_outputs(y)[index] for _, y, _ in self.batches)
        return all(np.isin(to_numpy(y), (0, 1)).all() for y in labels)

    def _seen(self, index, y) -> OutputLoss:
        """What can be seen of an output without a loss."""
        ends = output_activations(self.source) or [None] * len(self.shapes)
        if ends[index] is keras.activations.softmax:
            return OutputLoss(metrics.SPARSE[0])
        if ends[index] is keras.activations.sigmoid and self.shapes[index][1:] == (1,):
            return OutputLoss(metrics.BINARY[0])
        if y is not None:
            whole = np.issubdtype(to_numpy(y).dtype, np.integer)
            if whole and len(y.shape) < len(self.shapes[index]) and self.shapes[index][-1] > 1:
                return OutputLoss(metrics.SPARSE[0])
        return OutputLoss(None)

    def _label(self):
        """Makes the outputs of the model itself the labels."""
        outputs = self._outputs(self.source)
        self.before = joined(outputs)
        labels = [[self._own_label(*z) for z in enumerate(row)] for row in outputs]
        self.batches = [
            (x, keras.tree.pack_sequence_as(self.structure, row), w)
            for (x, _, w), row in zip(self.batches, labels, strict=True)
        ]

    def _own_label(self, index, z):
        """The label that an output is to another model."""
        loss = self.losses[index]
        p = to_numpy(loss.probabilities(z))
        if loss.function in metrics.SPARSE:
            return p.argmax(loss.axis)
        yes_or_no = loss.function in metrics.BINARY and self._has_classes(index)
        return (p > 0.5).astype("float32") if yes_or_no else p

    def _mean(self, model):
        """The mean of the outputs' metrics."""
        for _, one in self.metrics:
            one.metric.reset_state()
        for x, y, weights in self.batches:
            outputs = outputs_of(model, x)
            labels, weights = self._of_outputs(y), self._of_outputs(weights)
            for index, one in self.metrics:
                z, loss = outputs[index], self.losses[index]
                weight = _weight(weights[index], z, labels[index], loss.ignored)
                z = loss.probabilities(z) if one.probabilities else z
                one.metric.update_state(labels[index], z, sample_weight=weight)
        found = [_number(one.metric) for _, one in self.metrics]
        for _, one in self.metrics:
            one.metric.reset_state()
        return np.mean(found)

    def _loss(self, model):
        from tfcompress.measure.objective import Objective

        objective = Objective(self.source, self.loss)
        objective.see(self.batches[0][0])
        total, count = 0.0, sum(examples_in(x) for x, _, _ in self.batches)
        for x, y, weights in self.batches:
            outputs = map(ops.convert_to_tensor, outputs_of(model, x))
            total += float(objective.total(objective.parts_of(list(outputs), y, weights)))
        return total / objective.divisor(count)

    def _change(self, model):
        """The mean squared change of the outputs, divided by their variance."""
        return change(self.before, joined(self._outputs(model)))


def takes_a_model(metric: Any) -> bool:
    """Whether a metric is the user's own function of a model: no class or function of Keras'."""
    keras_has = isinstance(metric, (type, keras.metrics.Metric, keras.losses.Loss))
    return callable(metric) and not keras_has and not metrics.is_of_keras(metric)


def _number(metric):
    found = to_numpy(metric.result())
    if found.size != 1:
        raise ValueError(
            f"Expected a metric that is one number, and {metric.name!r} gives {found.size}, one of "
            "each class. Give one that is their mean, as `keras.metrics.F1Score(average='macro')`."
        )
    return float(found.reshape(()))


def _comparable(loss):
    """Whether a loss compares two outputs: it is one of Keras'."""
    return loss.function is None or metrics.is_of_keras(loss.function)


def _weight(weight, z, y, ignored):
    """The weight of each entry: that of its example, its mask, and whether its label counts."""
    found = [] if weight is None else [ops.cast(weight, "float32")]
    if (mask := mask_of(z)) is not None:
        found.append(ops.cast(mask, "float32"))
    if ignored is not None:
        found.append(ops.cast(ops.not_equal(y, ignored), "float32"))
    while len(found) > 1:
        a, b = found.pop(), found.pop()
        while len(b.shape) < len(a.shape):
            b = ops.expand_dims(b, -1)
        while len(a.shape) < len(b.shape):
            a = ops.expand_dims(a, -1)
        found.append(a * b)
    return found[0] if found else None
