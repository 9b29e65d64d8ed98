"""Plans carried out: the models that `compress` and `search` make at one budget after another."""

import os
import threading
import warnings
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from tfcompress.archive import files as archive
from tfcompress.export import unverified
from tfcompress.export.exported import exported
from tfcompress.export.samples import sample_arrays
from tfcompress.graph.private_training import compiled_loss
from tfcompress.measure.objective import Objective
from tfcompress.planning.examples import (
    Stream,
    calibration,
    hold_out,
    read,
    some_of,
    streamed,
    weighed,
)
from tfcompress.planning.file_model import FileModel
from tfcompress.planning.latency.layer_times import LayerTimes
from tfcompress.planning.plan_result import Plan, amount
from tfcompress.planning.planner import Planner
from tfcompress.planning.quality import Quality
from tfcompress.planning.training.fine_tuner import FineTuner
from tfcompress.planning.training.trainer import BATCH_SIZE, Trainer, Training
from tfcompress.utils.budgets import Limit
from tfcompress.utils.checks import whole_number
from tfcompress.utils.progress import showing
from tfcompress.utils.types import (
    Activations,
    ClassWeight,
    Data,
    FineTune,
    Loss,
    Path,
    Rest,
    Store,
    Target,
)
from tfcompress.utils.writers import temporary_folder

LEARNING_RATE = 1e-3  # of Adam at the start; it falls to 0 by a cosine
TEMPERATURE, ALPHA = 2.0, 0.5  # of the Distiller
SIZE_ATTEMPTS = 6  # to bring the size of a file below a budget
REST: Rest = "int8"  # of kernels in the file that no form has taken
CHECKED_EXAMPLES = 32  # that a file is verified with
RANGE_EXAMPLES = 500  # that ranges are measured and a full-integer file is verified with
SMALLER = ' `store="small"` needs less, and its files run slower.'
FILES = ("tflite", "archive")  # the targets that count bytes

_ABOVE = (
    "After each of {} trainings the model was above the budget: {:,} where {:,} were asked for."
)

_ALONE = threading.RLock()  # the seeds of a training are those of the whole process


@dataclass(frozen=True)
class Attempt:
    """A plan carried out.

    Attributes:
        plan: the form of each layer.
        model: the compressed model after training.
        size: in the unit of the target.
        score: of the model on the validation data, see `Quality`.
        training: what it gave; None without.
    """

    plan: Plan
    model: keras.Model
    size: float
    score: float
    training: Training | None = None


class Known(NamedTuple):
    """What a `Compressor` measured, for one of the same model; see it and `Planner.by_number`."""

    options: list
    float_size: float
    smallest_size: float
    before: float


