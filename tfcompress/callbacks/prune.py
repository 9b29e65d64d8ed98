"""Pruning during `fit`, without wrapper layers: a weight that is zero counts as removed."""

import keras
import numpy as np
from keras import ops

from tfcompress import score as scores_of
from tfcompress.callbacks.optimizer_state import averages_of, check_no_latents
from tfcompress.graph.paths import check_patterns
from tfcompress.pruning.masks import prunable, tighten
from tfcompress.schedules import check_schedule, value_at
from tfcompress.utils.batches import check_repeats
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import Data, Layers, Logs, Schedule, Scope, Score


class Prune(keras.callbacks.Callback):
    """Zeroes the weights with the lowest scores during `fit`, following a schedule of sparsities.

    Once in `every` batches the share of zeros is raised to `schedule(step)`, where `step` counts
    the batches of this `fit`, including those of epochs before `initial_epoch`. After each batch
    the removed weights are zeroed again, in the model and in the optimizer's moving averages, so
    that other callbacks, checkpoints and evaluations see a pruned model. A weight that is zero when
    `fit` begins stays zero, so that a resumed `fit` continues with the same masks.

    The kernels of Dense, EinsumDense, convolution and recurrent layers and the `prunable` variables
    of compressed layers are pruned. Biases, normalization, embeddings and frozen layers are not.
    `logs` gets `sparsity`, the share of zeros in the pruned variables.

    Args:
        schedule: function of the step that returns a sparsity in [0, 1) and never falls: a schedule
            of `tfcompress.schedules` or of `tensorflow_model_optimization`, or any callable.
        score: how much a weight is worth: `"magnitude"`, `|w|`; `"obd"`, `d w^2 / 2`, where the
            curvature `d` is measured again each time; `"random"`; or a callable `(w, d)` that
            returns an array of the shape of `w`, such as the patterns of `tfcompress.score`.
        data: the data that the curvature is measured on (see `tfcompress.curvature.gauss_newton`).
            `"obd"` needs them; a callable score gets `d=None` without them.
        layers: a name, path or glob, or a list of these.
        scope: `"global"` ranks the weights of all kernels together, `"layer"` each kernel alone.
        floor: the smallest share of its weights that each kernel keeps.
        every: the number of batches from one ranking to the next.

    Raises:
        ValueError: an argument is out of range; at the start of `fit`: `layers` matches nothing or
            names a layer that cannot be pruned, a kernel is all zeros, the schedule falls or leaves
            [0, 1), or the optimizer is `ProxNewton`, whose latent weights would bring pruned
            weights back.

    Cost: one pass over the pruned kernels after each batch, which is 4% of a step of a small
    ResNet. For networks whose step takes only a few milliseconds,
    `compile(steps_per_execution=10)` lowers it.

    List `EarlyStopping(restore_best_weights=True)` before this callback, so that the weights that
    it restores at the end are pruned as well.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("adam", "mse")
    >>> x = np.ones((8, 4))
    >>> prune = Prune(lambda step: 0.75, every=1)
    >>> _ = model.fit(x, x[:, :1], callbacks=[prune], verbose=0)
    >>> int(np.sum(model.get_weights()[0] == 0))
    15

    References: LeCun et al., "Optimal Brain Damage", 1990; Zhu, Gupta, "To prune, or not to prune:
    exploring the efficacy of pruning for model compression", 2017 (the gradual schedule).
    """

    def __init__(
        self,
        schedule: Schedule,
        score: Score = "magnitude",
        data: Data | None = None,
        layers: Layers = "*",
        scope: Scope = "global",
        floor: float = 0.0,
        every: int = 100,
    ) -> None:
        super().__init__()
        self.schedule = check_schedule(schedule)
        _check_sparsities(schedule)
        self.score = _check_score(score, data)
        self.data = data
        self.layers = check_patterns(layers)
        self.scope = scope
        self.floor = floor
        self.every = every
        self.sparsity = 0.0
        self._masks = None
        self._target = 0.0
        if data is not None:
            check_repeats(data, 2)
        if scope not in ("global", "layer"):
            raise ValueError(f"Expected scope 'global' or 'layer'. Received: scope={scope!r}")
        if not 0 <= floor < 1:
            raise ValueError(f"Expected `floor` in [0, 1). Received: floor={floor!r}")
        whole_number(every, "every")

    def on_train_begin(self, logs: Logs = None) -> None:
        prunable(self.model, self.layers)
        check_no_latents(self.model.optimizer)
        self._masks = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self._masks is None:
            self._done = self._steps_before(epoch)
        self._epoch, self._epoch_begin = epoch, self._done

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self._masks is None:  # only now has every callback restored what it restores
            self._check_targets()
            self._masks = {
                path: _nonzero(path, v) for path, v in prunable(self.model, self.layers).items()
            }
            self._prune(self._last_ranking())

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        steps = self.params.get("steps") or np.inf
        done = self._epoch_begin + int(min(batch + 1, steps))
        # Keras may run several steps at once (`steps_per_execution`), so `every` can be jumped over
        due = done // self.every > self._done // self.every
        last = batch + 1 >= steps and self._epoch + 1 == self.params["epochs"]
        self._done = done
        self._zero()
        if due or last:
            self._prune(done)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_train_end(self, logs: Logs = None) -> None:
        if self._masks is not None:
            self._zero()
            self._prune(self._done)

    def _steps_before(self, epoch):
        """The number of batches in earlier epochs, including a `fit` that this one resumes."""
        if epoch and not self.params.get("steps"):
            return int(self.model.optimizer.iterations)
        return epoch * (self.params.get("steps") or 0)

    def _last_ranking(self):
        """The step of the last ranking of a `fit` from the beginning, which this one goes on with.

        The first one here reaches the sparsity of that step: a resumed model has it already.
        """
        steps = self.params.get("steps") or max(self._done, 1)
        at_once = int(self.model.steps_per_execution)
        due = self._done // self.every * self.every
        batch = due % steps
        return due - batch + min(-(-batch // at_once) * at_once, steps)

    def _check_targets(self):
        """Tries the schedule at 100 steps, so that a bad one is found before any training."""
        self._target, self._scored = 0.0, -1
        end = self.params["epochs"] * (self.params.get("steps") or 0)
        for step in np.linspace(self._done, max(end, self._done), 101).astype(int):
            self._next_target(int(step), since=int(step) - 1)
        self._target = 0.0

    def _next_target(self, step, since):
        """The sparsity that the schedule asks for at a step, checked."""
        target = value_at(self.schedule, step, since)
        if target is None:
            return self._target
        if not 0 <= target < 1:
            raise ValueError(f"A sparsity lies in [0, 1). The schedule gives {target} at {step}.")
        if target > 1 - self.floor + 1e-6:
            raise ValueError(
                f"The schedule asks for a sparsity of {target} at step {step}, but "
                f"floor={self.floor} allows {1 - self.floor} at most."
            )
        if target < self._target - 1e-6:
            raise ValueError(
                f"The schedule falls from {self._target} to {target} at step {step}, and a pruned "
                "weight does not come back. Give a schedule that never falls."
            )
        self._target = target
        return target

    def _prune(self, step):
        """Raises the sparsity to that of the schedule; removed weights must be zero already."""
        if self._scored < step:
            before = self._target
            target = self._next_target(step, self._scored)
            self._scored = step
            masks = self._mask_arrays()
            if target > before:
                masks = tighten(masks, self._scores(), target, self.scope, self.floor)
                self._masks = {path: ops.convert_to_tensor(mask) for path, mask in masks.items()}
                self._zero()
            self.sparsity = _sparsity(masks)

    def _mask_arrays(self):
        return {path: ops.convert_to_numpy(mask) for path, mask in self._masks.items()}

    def _scores(self):
        curvature = None
        if self.data is not None and self.score not in (scores_of.magnitude, scores_of.random):
            from tfcompress.measure.curvature import gauss_newton

            curvature = gauss_newton(self.model, self.data)
        weights = prunable(self.model, self.layers)
        if curvature is not None and (missing := set(weights) - set(curvature)):
            raise ValueError(
                f"No curvature is known of {sorted(missing)}. Leave them out of `layers`, or use "
                "score='magnitude'."
            )
        return {
            path: self.score(ops.convert_to_numpy(v), curvature and curvature[path])
            for path, v in weights.items()
        }

    def _zero(self):
        """Zeroes the removed weights again, since the optimizer's momentum moves them."""
        model = self.model  # on JAX this brings the variables up to date
        averages = averages_of(model.optimizer)
        for path, variable in prunable(model, self.layers).items():
            for v in (variable, averages.get(id(variable))):
                if v is not None:
                    v.assign(ops.where(self._masks[path], ops.convert_to_tensor(v), 0))


def _check_sparsities(schedule):
    """Raises for a schedule of ours that leaves [0, 1), before any training."""
    names = ("value", "start", "end")
    given = [getattr(schedule, name) for name in names if hasattr(schedule, name)]
    for value in [*given, *dict(getattr(schedule, "values", {})).values()]:
        if not 0 <= value < 1:
            meant = f" Did you mean {value / 100:g}?" if 1 < value < 100 else ""
            raise ValueError(f"A sparsity lies in [0, 1).{meant} Received: {schedule!r}")


def _check_score(score, data):
    score = scores_of.get(score)
    if score is scores_of.obd and data is None:
        raise ValueError("score='obd' needs `data` to measure the curvature on.")
    return score


def _nonzero(path, variable):
    """The mask of the weights that are not zero."""
    mask = ops.not_equal(ops.convert_to_tensor(variable), 0)
    if not ops.any(mask):
        raise ValueError(
            f"The kernel of {path!r} is all zeros, and `Prune` keeps zeros at zero. Give it "
            "another initializer, or leave it out of `layers`."
        )
    return mask


def _sparsity(masks):
    return 1 - float(sum(m.sum() for m in masks.values()) / sum(m.size for m in masks.values()))
