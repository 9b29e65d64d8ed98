"""Which metrics say how good a model is, and whether more or less of each is better."""

from typing import Any, NamedTuple

import keras

from tfcompress.graph.private_training import LossFunctionWrapper, compiled_argument
from tfcompress.utils.label_checks import is_crossentropy
from tfcompress.utils.types import Tensor

LOSSES = keras.losses
SPARSE = (LOSSES.sparse_categorical_crossentropy,)
CATEGORICAL = (LOSSES.categorical_crossentropy, LOSSES.categorical_focal_crossentropy)
BINARY = (LOSSES.binary_crossentropy, LOSSES.binary_focal_crossentropy)
OF_CLASSES = SPARSE + CATEGORICAL + BINARY

_M = keras.metrics
MORE_IS_BETTER = (
    *(_M.Accuracy, _M.BinaryAccuracy, _M.CategoricalAccuracy, _M.SparseCategoricalAccuracy),
    *(_M.TopKCategoricalAccuracy, _M.SparseTopKCategoricalAccuracy, _M.AUC, _M.Precision),
    *(_M.Recall, _M.PrecisionAtRecall, _M.RecallAtPrecision, _M.SensitivityAtSpecificity),
    *(_M.SpecificityAtSensitivity, _M.TruePositives, _M.TrueNegatives, _M.FBetaScore),
    *(_M.R2Score, _M.CosineSimilarity, _M.IoU),
    *(_M.ConcordanceCorrelation, _M.PearsonCorrelation),
)
LESS_IS_BETTER = (
    *(_M.MeanSquaredError, _M.RootMeanSquaredError, _M.MeanAbsoluteError, _M.LogCoshError),
    *(_M.MeanAbsolutePercentageError, _M.MeanSquaredLogarithmicError, _M.KLDivergence),
    *(_M.Poisson, _M.Hinge, _M.SquaredHinge, _M.CategoricalHinge, _M.FalsePositives),
    *(_M.FalseNegatives, _M.BinaryCrossentropy, _M.CategoricalCrossentropy),
    *(_M.SparseCategoricalCrossentropy,),
)
ACCURACY_FUNCTIONS = tuple(
    getattr(_M, name)
    for name in (
        *("binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy"),
        *("top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy"),
    )
)


class OutputLoss(NamedTuple):
    """What a loss says of the numbers of an output.

    Attributes:
        function: of `keras.losses`, or another one, or None without a loss.
        logits: whether the output is taken as logits.
        axis: of the classes.
        ignored: the label that does not count, or None.
    """

    function: Any
    logits: bool = False
    axis: Any = -1
    ignored: int | None = None

    def probabilities(self, z: Tensor) -> Tensor:
        """The output as metrics of probabilities need it."""
        if self.logits and self.function in BINARY:
            return keras.ops.sigmoid(z)
        if self.logits and self.function in SPARSE + CATEGORICAL:
            return keras.ops.softmax(z, axis=self.axis)
        return z


def output_loss(loss: Any, labels: Any, shape: Any) -> OutputLoss:
    """What the loss of an output says of it.

    Args:
        loss: as in `compile`, or None.
        labels: shape of the labels, or None without.
        shape: of the output.
    """
    if loss is None:
        return OutputLoss(None)
    if is_crossentropy(loss):  # as in Keras
        sparse = labels is None or len(labels) < len(shape) or labels[-1] == 1
        return OutputLoss((BINARY if shape[-1] == 1 else SPARSE if sparse else CATEGORICAL)[0])
    loss = keras.losses.get(loss)
    loss = loss if isinstance(loss, keras.losses.Loss) else LossFunctionWrapper(loss)
    config = getattr(loss, "_fn_kwargs", {})
    known = config.get("from_logits", False), config.get("axis", -1), config.get("ignore_class")
    return OutputLoss(getattr(loss, "fn", loss), *known)


class Judged(NamedTuple):
    """A metric of one output.

    Attributes:
        metric: a `keras.metrics.Metric`.
        sign: 1 if more is better, -1 if less is.
        probabilities: whether the metric takes an output that is logits as probabilities.
    """

    metric: keras.metrics.Metric
    sign: int
    probabilities: bool