class Compressor:
    """Compresses one model to several budgets; data, measured forms and teacher are shared.

    Args: see `compress`; `known` is what another one has measured, `time` a limit of milliseconds.

    Attributes:
        arguments: all but the model, with data that are held in memory as arrays, weighted.
        known: what was measured.
        float_size, smallest_size: of the model itself, and with the smallest form of each layer.
        before: the score of the model itself.
        tried: `[(budget as a share of the float size, size, score)]` of all attempts.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        metric: Any,
        fine_tune: FineTune,
        teacher: Any,
        validation_data: Data | None,
        target: Target,
        store: Store,
        loss: Loss,
        seed: int = 0,
        executor: Executor | None = None,
        known: Known | None = None,
        latency: Path | LayerTimes | None = None,
        time: Limit | None = None,
        class_weight: ClassWeight = None,
        batch_size: int = BATCH_SIZE,
        activations: Activations = "int8",
        train: Data | None = None,
        max_drop: float | None = None,
    ) -> None:
        whole_number(batch_size, "batch_size")
        self.model, self.fine_tune, self.activations = model, fine_tune, activations
        self.teacher = model if isinstance(teacher, str) else teacher
        self.loss, loss_weights = loss, None
        if loss is None and (compiled := compiled_loss(model)) is not None:
            self.loss, loss_weights = compiled
        self.target, self.store, self.seed, self.tried = target, store, seed, []
        weights = class_weight, self.loss
        self.train, validation, taught = _sets(model, data, validation_data, train, loss, weights)
        self.arguments = {
            "data": self.train.data if isinstance(self.train, Stream) else self.train,
            "metric": metric,
            "fine_tune": fine_tune,
            "teacher": self.teacher,
            "validation_data": validation,
            "target": target,
            "store": store,
            "loss": loss,
            "seed": seed,
            "time": time,
            "batch_size": batch_size,
        }
        self.quality = Quality(model, validation, metric, loss)
        self.quality.check_drop(max_drop)
        examples = calibration(self.train)
        if isinstance(self.train, Stream):
            self.train = self.train._replace(held=[])
        self.calibration = examples[0]
        self.check = some_of(self.calibration, RANGE_EXAMPLES if self.static else CHECKED_EXAMPLES)
        taught = self.train if taught is None else taught
        given = model, self.teacher, self.loss, loss_weights, taught, self.calibration, batch_size
        scored = self.score, self.quality.drop, self.check if self.static else None
        self.tuner = FineTuner(Trainer(*given), fine_tune, seed, *scored)
        sample_arrays(exported(model, self.check), self.check)  # raises what a file cannot take
        if self.static:
            self.file(model)  # raises where that cannot be done
        labelled = self.loss is not None and examples[1] is not None
        given, measured = examples if labelled else examples[0], known and known.options
        terms = None, store, executor, measured, latency, time, REST, None, activations
        self.planner = Planner(model, given, target, loss if labelled else None, *terms)
        self.arguments["latency"] = None if latency is None else self.planner.times
        if known is None:
            known = self._measured()
        self.known, self.float_size, self.smallest_size, self.before = known, *known[1:]

    def _measured(self) -> Known:
        float_size = self.size(self.model, self.planner.float_cost, "float32")
        smallest = self.planner.smallest()
        smallest_size = self.size(smallest.model, smallest.cost)
        return Known(self.planner.by_number(), float_size, smallest_size, self.quality(self.model))

    def share(self, limit: Limit) -> float:
        """A budget as a share of what the float32 model takes, at most 1 but of time."""
        unit = 8 if self.target == "bits" else 1
        share = limit.of(self.float_size, unit) / self.float_size
        return share if self.target == "milliseconds" else min(1.0, share)

    def attempt(
        self,
        budget: float,
        rate: float = LEARNING_RATE,
        alpha: float = ALPHA,
        temperature: float = TEMPERATURE,
        factors: Any = None,
    ) -> Attempt:
        """Makes a plan for a budget, trains its model, and measures size and score.

        Args:
            budget: a share of what the float32 model takes.
            rate, alpha, temperature: of the training and its `Distiller`.
            factors: of the expected damage of each layer, see `Planner.plan_for`.
        """
        with _ALONE, showing() as display, display.loop(f"Budget {budget:.4g}", 1) as shown:
            shown.at("planning")
            made = self._attempt(budget, rate, alpha, temperature, factors)
            shown.at("")
            units = f"bytes of {self.target}" if self.target in FILES else self.target
            score = f"{self.quality.name} {made.score:.4f}"
            shown.done(f"{amount(made.size, self.target)} {units}, {score}")
        return made

    def _attempt(self, budget, rate, alpha, temperature, factors):
        allowed = budget * self.float_size
        allowed = aim = allowed if self.target == "milliseconds" else round(allowed)
        for attempt in range(1, SIZE_ATTEMPTS + 1):
            plan, before = self.plan_within(aim, factors)
            model, training = plan.model, None
            if self.fine_tune:
                model, training = self.tuner(model, rate, alpha, temperature)
            size = self.size(model, plan.cost)
            if size <= allowed:
                break
            # Training changed how well the weights can be coded, so the next plan aims lower.
            aim = max(allowed - attempt * (size - before), self.smallest_size)
        else:
            warnings.warn(_ABOVE.format(SIZE_ATTEMPTS, size, allowed), stacklevel=2)
        score = self.score(model) if training is None else training.after
        self.tried.append((budget, size, score))
        return Attempt(plan, model, size, score, training)

    def score(self, model: keras.Model) -> float:
        """The metric of a model, or of its file if that is full-integer."""
        return self.quality(FileModel(self.file(model), model) if self.static else model)

    def drop(self, attempt: Attempt) -> float:
        """By how much an attempt is worse than the model itself."""
        return self.quality.drop(self.before, attempt.score)

    def plan_within(self, allowed: float, factors: Any = None) -> tuple[Plan, float]:
        """A plan whose model, before training, is no larger than allowed, and its size."""
        if self.target == "milliseconds":
            plan = self.planner.plan_for(allowed, factors)
            return plan, plan.cost
        if allowed < self.smallest_size:
            could = (self.target, self.store, self.static) == ("tflite", "fast", False)
            raise ValueError(
                f"Even the smallest forms exceed the budget: they need {self.smallest_size:,} of "
                f"{self.float_size:,}.{SMALLER * could} Received: {int(allowed):,}"
            )
        # The planner counts the kernels alone; a file also holds biases, structure and tables.
        budget = self.planner.smallest_cost + allowed - self.smallest_size
        for attempt in range(1, SIZE_ATTEMPTS + 1):
            plan = self.planner.plan_for(max(int(budget), self.planner.smallest_cost), factors)
            size = self.size(plan.model, plan.cost)
            if size <= allowed:
                return plan, size
            budget -= attempt * (size - allowed)  # by more each time: forms come in steps
        return self.planner.smallest(), self.smallest_size

    @property
    def static(self) -> bool:
        """Whether files are full-integer; they are scored then, and not their models."""
        return self.activations == "static_int8"

    def file(self, model: keras.Model) -> bytes:
        """The file of a model, not verified; its ranges are those of the examples."""
        check = self.check if self.static or self.store == "small" else None
        return unverified(model, self.store, REST, self.activations, check)

    def size(self, model: keras.Model, cost: Any, rest: Rest = REST) -> float:
        """The size of a model in the unit of the target, where its plan has a cost.

        In a file, kernels that no form has taken are of the type `rest`.
        """
        if self.target == "tflite":
            return len(self.file(model) if rest == REST else unverified(model, self.store, rest))
        if self.target == "archive":
            with temporary_folder() as folder:
                return archive.save(model, os.path.join(folder, "model"), half=True)
        return cost


def _sets(model, data, validation_data, train, loss, weights) -> tuple:
    """What is planned on, what is scored on, and what is trained on if that is something else.

    Args:
        weights: `(class_weight, loss)` of the training.
    """
    check_labels = None if weights[1] is None else Objective(model, loss).check_labels
    planned, own = read(model, data, check_labels), None
    if validation_data is None:
        planned, validation = hold_out(planned)
    else:
        validation = read(model, validation_data, check_labels)
    if isinstance(validation, Stream):
        raise ValueError(
            "`validation_data` are held in memory. Expected at most 512 MiB. Received: more"
        )
    if train is not None:
        own = weighed(streamed(model, train, check_labels), *weights)
    return weighed(planned, *weights), validation, own
