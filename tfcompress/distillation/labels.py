"""Labels of which some are not known, and means with weights."""

from typing import Any

import keras
from keras import ops

from tfcompress.utils.types import Loss, Tensor


def known(
    y: Tensor, outputs: Tensor, sample_weight: Tensor, losses: Any, names: list[str]
) -> tuple[Any, Any, Any]:
    """The arguments `(y, outputs, weights)` of a compiled loss, with what is not known left out."""
    every = [per_output(value, outputs, names) for value in (y, sample_weight, losses)]
    pairs = [
        known_labels(label, output, weight, loss)
        for label, weight, loss, output in zip(*every, keras.tree.flatten(outputs), strict=True)
    ]
    labels, weights = zip(*pairs, strict=True)
    y = keras.tree.pack_sequence_as(outputs, list(labels))
    if all(weight is None for weight in weights):
        return y, outputs, None
    return y, outputs, keras.tree.pack_sequence_as(outputs, list(weights))


def known_labels(y: Tensor, output: Tensor, weight: Tensor, loss: Loss) -> tuple[Any, Any]:
    """Puts zeros for the labels that are not known, and gives these a weight of zero.

    Not known is NaN, and -1 where the loss takes the number of the class.

    Args:
        y: labels `(b, ..., c)`, or `(b, ...)`, of an output.
        output: the output, `(b, ..., c)`.
        weight: sample weights or None.
        loss: the compiled loss of the output, or None.

    Returns:
        `y` without gaps, and weights `(b, ...)`.
    """
    if y is None or loss is None:
        return y, weight
    y, kind = ops.convert_to_tensor(y), kind_of(loss)
    by_number = kind.startswith("sparse") or (
        kind in ("crossentropy", "ce") and len(y.shape) < len(output.shape)
    )
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype))
    if not by_number and not is_float:
        return y, weight
    unknown = ops.less(y, 0) if by_number else ops.isnan(y)
    if by_number and is_float:
        unknown = ops.logical_or(unknown, ops.isnan(y))
    y = ops.where(unknown, ops.zeros_like(y), y)
    if len(unknown.shape) == len(output.shape):
        unknown = ops.any(unknown, axis=-1)
    known = ops.cast(ops.logical_not(unknown), "float32")
    return y, known if weight is None else known * like(weight, known)


def weighted_mean(values: Tensor, weight: Tensor = None) -> Tensor:
    """The mean over all entries of `weight * values`, as Keras' losses take it.

    >>> import numpy as np
    >>> float(weighted_mean(np.array([1.0, 3.0]), np.array([0.0, 1.0])))
    1.5
    """
    if weight is None:
        return ops.mean(values)
    return ops.mean(values * like(weight, values))


def like(weight: Tensor, values: Tensor) -> Tensor:
    """Weights for each example, as an array that multiplies values for each example and place."""
    weight = ops.cast(weight, values.dtype)
    while len(weight.shape) < len(values.shape):
        weight = ops.expand_dims(weight, -1)
    if len(weight.shape) > len(values.shape):
        weight = ops.squeeze(weight, -1)
    return weight


def per_output(values: Tensor, outputs: Tensor, names: list[str]) -> list:
    """One entry for each output, of what Keras takes once, by name, or in the outputs' structure.

    Args:
        values: a structure of losses, labels or weights.
        outputs: the outputs of the model.
        names: the names of outputs that are no dict.
    """
    count = len(keras.tree.flatten(outputs))
    names = sorted(outputs) if isinstance(outputs, dict) else names
    if isinstance(values, dict) and names and set(values) <= set(names):
        values = [values.get(name) for name in names]
    flat = list(keras.tree.flatten(values))
    flat = flat * count if len(flat) == 1 else flat
    if len(flat) != count:
        raise ValueError(
            f"Expected one entry for each of the {count} outputs (NaN, or -1 for a class number, "
            f"where a label is not known). Received: {len(flat)}"
        )
    return flat


def kind_of(loss: Loss) -> str | None:
    """The class of a loss in lower case without underscores: `"meansquarederror"`."""
    if loss in ("crossentropy", "ce"):  # which the shapes of the labels decide
        return loss
    loss = keras.losses.get(loss)
    name = type(loss).__name__ if isinstance(loss, keras.losses.Loss) else loss.__name__
    return name.lower().replace("_", "")
