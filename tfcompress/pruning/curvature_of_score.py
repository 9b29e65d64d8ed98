"""The curvature that a score of weights is given."""

from typing import Any

import keras
import numpy as np

from tfcompress import score as scores_of
from tfcompress.utils.class_weights import check_class_weight
from tfcompress.utils.types import ClassWeight, Data, Score


def curvature_of(
    model: keras.Model, score: Score, data: Data | None, class_weight: ClassWeight = None
) -> dict[str, np.ndarray] | None:
    """The `gauss_newton` diagonal of each kernel; None without data, or for a score without it.

    Args:
        model: the model, with its loss.
        score: a function of `tfcompress.score`, or another one.
        data, class_weight: as in `tfcompress.curvature.gauss_newton`.
    """
    if not _reads(score, data):
        return None
    from tfcompress.measure.curvature import gauss_newton

    return gauss_newton(model, data, class_weight=class_weight)


def check_weighs(score: Any, data: Data | None, class_weight: ClassWeight) -> None:
    """Raises for weights of classes that nothing would read."""
    check_class_weight(class_weight)
    if class_weight is not None and (score == "obs" or not _reads(scores_of.get(score), data)):
        raise ValueError(
            "`class_weight` weighs the loss whose curvature is measured on `data`, as for "
            f"score='obd'. Leave it out here. Received: score={score!r}, "
            f"data={'none' if data is None else 'some'}"
        )


def _reads(score, data):
    return data is not None and score not in (scores_of.magnitude, scores_of.random)