def compiled_metrics(model: keras.Model, count: int, names: list[str] | None) -> list[list]:
    """The metrics that a model is compiled with, of each of its `count` outputs in their order."""
    found = [[] for _ in range(count)]
    if not getattr(model, "compiled", False):
        return found
    for name in ("metrics", "weighted_metrics"):
        given = compiled_argument(model, name)
        if isinstance(given, dict):
            given = [given.get(name) for name in names or given]
        elif count == 1:
            given = [given]
        for row, metrics in zip(found, given or [], strict=False):
            row += [metric for metric in keras.tree.flatten(metrics) if metric is not None]
    return found


def judged(metric: Any, loss: OutputLoss, sign: int = 0, shapes: Any = None) -> Judged:
    """The metric of an output that a name or an object means.

    Args:
        metric: as in `compile(metrics=[...])`.
        loss: what the loss says of the output.
        sign: 1 or -1 as the user said; 0 takes what is known of the metric's class.
        shapes: of the labels and of the output, which decide like Keras what "accuracy" is where
            the loss does not.

    Raises:
        ValueError: there is no such metric, or it is not known which way is better.
    """
    by_name = isinstance(metric, str)
    made = accuracy(loss, shapes) if is_accuracy(metric) else as_metric(metric)
    sign = sign or direction(made)
    if not sign:
        name = made.name
        raise ValueError(
            f"It is not known whether more or less of {name!r} is better. Give "
            f"`metric='max:{name}'` or `metric='min:{name}'`."
        )
    return Judged(made, sign, by_name)


def direction(metric: Any) -> int:
    """1 if more of a metric is better, -1 if less is, 0 if that is not known."""
    function = getattr(metric, "_fn", None)
    if isinstance(metric, MORE_IS_BETTER) or function in ACCURACY_FUNCTIONS:
        return 1
    return -1 if isinstance(metric, LESS_IS_BETTER) or is_of_keras(function) else 0


def is_accuracy(metric: Any) -> bool:
    """Whether a metric is the name by which Keras takes the accuracy that fits the labels."""
    return isinstance(metric, str) and metric.lower() in ("accuracy", "acc")


def is_of_keras(function: Any) -> bool:
    """Whether a function is one of `keras.losses` or `keras.metrics`."""
    name, places = getattr(function, "__name__", ""), (keras.losses, keras.metrics)
    return function is not None and any(getattr(p, name, None) is function for p in places)


def as_metric(metric: Any) -> keras.metrics.Metric:
    """The metric that a name, a class, a loss or a function `(y, z)` means."""
    if isinstance(metric, str):
        try:
            metric = keras.metrics.get(metric)
        except ValueError as error:
            raise ValueError(
                "Expected `metric` to name a metric that the model is compiled with, one of Keras, "
                f"or 'loss'. Received: {metric!r}"
            ) from error
    if isinstance(metric, type):
        metric = metric()
    if isinstance(metric, keras.metrics.Metric):
        return metric
    if isinstance(metric, keras.losses.Loss):
        # a metric is the mean over examples, whatever the loss's reduction
        function, name = getattr(metric, "fn", metric.call), metric.name
        return _M.MeanMetricWrapper(function, name=name, **getattr(metric, "_fn_kwargs", {}))
    return _M.MeanMetricWrapper(metric, name=getattr(metric, "__name__", "metric"))


def accuracy(loss: OutputLoss, shapes: Any = None) -> keras.metrics.Metric:
    """The accuracy that fits a loss, or else the shapes of labels and output; of probabilities."""
    kinds = (_M.BinaryAccuracy, _M.SparseCategoricalAccuracy, _M.CategoricalAccuracy)
    for kind, functions in zip(kinds, (BINARY, SPARSE, CATEGORICAL), strict=True):
        if shapes is None and loss.function in functions:
            return kind(name="accuracy")
    y, z = shapes or ((None,), (None, 1))
    if z[-1] == 1:
        return kinds[0](name="accuracy")
    return kinds[1 if len(y) < len(z) or y[-1] == 1 else 2](name="accuracy")
