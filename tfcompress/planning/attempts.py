"""Plans carried out: what `compress` and `search` try, at one budget after another."""

import os
import tempfile
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfcompress.archive import files as archive
from tfcompress.distillation.distiller import Distiller
from tfcompress.export import file_bytes
from tfcompress.graph.layerwise import graph_of
from tfcompress.planning.plan_result import Plan
from tfcompress.planning.planner import Planner
from tfcompress.rewriting.swap import copy
from tfcompress.utils.arrays import concatenated, rows
from tfcompress.utils.batches import batches

BATCH = 128
RATE = 1e-3  # of Adam; it falls to 0 by a cosine
TEMPERATURE, ALPHA = 2.0, 0.5
CALIBRATION = 2000  # examples that plans are made on
HELD = 10  # a tenth of the data is held out, if no other is given to validate on
TRIES = 4  # to bring the size of a file below a budget


@dataclass(frozen=True)
class Attempt:
    """A plan carried out: the model after training, its size, and its metric."""

    plan: Plan
    model: keras.Model
    size: int
    value: float


class Work:
    """What the attempts at several budgets share: the data, the measured forms, the teacher."""

    def __init__(
        self, model, data, metric, fine_tune, teacher, validation_data, target, store, loss, seed=0
    ):
        self.model, self.metric, self.fine_tune = model, metric, fine_tune
        self.teacher = model if isinstance(teacher, str) else teacher
        self.loss = loss if loss is not None or not model.compiled else model.loss
        self.target, self.store, self.seed = target, store, seed
        self.tried, self.cache = [], None
        self.train, self.held = arrays(data), validation_data
        if self.held is None:
            self.train, self.held = _hold_out(self.train)
        self.held = _labelled(model, arrays(self.held))
        if self.train[1] is None:
            self.loss = None
        count = len(keras.tree.flatten(self.train[0])[0])
        some = rows(self.train, np.linspace(0, count - 1, min(count, CALIBRATION)).astype(int))
        given = some[0] if self.loss is None else some
        self.calibration = some[0]
        self.planner = Planner(model, given, target, self.loss, store=store)
        self.whole = self.measure(model, self.planner.whole)
        smallest = self.planner.smallest()
        self.least = self.measure(smallest.model, smallest.cost)
        self.before = self.value(model)

    def share(self, budget) -> float:
        """A budget as a share of what the float32 model takes."""
        unit = 8 if self.target == "bits" else 1
        return budget if budget <= 1 else min(1.0, budget * unit / self.whole)

    def attempt(self, budget, rate=RATE, alpha=ALPHA, temperature=TEMPERATURE, bend=None):
        """Plans for a budget, trains, and measures; for `bend` see `Planner.plan`."""
        allowed = aim = round(self.share(budget) * self.whole)
        for _ in range(TRIES):
            plan, before = self.fitting(aim, bend)
            keras.utils.set_random_seed(self.seed)
            model = plan.model
            if callable(self.fine_tune):
                self.fine_tune(model, self.teacher, self.train)
            elif self.fine_tune:
                model = self.trained(plan, rate, alpha, temperature)
            size = self.measure(model, plan.cost)
            if size <= allowed:  # training may have changed what a coder or a file makes of it
                break
            aim = allowed - (size - before)
        value = self.value(model)
        self.tried.append((size / self.whole, size, value))
        return Attempt(plan, model, size, value)

    def fitting(self, allowed, bend=None):
        """A plan whose model, not trained yet, holds the budget, and its size."""
        least, whole = self.planner.least, self.planner.whole
        if allowed < self.least:
            raise ValueError(
                f"Even the smallest forms exceed the budget: they need {self.least:,}, "
                f"{self.least / self.whole:.1%} of {self.whole:,}. Received: {int(allowed):,}"
            )
        ratio = (whole - least) / max(self.whole - self.least, 1)
        budget = least + ratio * (allowed - self.least)  # of the kernels alone
        for _ in range(TRIES):
            plan = self.planner.plan_for(max(int(budget), least), bend)
            size = self.measure(plan.model, plan.cost)
            if size <= allowed:
                return plan, size
            budget -= size - allowed
        plan = self.planner.smallest()
        return plan, self.least

    def trained(self, plan, rate, alpha, temperature):
        """The swapped model after training with the teacher, the rate falling to 0."""
        student, epochs = copy(plan.model), self.fine_tune
        x, y = self.train
        if self.loss is None:
            y = None
        steps = epochs * -(-len(keras.tree.flatten(x)[0]) // BATCH)
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
        learner = student
        if self.teacher is not None:
            teacher = self.teacher
            learner = Distiller(
                student=student, teacher=teacher, temperature=temperature, alpha=alpha
            )
            if self.cache is None:
                self.cache = learner.cache_teacher((x,) if y is None else (x, y)).x
            x = self.cache
        learner.compile(optimizer, self.loss)
        learner.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
        return student

    def measure(self, model, cost) -> int:
        """The size of a model in the unit of the target; `cost` is what its plan counts."""
        if self.target == "tflite":
            return file_bytes(model, self.store)
        if self.target == "archive":
            with tempfile.TemporaryDirectory() as folder:
                return archive.save(model, os.path.join(folder, "model"), half=True)
        return cost

    def value(self, model) -> float:
        """The metric of a model on the validation data."""
        if callable(self.metric) and not isinstance(self.metric, keras.metrics.Metric):
            return float(self.metric(model))
        graph = graph_of(model)
        judged = keras.Model(graph.input, graph.output)  # of its own compiled state
        judged.compile(loss=_no_loss, metrics=[self.metric])
        results = judged.evaluate(*self.held, batch_size=BATCH, verbose=0, return_dict=True)
        results.pop("loss", None)
        if len(results) != 1:
            raise ValueError(f"Expected one metric. Received: {sorted(results)}")
        return float(next(iter(results.values())))


def arrays(data) -> tuple:
    """`(x, y)` as arrays, `y` None if there are no labels."""
    given = [batch[:2] for batch in batches(data, 1024)]
    return tuple(concatenated(given))


def _no_loss(y, outputs):
    """Keras does not evaluate a model without a loss."""
    return ops.zeros(ops.shape(outputs)[:1])


def _hold_out(data):
    count = len(keras.tree.flatten(data[0])[0])
    held = np.zeros(count, bool)
    held[::HELD] = True
    return rows(data, ~held), rows(data, held)


def _labelled(model, data):
    """The data, labelled by the model itself if there are no labels."""
    x, y = data
    if y is not None:
        return x, y
    outputs = model.predict(x, verbose=0)
    if keras.tree.is_nested(outputs) or outputs.ndim != 2 or outputs.shape[-1] < 2:
        raise ValueError(
            "Without labels the metric is taken against the model's most likely classes, so it "
            "must have one output of at least two classes. Give labels, or a `metric` function."
        )
    return x, outputs.argmax(-1)
