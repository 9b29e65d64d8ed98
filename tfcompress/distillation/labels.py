"""Labels of which some are unknown, and weighted means."""

from typing import Any

import keras
from keras import ops

from tfcompress.utils.label_checks import is_crossentropy
from tfcompress.utils.outputs import per_output
from tfcompress.utils.types import Loss, Tensor


def without_unknown(
    y: Tensor, outputs: Tensor, sample_weight: Tensor, losses: Any, names: list[str] | None
) -> tuple[Any, Any, Any]:
    """The arguments `(y, outputs, weights)` of a compiled loss, without the unknown labels."""
    flat = keras.tree.flatten(outputs)
    every = [per_output(value, outputs, names) for value in (y, sample_weight, losses)]
    every[0] = [_with_classes(one, output) for one, output in zip(every[0], flat, strict=True)]
    flat = [_with_classes(output, output) for output in flat]
    outputs = keras.tree.pack_sequence_as(outputs, flat)
    pairs = [
        known_labels(label, output, weight, loss)
        for label, weight, loss, output in zip(*every, flat, strict=True)
    ]
    labels, weights = zip(*pairs, strict=True)
    y = keras.tree.pack_sequence_as(outputs, list(labels))
    if all(weight is None for weight in weights):
        return y, outputs, None
    return y, outputs, keras.tree.pack_sequence_as(outputs, list(weights))


def _with_classes(values, output):
    """Numbers `(b,)` as `(b, 1)`: a loss of Keras would take their mean over the batch at once."""
    whole = values is None or len(output.shape) > 1 or len(values.shape) > 1
    return values if whole else ops.expand_dims(values, -1)


def known_labels(y: Tensor, output: Tensor, weight: Tensor, loss: Loss) -> tuple[Any, Any]:
    """Replaces unknown labels by zeros and gives them a weight of zero.

    An unknown label is NaN, or -1 if the loss takes the number of the class.

    Args:
        y: labels of an output, `(b, ..., c)` or `(b, ...)`.
        output: the output, `(b, ..., c)`.
        weight: sample weights, or None.
        loss: the compiled loss of the output, or None.

    Returns:
        `y` without unknown labels, but for those that the loss ignores, and weights `(b, ...)`.
    """
    if y is None or loss is None:
        return y, weight
    y, kind = ops.convert_to_tensor(y), kind_of(loss)
    by_number = kind.startswith("sparse") or (
        is_crossentropy(kind) and len(y.shape) < len(output.shape)
    )
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype))
    if not by_number and not is_float:
        return y, weight
    unknown = ops.less(y, 0) if by_number else ops.isnan(y)
    if by_number and is_float:
        unknown = ops.logical_or(unknown, ops.isnan(y))
    if getattr(loss, "ignore_class", None) != -1:  # else the loss counts those that are known
        y = ops.where(unknown, ops.zeros_like(y), y)
    if len(unknown.shape) == len(output.shape):
        unknown = ops.any(unknown, axis=-1)
    known = ops.cast(ops.logical_not(unknown), "float32")
    return y, known if weight is None else known * expand(weight, known)


def weighted_mean(values: Tensor, weight: Tensor = None, mask: Tensor = None) -> Tensor:
    """The mean of `weight * values` over the entries that a mask keeps, as in the losses of Keras.

    A mask of steps says nothing about values that have none.

    >>> import numpy as np
    >>> float(weighted_mean(np.array([1.0, 3.0]), np.array([0.0, 1.0])))
    1.5
    >>> float(weighted_mean(np.array([1.0, 3.0]), mask=np.array([False, True])))
    3.0
    """
    if weight is not None:
        values = values * expand(weight, values)
    if mask is None or len(mask.shape) > len(values.shape):
        return ops.mean(values)
    kept = ops.broadcast_to(expand(mask, values), ops.shape(values))
    return ops.divide_no_nan(ops.sum(values * kept), ops.sum(kept))


def expand(weight: Tensor, values: Tensor) -> Tensor:
    """Weights of examples with the axes that they need to multiply `values`."""
    weight = ops.cast(weight, values.dtype)
    while len(weight.shape) < len(values.shape):
        weight = ops.expand_dims(weight, -1)
    if len(weight.shape) > len(values.shape):
        weight = ops.squeeze(weight, -1)
    return weight


def kind_of(loss: Loss) -> str:
    """The name of a loss in lower case without underscores: `"meansquarederror"`."""
    if is_crossentropy(loss):  # the shapes of the labels decide which one it is
        return loss.lower()
    loss = keras.losses.get(loss)
    loss = getattr(loss, "fn", loss)  # the function inside a loss object
    name = getattr(loss, "__name__", type(loss).__name__)
    return name.lower().replace("_", "")


def results_of(metrics: list) -> dict[str, Any]:
    """Values by name of the metrics that were updated with labels."""
    found = {}
    for metric in metrics:
        if getattr(metric, "built", True):
            value = metric.result()
            found |= value if isinstance(value, dict) else {metric.name: value}
    return found
