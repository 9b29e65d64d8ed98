"""Pruning in `fit`: no wrapper layers and nothing to strip, zero is the mask."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress import score as scores_of
from tfcompress.graph.private_keras import moving_averages
from tfcompress.optimizers import ProxNewton
from tfcompress.pruning.masks import check_patterns, prunable, tighten
from tfcompress.schedules import check_schedule, value_at
from tfcompress.utils.batches import check_repeats
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import Data, Layers, Logs, Schedule, Scope, Score


class Prune(keras.callbacks.Callback):
    """Zeroes the weights with the lowest scores during `fit`, until a schedule's sparsity.

    Every `every` batches the share of zeros is raised to `schedule(step)`, where `step` counts the
    batches of this `fit` (epochs before `initial_epoch` included), and after each batch the removed
    weights are zeroed again, in the model and in the optimizer's moving averages. So zeros hold
    whenever another callback, a checkpoint or an evaluation looks. What is zero when `fit` begins
    stays zero, so a resumed `fit` goes on with the same masks.

    Pruned are the kernels of Dense, EinsumDense and convolution layers and the `prunable` variables
    of compressed layers. Biases, norms, embeddings, recurrent and frozen layers are left alone.
    `logs` gets `sparsity`, the share of zeros in these kernels.

    Args:
        schedule: step -> sparsity in [0, 1), never falling: one of `tfcompress.schedules`, any
            callable, or a schedule of `tensorflow_model_optimization`.
        score: which weights matter: `"magnitude"`, |w|; `"obd"`, d w^2 / 2 with the curvature d
            measured anew each time; or a callable `(w, d) -> array like w`, such as the patterns of
            `tfcompress.score`.
        data: what the curvature is measured on (see `tfcompress.curvature.gauss_newton`). Needed by
            `"obd"`; a callable score gets `d=None` without it.
        layers: a name, path or glob, or a list of these.
        scope: `"global"`, one ranking over all kernels, or `"layer"`, one for each.
        floor: the smallest share of weights that each kernel keeps.
        every: how many batches lie between two scorings.

    Raises:
        ValueError: bad arguments; at the start of `fit`: `layers` matches nothing or names a layer
            that cannot be pruned, a kernel is all zeros, the schedule falls or leaves [0, 1); the
            optimizer is `ProxNewton`, whose latents would bring pruned weights back.

    Cost: one pass over the pruned kernels after each batch, 4% of a step of a small ResNet. On nets
    whose step takes a few milliseconds `compile(steps_per_execution=10)` makes it rarer.

    List `EarlyStopping(restore_best_weights=True)` before this callback: what it restores at the
    end is then pruned as well.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("adam", "mse")
    >>> x = np.ones((8, 4))
    >>> prune = Prune(lambda step: 0.75, every=1)
    >>> _ = model.fit(x, x[:, :1], callbacks=[prune], verbose=0)
    >>> int(np.sum(model.get_weights()[0] == 0))
    15

    Paper: Y. LeCun, J. S. Denker, S. A. Solla, "Optimal Brain Damage", 1989. The gradual schedule
    is from M. Zhu, S. Gupta, "To prune, or not to prune", 2017.
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
            self._prune()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        steps = self.params.get("steps") or np.inf
        done = self._epoch_begin + int(min(batch + 1, steps))
        due = done // self.every > self._done // self.every
        last = batch + 1 >= steps and self._epoch + 1 == self.params["epochs"]
        self._done = done
        self._zero()
        if due or last:
            self._prune()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_train_end(self, logs: Logs = None) -> None:
        if self._masks is not None:
            self._zero()
            self._prune()

    def _steps_before(self, epoch):
        """The batches of earlier epochs, also of a `fit` that this one resumes."""
        if epoch and not self.params.get("steps"):
            return int(self.model.optimizer.iterations)
        return epoch * (self.params.get("steps") or 0)

    def _check_targets(self):
        self._target, self._scored = 0.0, self._done - 1
        end = self.params["epochs"] * (self.params.get("steps") or 0)
        for step in np.linspace(self._done, max(end, self._done), 101).astype(int):
            self._next_target(int(step), since=int(step) - 1)
        self._target = 0.0

    def _next_target(self, step, since):
        target = value_at(self.schedule, step, since)
        if target is None:
            return self._target
        if not 0 <= target < 1:
            raise ValueError(f"A sparsity lies in [0, 1). The schedule gives {target} at {step}.")
        if target > 1 - self.floor + 1e-6:
            raise ValueError(
                f"The schedule asks a sparsity of {target} at step {step}, and floor={self.floor} "
                f"allows {1 - self.floor} at most."
            )
        if target < self._target - 1e-6:
            raise ValueError(
                f"The schedule falls from {self._target} to {target} at step {step}, and a pruned "
                "weight does not come back. Give a schedule that never falls."
            )
        self._target = target
        return target

    def _prune(self):
        """Raises the sparsity to the schedule's; the weights that are gone must be zero."""
        if self._scored < self._done:
            before = self._target
            target = self._next_target(self._done, self._scored)
            self._scored = self._done
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
                f"No curvature is known of {sorted(missing)}. Leave these out by `layers`, or use "
                "score='magnitude'."
            )
        return {
            path: self.score(ops.convert_to_numpy(v), curvature and curvature[path])
            for path, v in weights.items()
        }

    def _zero(self):
        """Zeroes the removed weights, which the optimizer's momentum has moved."""
        model = self.model  # on JAX this brings the variables up to date
        averages = _averages(model.optimizer)
        for path, variable in prunable(model, self.layers).items():
            for v in (variable, averages.get(id(variable))):
                if v is not None:
                    v.assign(ops.where(self._masks[path], ops.convert_to_tensor(v), 0))


def check_no_latents(optimizer: Any) -> None:
    """Raises `ValueError` under an optimizer that owns the weights."""
    if any(isinstance(one, ProxNewton) for one in _optimizers(optimizer)):
        raise ValueError(
            "`ProxNewton` keeps float latents, from which the next step would bring pruned weights "
            "back. Prune first and train with `tfc.project.Ternary` or `KSparse` afterwards, or "
            "prune under another optimizer."
        )


def _optimizers(optimizer):
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(optimizer, "optimizers", [optimizer])


def _check_score(score, data):
    score = scores_of.get(score)
    if score is scores_of.obd and data is None:
        raise ValueError("score='obd' needs `data` to measure the curvature on.")
    return score


def _nonzero(path, variable):
    mask = ops.not_equal(ops.convert_to_tensor(variable), 0)
    if not ops.any(mask):
        raise ValueError(
            f"The kernel of '{path}' is all zeros, and what is zero stays zero under `Prune`. Give "
            "it another initializer, or leave it out by `layers`."
        )
    return mask


def _sparsity(masks):
    return 1 - float(sum(m.sum() for m in masks.values()) / sum(m.size for m in masks.values()))


def _averages(optimizer):
    """`{id(variable): its moving average}` of the optimizers that keep one."""
    found = {}
    for one in _optimizers(optimizer):
        if getattr(one, "use_ema", False) and one.built:
            found |= {id(variable): average for variable, average in moving_averages(one)}
    return found
