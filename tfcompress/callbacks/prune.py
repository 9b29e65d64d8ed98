"""Pruning during `fit`, without wrapper layers: a weight that is zero counts as removed."""

import math

import keras
import numpy as np
from keras import ops

from tfcompress.callbacks.best_epochs import AtTheEnd
from tfcompress.callbacks.optimizer_state import averages_of, check_no_latents
from tfcompress.callbacks.places import leave_places, take_places
from tfcompress.callbacks.prune_checks import check_score, check_sparsities, nonzero, sparsity_of
from tfcompress.callbacks.steps import steps_before
from tfcompress.graph.paths import check_patterns
from tfcompress.graph.private_training import callback_list
from tfcompress.pruning.curvature_of_score import check_weighs, curvature_of
from tfcompress.pruning.kernel_scores import kernel_scores
from tfcompress.pruning.masks import prunable, tighten, warn_of_left_out
from tfcompress.schedules import check_schedule, last_value, value_at
from tfcompress.utils.batches import check_repeats
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import ClassWeight, Data, Layers, Logs, Schedule, Scope, Score


class Prune(keras.callbacks.Callback):
    """Zeroes the weights with the lowest scores during `fit`, following a schedule of sparsities.

    Once in `every` batches the share of zeros is raised to `schedule(step)`, where `step` counts
    the batches of this `fit`, including those of epochs before `initial_epoch`. After each batch
    the removed weights are zeroed again, in the model and in the optimizer's moving averages, so
    that other callbacks, checkpoints and evaluations see a pruned model, wherever this callback
    stands in the list. A weight that is zero when `fit` begins stays zero, so that a resumed `fit`
    continues with the same masks.

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
        class_weight: `{class: weight}` of the labels in `data`, as in `fit`, for scores that use
            the curvature.

    Raises:
        ValueError: an argument is out of range; at the start of `fit`: `layers` matches nothing or
            names a layer that cannot be pruned, a kernel is all zeros, the schedule falls or leaves
            [0, 1), or the optimizer is `ProxNewton`, whose latent weights would bring pruned
            weights back.

    Cost: one pass over the pruned kernels after each batch, which is 4% of a step of a small
    ResNet; two passes where a callback that acts at batch ends is listed before this one. For
    networks whose step takes only a few milliseconds, `compile(steps_per_execution=10)` lowers it.

    Weights that `EarlyStopping(restore_best_weights=True)` restores are pruned too, wherever it
    stands in the list. At the end of `fit` one warning says what sparsity was reached and what was
    asked for, if the schedule is longer than the training, or if the best epoch of `EarlyStopping`
    or `ModelCheckpoint` lies before its end. Layers with kernels or tables that `layers` matches
    and that cannot be pruned are named in a warning at the start. What is trainable then is pruned,
    whatever other callbacks freeze or unfreeze later.

    In a training loop of your own call `set_model`, `on_train_begin`, `on_epoch_begin`,
    `on_train_batch_begin`, `on_train_batch_end` after each step, and `on_train_end`.

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
        class_weight: ClassWeight = None,
    ) -> None:
        super().__init__()
        self.schedule = check_schedule(schedule)
        check_sparsities(schedule)
        self.score = check_score(score, data)
        check_weighs(score, data, class_weight)
        self.data, self.class_weight = data, class_weight
        self.layers = check_patterns(layers)
        self.scope = scope
        self.floor = floor
        self.every = every
        self.sparsity = 0.0
        self._masks = self._list = None
        self._early = False  # whether another callback calls `end_batch`
        self._pruned = {}  # variables by path
        self._target, self._done, self._epoch, self._epoch_begin = 0.0, 0, 0, 0
        if data is not None:
            check_repeats(data, 2)
        if scope not in ("global", "layer"):
            raise ValueError(f"Expected scope 'global' or 'layer'. Received: scope={scope!r}")
        if not 0 <= floor < 1:
            raise ValueError(f"Expected `floor` in [0, 1). Received: floor={floor!r}")
        whole_number(every, "every")

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._list = callback_list()

    def on_train_begin(self, logs: Logs = None) -> None:
        if self.model.built:  # else the first batch builds it
            self._check_model()
        self._masks, self._done, self._epoch, self._epoch_begin = None, 0, 0, 0
        self._early = self._list is not None and take_places(self, Prune, self._list)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self._masks is None:
            self._done = steps_before(self, epoch)
        self._epoch, self._epoch_begin = epoch, self._done

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self.model is None:
            raise ValueError("In a training loop of your own, call `set_model(model)` first.")
        if self._masks is None and self.model.built:
            self._start()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._early:
            self._zero()  # callbacks since then may have moved weights
        else:
            self.end_batch(batch)

    def end_batch(self, batch: int) -> None:
        """Zeroes what the batch has moved, and prunes where that is due."""
        steps = self._steps() or np.inf
        done = self._epoch_begin + int(min(batch + 1, steps))
        # Keras may run several steps at once (`steps_per_execution`), so `every` can be jumped over
        due = done // self.every > self._done // self.every
        last = batch + 1 >= steps and self._epoch + 1 == (self.params or {}).get("epochs")
        if done <= self._done:
            raise ValueError(
                "The number of the batch fell. List a callback once; in a loop of your own call "
                f"`on_epoch_begin` for each epoch. Received: batch {batch} after step {self._done}"
            )
        if self._masks is None:  # this batch has built the model
            self._check_model()
            self._start()
        self._done = done
        self._zero()
        if due or last:
            self._prune(done)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_train_end(self, logs: Logs = None) -> None:
        if self._list is not None:  # what acts for this one still ends this training
            leave_places(self, self._list)
        if self._masks is not None:
            self._restored = self._share()
            self._zero()
            self._prune(self._done)
            if self._list is None:  # else the last callback of all does this
                AtTheEnd(self, []).on_train_end()

    def _check_model(self):
        """Raises if nothing can be pruned, and warns of what is not."""
        prunable(self.model, self.layers)
        check_no_latents(self._optimizer())
        warn_of_left_out(self.model, self.layers)

    def _start(self):
        """Takes what is zero as pruned: only now has every callback restored what it restores."""
        self._check_targets()
        self._pruned = prunable(self.model, self.layers)
        self._masks = {path: nonzero(path, v) for path, v in self._pruned.items()}
        self._prune(self._last_ranking())

    def finish(self) -> float:
        """Zeroes the removed weights once more; returns what share callbacks had left zero."""
        if self._masks is None:  # nothing was trained
            return 0.0
        self._restored = min(self._restored, self._share())
        self._zero()
        return self._restored

    def _share(self):
        """The share of zeros in the weights as they are."""
        weights = self._pruned.values()
        zeros = sum(int(ops.count_nonzero(ops.equal(ops.convert_to_tensor(v), 0))) for v in weights)
        return zeros / sum(math.prod(v.shape) for v in weights)

    def asked(self) -> float | None:
        """The sparsity that the schedule comes to, if that can be told."""
        return last_value(self.schedule)

    @property
    def steps_done(self) -> int:
        """How many steps were trained, those before a resumed `fit` included."""
        return self._done

    def _optimizer(self):
        return getattr(self.model, "optimizer", None)

    def _steps(self):
        return (self.params or {}).get("steps")

    def _last_ranking(self):
        """The step of the last ranking of a `fit` from the beginning, which this one goes on with.

        The first one here reaches the sparsity of that step: a resumed model has it already.
        """
        steps = self._steps() or max(self._done, 1)
        at_once = int(self.model.steps_per_execution)
        due = self._done // self.every * self.every
        batch = due % steps
        return due - batch + min(-(-batch // at_once) * at_once, steps)

    def _check_targets(self):
        """Tries the schedule at 100 steps, so that a bad one is found before any training."""
        self._target, self._scored = 0.0, -1
        end = (self.params or {}).get("epochs", 0) * (self._steps() or 0)
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
            self.sparsity = sparsity_of(masks)

    def _mask_arrays(self):
        return {path: ops.convert_to_numpy(mask) for path, mask in self._masks.items()}

    def _scores(self):
        curvature = curvature_of(self.model, self.score, self.data, self.class_weight)
        if curvature is not None and (missing := set(self._pruned) - set(curvature)):
            raise ValueError(
                f"No curvature is known of {sorted(missing)}. Leave them out of `layers`, or use "
                "score='magnitude'."
            )
        return kernel_scores(self._pruned, self.score, curvature or {})

    def _zero(self):
        """Zeroes the removed weights again, since the optimizer's momentum moves them."""
        averages = averages_of(self._optimizer())  # on JAX this brings the variables up to date
        for path, variable in self._pruned.items():
            for v in (variable, averages.get(id(variable))):
                if v is not None:
                    v.assign(ops.where(self._masks[path], ops.convert_to_tensor(v), 0))
