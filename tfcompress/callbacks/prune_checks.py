"""Checks of the arguments of `Prune`, and its masks."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress import score as scores_of
from tfcompress.utils.types import Data, Schedule, Score, Tensor


def check_sparsities(schedule: Schedule) -> None:
    """Raises for a schedule of ours that leaves [0, 1), before any training."""
    names = ("value", "start", "end")
    given = [getattr(schedule, name) for name in names if hasattr(schedule, name)]
    for value in [*given, *dict(getattr(schedule, "values", {})).values()]:
        if not 0 <= value < 1:
            meant = f" Did you mean {value / 100:g}?" if 1 < value < 100 else ""
            raise ValueError(f"A sparsity lies in [0, 1).{meant} Received: {schedule!r}")


def check_score(score: Score, data: Data | None) -> Callable[..., Any]:
    """The function of a score; raises if it needs data and there are none."""
    score = scores_of.get(score)
    if score is scores_of.obd and data is None:
        raise ValueError("score='obd' needs `data` to measure the curvature on.")
    return score


def nonzero(path: str, variable: keras.Variable) -> Tensor:
    """The mask of the weights that are not zero."""
    mask = ops.not_equal(ops.convert_to_tensor(variable), 0)
    if not ops.any(mask):
        raise ValueError(
            f"The kernel of {path!r} is all zeros, and `Prune` keeps zeros at zero. Give it "
            "another initializer, or leave it out of `layers`."
        )
    return mask


def sparsity_of(masks: dict[str, Any]) -> float:
    """The share of zeros in all masks together."""
    return 1 - float(sum(m.sum() for m in masks.values()) / sum(m.size for m in masks.values()))
