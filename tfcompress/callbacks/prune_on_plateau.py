"""The loop of Optimal Brain Damage in one `fit`: train, delete weights, retrain, and so on."""

import numpy as np
from keras import ops

from tfcompress import score as scores_of
from tfcompress.callbacks.prune import Prune
from tfcompress.callbacks.prune_checks import sparsity_of
from tfcompress.graph.private_training import print_message
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import ClassWeight, Data, Layers, Logs, Scope, Score

NEVER = 2**62  # batches between two prunings, so that only `_delete` prunes


class PruneOnPlateau(Prune):
    """Deletes weights each time that the loss stops falling, until it has risen too far.

    A round trains until `monitor` has not fallen for `patience` epochs, and returns to its best
    epoch. If the loss of that epoch is more than `tolerance` above the best loss of the first
    round, `fit` ends. Otherwise the `share` of the remaining weights that have the lowest scores is
    deleted, and the next round retrains the rest. At the end the model is the sparsest one whose
    loss is within the tolerance: its weights are put back if a callback such as
    `EarlyStopping(restore_best_weights=True)` restores others, wherever it stands in the list.

    Use it with a learning rate that does not decay and with many epochs, since it ends `fit`
    itself. A weight that is zero when `fit` begins stays zero. A resumed `fit` begins with a new
    first round.

    Args:
        sparsity: the share of zeros in the chosen kernels at which to end, in [0, 1).
        score, data, layers, scope, floor, class_weight: as in `Prune`; here `score="obd"` is the
            default.
        tolerance: how much the monitored loss may be above that of the first round.
        share: the share of the remaining weights that each round deletes, in (0, 1).
        monitor: name of a loss in the logs of an epoch.
        patience: number of epochs without a new best loss after which a round ends; with
            `validation_freq`, of those that are validated.
        verbose: 1 prints a line for each round.

    Attributes:
        rounds: a dict for each deletion: `sparsity`; `before`, the monitored loss before it;
            `predicted` and `measured`, the rise of the loss on `data` as the sum of the scores and
            as measured, which are None unless the score is `"obd"`; `after`, the monitored loss
            after retraining, which is None if it was not finite in any epoch of it, as when
            there is none before the training ends; and `epochs`.

    Raises:
        ValueError: an argument is out of range; `monitor` is not in the logs, or is not finite
            during a whole round; and as in `Prune`. That there is no validation shows at the end.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> x = np.tile(4 * np.eye(4), (16, 1))
    >>> y = x @ [[1.0], [2.0], [0.0], [0.0]]
    >>> prune = PruneOnPlateau(0.5, data=(x, y), monitor="loss", share=0.5)
    >>> _ = model.fit(x, y, epochs=60, callbacks=[prune], verbose=0)
    >>> (model.get_weights()[0].ravel() == 0).tolist()
    [False, False, True, True]

    Reference: LeCun et al., "Optimal Brain Damage", 1990. There the user ends the loop.
    """

    def __init__(
        self,
        sparsity: float,
        score: Score = "obd",
        data: Data | None = None,
        layers: Layers = "*",
        scope: Scope = "global",
        floor: float = 0.0,
        tolerance: float = 0.01,
        share: float = 0.2,
        monitor: str = "val_loss",
        patience: int = 2,
        verbose: int = 0,
        class_weight: ClassWeight = None,
    ) -> None:
        given = score, data, layers, scope, floor, NEVER, class_weight
        super().__init__(lambda step: sparsity, *given)
        if not 0 <= sparsity < 1 or sparsity > 1 - floor + 1e-6:
            raise ValueError(
                "Expected `sparsity` in [0, 1), 1 - floor at most. "
                f"Received: {sparsity!r}, floor={floor!r}"
            )
        if not 0 < share < 1:
            raise ValueError(f"Expected `share` in (0, 1). Received: share={share!r}")
        if not tolerance >= 0:
            raise ValueError(f"Expected `tolerance` >= 0. Received: tolerance={tolerance!r}")
        whole_number(patience, "patience")
        if "loss" not in monitor:
            raise ValueError(f"Expected `monitor` to be a loss. Received: monitor={monitor!r}")
        self.goal = sparsity
        self.tolerance, self.share = tolerance, share
        self.monitor, self.patience, self.verbose = monitor, patience, verbose
        self.rounds = []

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        self.rounds = []
        self._limit, self._within, self._ended = np.inf, None, False
        self._missed = self._validated = self._monitored = False
        self._begin_round()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._validated = False

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_end(epoch, logs)
        self._epochs += 1
        if self.monitor not in (logs or {}):
            # `validation_freq` leaves out epochs, and no callback is told of it.
            if self._validated or not self.monitor.startswith("val_"):
                self._raise_missing(logs)
            self._missed = True
            return
        self._monitored = True
        if logs[self.monitor] < self._best:
            self._best, self._waited = float(logs[self.monitor]), 0
            self._best_state = self._state()
        else:
            self._waited += 1
        if self._waited >= self.patience:
            self._end_round()

    def on_test_begin(self, logs: Logs = None) -> None:
        self._validated = True

    def on_train_end(self, logs: Logs = None) -> None:
        if self._best_state is not None and not self._ended:
            self._settle()
        elif self.rounds and not self._ended:
            self.rounds[-1]["epochs"] = self._epochs
        if self._within is not None:
            self._set_state(self._within)
        super().on_train_end(logs)
        if self._missed and not self._monitored:
            self._raise_missing(logs)

    def _raise_missing(self, logs):
        raise ValueError(
            f"The logs have no {self.monitor!r}: give `validation_data` to `fit`, or another "
            f"`monitor`. Received: {sorted(logs or {})}"
        )

    def finish(self) -> float:
        if self._within is not None and self._moved():
            self._set_state(self._within)
        return super().finish()

    def _moved(self):
        """Whether weights are not those of the model to keep.

        Only moving statistics may differ, which `RecalibrateBatchNorm` has measured for it.
        """
        trained = {id(v) for v in (*self._pruned.values(), *self.model.trainable_variables)}
        kept = zip(self.model.weights, self._within[0], strict=True)
        return any(
            id(v) in trained and not np.array_equal(ops.convert_to_numpy(v), value)
            for v, value in kept
        )

    def _begin_round(self):
        self._best, self._best_state, self._waited, self._epochs = np.inf, None, 0, 0

    def _end_round(self):
        if self._best_state is None:
            raise ValueError(f"{self.monitor!r} was not finite in any epoch of this round.")
        if self._settle() and self._due < self.goal:
            self._set_state(self._best_state)
            if self._delete():
                self._begin_round()
                return
        self.model.stop_training = self._ended = True

    def _settle(self):
        """Whether the round's best model is within the tolerance, which then is the one to keep."""
        if self.rounds:
            self.rounds[-1] |= {"after": self._best, "epochs": self._epochs}
            if self.verbose:
                print_message(_line(self.rounds[-1]))
        else:
            self._limit = min(self._limit, self._best + self.tolerance)
        if self._best > self._limit:
            return False
        self._within = self._best_state
        return True

    def _delete(self):
        """Deletes the weights with the lowest scores and records what that does to the loss.

        A share of few weights may be less than one of them, and then grows until it is one. Returns
        whether there is one to delete before the goal.
        """
        old = self._mask_arrays()
        loss, zeros = self._loss(), sparsity_of(old)
        # From one weight on, as each turn may take the curvature of all data.
        one = 1 / sum(mask.size for mask in old.values())
        self._due, self.sparsity = max(zeros, 1 - (1 - zeros - one) / (1 - self.share)), zeros
        while self.sparsity <= zeros and self._due < self.goal:
            self._due = min(self.goal, 1 - (1 - self._due) * (1 - self.share))
            self._scored = self._done - 1
            self._prune(self._done)
        if self.sparsity <= zeros:
            return False
        predicted = measured = None
        if loss is not None:
            new = self._mask_arrays()
            predicted = sum(float(self._last[p][old[p] & ~new[p]].sum()) for p in old)
            measured = self._loss() - loss
        self.rounds.append(
            {
                "sparsity": self.sparsity,
                "before": self._best,
                "predicted": predicted,
                "measured": measured,
                "after": None,
                "epochs": 0,
            }
        )
        return True

    def _loss(self):
        """The loss on `data`; None if the score does not predict its rise."""
        if self.score is not scores_of.obd:
            return None
        from tfcompress.measure.objective import mean_loss

        return mean_loss(self.model, self.data, class_weight=self.class_weight)

    def _scores(self):
        self._last = super()._scores()
        return self._last

    def asked(self) -> None:
        """Nothing: this loop ends where the loss rises too far."""

    def _check_targets(self):
        self._target, self._due, self._scored = 0.0, 0.0, self._done

    def _next_target(self, step, since):
        self._target = self._due  # only `_delete` raises it; the schedule has no part
        return self._target

    def _state(self):
        return self.model.get_weights(), dict(self._masks), self.sparsity

    def _set_state(self, state):
        weights, self._masks, self.sparsity = state
        self.model.set_weights(weights)


def _line(entry):
    """A round as a line of text."""
    text = f"sparsity {entry['sparsity']:.4f}: loss {entry['before']:.4f} before, "
    if entry["predicted"] is not None:
        text += (
            f"on `data` {entry['predicted']:+.4f} predicted, {entry['measured']:+.4f} measured, "
        )
    return text + f"{entry['after']:.4f} after {entry['epochs']} epochs"
