"""Labels and outputs that do not go together: classes out of range, probabilities for logits."""

import warnings
from typing import Any

import keras
import numpy as np

from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import InputShape, Tensor

SPARSE = (keras.losses.sparse_categorical_crossentropy,)
ANY_LABELS = (*SPARSE, keras.losses.ctc, keras.losses.circle)  # not compared number by number


def is_crossentropy(loss: Any) -> bool:
    """Whether a loss is the name by which Keras takes the cross-entropy that fits the labels."""
    return isinstance(loss, str) and loss.lower() in ("crossentropy", "ce")


def check_labels(loss: Any, labels: Tensor, shape: InputShape) -> None:
    """Raises `ValueError` for labels that a loss does not compare with an output of this shape."""
    check_numbers(labels)
    check_shape(loss, labels, shape)
    check_classes(loss, labels, shape)


def check_numbers(labels: Tensor) -> None:
    """Raises `ValueError` for labels that are texts or objects."""
    values = to_numpy(labels)
    if values.dtype.kind in "USO":
        raise ValueError(
            "Expected labels that are numbers, as the loss takes them: `np.unique(y, "
            f"return_inverse=True)[1]` makes them of texts. Received: {values.ravel()[:1]!r:.80}"
        )


def check_classes(loss: Any, labels: Tensor, shape: InputShape, unknown: bool = False) -> None:
    """Raises `ValueError` for a label that is no class of an output.

    Args:
        loss: as in `compile`; only a sparse cross-entropy has such labels.
        labels: of a batch.
        shape: of the output.
        unknown: whether a negative label, or NaN, stands for one that is not known.
    """
    loss = None if is_crossentropy(loss) else keras.losses.get(loss)
    axis = getattr(loss, "_fn_kwargs", {}).get("axis", -1)
    classes = shape[-1]
    if getattr(loss, "fn", loss) not in SPARSE or classes is None or axis != -1:
        return
    values = to_numpy(labels)
    if values.ndim == len(shape) and values.shape[-1] == classes > 1:
        raise ValueError(
            f"Expected labels that are numbers of classes, as {loss_name(loss)} takes them: "
            "one-hot labels go with `CategoricalCrossentropy`, and `y.argmax(-1)` makes numbers. "
            f"Received: labels of shape {values.shape} in `data`"
        )
    ignored = getattr(loss, "_fn_kwargs", {}).get("ignore_class")
    if ignored is not None:
        values = values[values != ignored]
    if unknown:
        values = values[values >= 0]
    wrong = values[(values < 0) | (values >= classes)]
    if wrong.size:
        raise ValueError(
            f"Expected labels from 0 to {classes - 1} for an output of {classes} classes. "
            f"Received: {np.unique(wrong)[:5].tolist()} in `data`"
        )


def check_shape(loss: Any, labels: Tensor, shape: InputShape) -> None:
    """Raises `ValueError` for labels whose shape is not that of an output, as a loss compares them.

    Args:
        loss: as in `compile`; those of the user and sparse ones may take any labels.
        labels: of a batch.
        shape: of the output.
    """
    loss = None if is_crossentropy(loss) else keras.losses.get(loss)
    function = getattr(loss, "fn", loss)
    if not getattr(function, "__module__", "").startswith("keras.") or function in ANY_LABELS:
        return
    found, wanted = list(to_numpy(labels).shape[1:]), list(shape[1:])
    for longer, shorter in ((found, wanted), (wanted, found)):
        if len(longer) == len(shorter) + 1 and longer[-1] == 1:
            longer.pop()  # as Keras does
    if len(found) != len(wanted) or any(
        None not in (n, m) and n != m and 1 not in (n, m)
        for n, m in zip(found, wanted, strict=True)
    ):
        hint = ""
        if function is keras.losses.categorical_crossentropy and not found:
            hint = " Numbers of classes go with `SparseCategoricalCrossentropy`."
        raise ValueError(
            f"Expected labels of the shape {tuple(shape)} of the output, as {loss_name(function)} "
            f"compares them.{hint} Received: labels of shape {tuple(to_numpy(labels).shape)}"
        )


def loss_name(loss: Any) -> str:
    """The name of a loss as Keras shows it."""
    return getattr(loss, "__name__", None) or type(loss).__name__


def warn_of_probabilities(loss: Any, activation: Any) -> None:
    """Warns if a loss takes probabilities, of softmax or sigmoid, for logits."""
    name = getattr(activation, "__name__", None)
    if getattr(loss, "_fn_kwargs", {}).get("from_logits") and name in ("softmax", "sigmoid"):
        warnings.warn(
            f"The model ends in {name} and its loss has `from_logits=True`: it is applied twice. "
            "Compile with `from_logits=False`, or take the activation off the last layer.",
            stacklevel=3,
        )
