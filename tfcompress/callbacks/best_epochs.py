"""What becomes of pruning at the end of `fit`, after callbacks that go back to the best epoch."""

import warnings
from typing import Any

import keras

from tfcompress.utils.types import Logs

TOLERANCE = 0.005  # of a sparsity: each kernel keeps a weight, and shares are rounded


class AtTheEnd(keras.callbacks.Callback):
    """The last callback of a `fit` with `Prune`: prunes what was restored, and says what is amiss.

    Args:
        prune: the `Prune`, which adds this callback.
        others: the callbacks of the same `fit`.
    """

    def __init__(self, prune: Any, others: list[keras.callbacks.Callback]) -> None:
        super().__init__()
        self.prune = prune
        kinds = {keras.callbacks.EarlyStopping: "restore_best_weights"}
        kinds[keras.callbacks.ModelCheckpoint] = "save_best_only"
        self.watched = [
            one
            for one in others
            if any(isinstance(one, kind) and getattr(one, flag) for kind, flag in kinds.items())
        ]
        self.best = {}  # {callback: (its best value, epoch, sparsity of that epoch)}

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        for one in self.watched:
            if id(one) not in self.best or self.best[id(one)][0] != one.best:
                self.best[id(one)] = one.best, epoch, self.prune.sparsity

    def on_train_end(self, logs: Logs = None) -> None:
        restored = self.prune.finish()
        asked, reached = self.prune.asked(), self.prune.sparsity
        if not self.prune.steps_done or asked is None or not 0 <= asked < 1:
            return
        lines = []
        if reached < asked - TOLERANCE:
            steps = self.prune.steps_done
            lines.append(f"- The schedule goes on after the {steps} steps of this training.")
        for one in self.watched:
            _, epoch, sparsity = self.best.get(id(one), (None, 0, asked))
            if sparsity < asked - TOLERANCE:
                lines.append(_line(one, epoch + 1, sparsity, restored, reached))
        if lines:
            text = "\n".join(line for line in lines if line)
            warnings.warn(
                f"`Prune` reached a sparsity of {reached:.4g} and was asked for {asked:.4g}:\n"
                f"{text}\nTrain on after the end of the schedule, and let the best epoch be one of "
                "those, as with `EarlyStopping(start_from_epoch=...)`.",
                stacklevel=2,
            )


def _line(callback, epoch, sparsity, restored, reached):
    of_epoch = f"of epoch {epoch}, when the sparsity was {sparsity:.4g}"
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        return f"- The best model in {callback.filepath!r} is {of_epoch}."
    if restored >= reached - TOLERANCE:  # nothing was restored, or pruned weights were
        return ""
    return (
        f"- EarlyStopping restored the weights {of_epoch}; they were pruned to {reached:.4g} at "
        "once, without training after that."
    )
