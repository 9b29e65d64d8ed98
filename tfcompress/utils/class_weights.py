"""Weights of classes, `{class: weight}` as `fit` takes them, as weights of examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.checks import is_number, is_whole
from tfcompress.utils.types import ClassWeight


def class_weighted(batch: tuple[Any, Any, Any], class_weight: ClassWeight) -> tuple[Any, Any, Any]:
    """Multiplies the sample weights of examples, if there are any, by those of their classes.

    Args:
        batch: `(x, y, sample_weight)` as arrays; the labels are numbers of classes, `(n,)` or
            `(n, ..., 1)`, or one-hot rows, `(n, ..., C)`, of which the largest entry counts.
        class_weight: `{class: weight}`, where a class that is not listed has the weight 1; None
            weighs nothing.

    Raises:
        TypeError: `class_weight` is no dict of numbers.
        ValueError: there are no labels, or labels of several outputs; they do not say one class of
            each example.

    >>> class_weighted((None, np.array([0, 2]), None), {0: 3.0})[2]
    array([3., 1.], dtype=float32)
    """
    if class_weight is None:
        return batch
    check_class_weight(class_weight)
    x, y, weights = batch
    if y is None or isinstance(y, (list, tuple, dict)):
        raise ValueError("`class_weight` needs the labels of a model with one output.")
    table = np.vectorize(lambda one: class_weight.get(int(one), 1.0), otypes=["float32"])
    found = table(_classes(to_numpy(y)))
    if weights is not None:
        own = to_numpy(weights)
        ones = (1,) * abs(own.ndim - found.ndim)
        wide, narrow = (own, found) if own.ndim > found.ndim else (found, own)
        found = wide * narrow.reshape(narrow.shape + ones)
    return x, y, found


def check_class_weight(class_weight: Any) -> None:
    """Raises `TypeError` unless weights of classes are a dict of numbers, or None."""
    if class_weight is None:
        return
    pairs = class_weight.items() if isinstance(class_weight, Mapping) else [(None, None)]
    if not all(is_whole(one, 0) and is_number(w) and 0 <= w < np.inf for one, w in pairs):
        raise TypeError(
            "Expected `class_weight` as `{class: weight}`, numbers of classes and their weights "
            f"from 0 on. Received: {class_weight!r:.80}"
        )


def _classes(y):
    """The class of each example, or of each of its entries: `(n, ...)`."""
    if y.ndim > 1 and y.shape[-1] > 1:
        if not np.allclose(y.sum(-1), 1, atol=1e-3) or (y < 0).any():
            raise ValueError(
                "`class_weight` needs labels that say one class of each example: numbers `(n,)`, "
                "or one-hot rows `(n, classes)`. Give the weights of the entries as sample "
                f"weights, `(x, y, sample_weight)`. Received: labels of shape {y.shape}"
            )
        return y.argmax(-1)
    y = y[..., 0] if y.ndim > 1 else y
    if not np.array_equal(y, np.round(y)):
        raise ValueError(
            "`class_weight` needs labels that are classes, whole numbers. "
            f"Received: {y[y != np.round(y)].ravel()[:1]}"
        )
    return y.astype(int)
