"""`compress`: from a trained model and a budget to a small one, exported and measured."""

import os
import tempfile
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from . import archive
from .batches import batches
from .calibrate import recalibrate_batch_norm
from .distill import Distiller
from .export import to_tflite
from .follow import graph_of
from .planner import Planner
from .plans import Plan
from .reports import ModelReport, report
from .rewrite import check_graph, copy

BATCH = 128
RATE = 1e-3  # of Adam; it falls to 0 by a cosine
TEMPERATURE, ALPHA = 2.0, 0.5
CALIBRATION = 2000  # examples that plans are made on
HELD = 10  # a tenth of the data is held out, if no other is given to validate on
CHECKED = 32  # examples that the file is verified with
ROUNDS = 4  # of bisection, in the logarithm of the budget
WIDEST = 0.5  # the largest budget that the search tries
TRIES = 4  # to bring the size of a file below a budget


@dataclass(frozen=True)
class Compressed:
    """What `compress` makes.

    Attributes:
        model: the compressed Keras model, not compiled.
        tflite: its verified .tflite file.
        plan: the form of each layer.
        report: what each layer takes, beside the model before.
        before, after: the metric on the validation data.
        size: in the unit of the target: bytes of the file or of the archive, bits, or MACs.
        tried: `[(budget, size, metric)]` of all the budgets that were tried, in their order.
    """

    model: keras.Model
    tflite: bytes
    plan: Plan
    report: ModelReport
    before: float
    after: float
    size: int
    tried: list[tuple[float, int, float]]

    def __str__(self):
        tried = "".join(
            f"\nbudget {budget:.4g}: {size:,} {self.plan.target}, metric {value:.4f}"
            for budget, size, value in self.tried
        )
        return f"{self.plan}\n{self.report}\nmetric {self.before:.4f} -> {self.after:.4f}{tried}"


def compress(
    model,
    data,
    budget=None,
    max_drop=None,
    metric="accuracy",
    *,
    fine_tune=3,
    teacher="self",
    validation_data=None,
    target="tflite",
    store="fast",
    loss=None,
    path=None,
) -> Compressed:
    """Compresses a trained model to a budget, or as far as an accuracy allows.

    1. `plan`: the forms of all layers are measured, and the knapsack chooses (`planner.Planner`).
    2. The layers are swapped, and batch normalization is measured anew.
    3. All weights are trained on, with the model as it was for the teacher (`Distiller`).
    4. The metric is measured on the validation data, the model exported and verified.

    With `max_drop` steps 2 to 4 are gone through for up to six budgets: the smallest that keeps
    the metric is sought by bisection.

    Args:
        model: a built Sequential or Functional model; it stays as it is.
        data: `(x, y)`, or inputs `x`, in any form that `fit` takes; all of it is held in memory.
            Without labels the teacher alone teaches, and the labels to validate on are the most
            likely classes of the model itself.
        budget: a share, in (0, 1], of what the float32 model takes; or above 1, in the unit of
            `target` (bytes also for `"bits"`).
        max_drop: how much of the metric may be lost. Together with `budget`, that is where the
            search begins, and the result is the smallest one from there on.
        metric: what `compile(metrics=[...])` takes, of which more is better; or a function of a
            model that gives a number.
        fine_tune: epochs; 0 trains nothing; or a function `(student, teacher, (x, y))` that trains
            the student, in place.
        teacher: `"self"`, another Keras model, or None: labels alone.
        validation_data: `(x, y)`, or `x`; None holds out a tenth of `data`.
        target: what the budget counts. `"tflite"`: bytes of the file; `"archive"`: bytes of
            `archive.save(half=True)`; `"bits"`: stored bits of the kernels; `"macs"`.
        store: of the file, see `to_tflite`.
        loss: of the labels, as in `compile`; None takes the compiled one; without either the
            teacher alone teaches.
        path: where to write the .tflite file; None writes none.

    Returns:
        A `Compressed`.

    Raises:
        ValueError: bad arguments; no budget tried keeps the metric within `max_drop`; the smallest
            forms exceed the budget.
        ExportError: see `to_tflite`.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> hidden = keras.layers.Dense(64, "relu")
    >>> model = keras.Sequential([keras.Input((32,)), hidden, keras.layers.Dense(2)])
    >>> x = np.random.default_rng(0).normal(size=(400, 32))
    >>> made = compress(model, x, budget=0.5, fine_tune=1)
    >>> made.size == len(made.tflite) <= 0.5 * len(to_tflite(model))
    True

    Papers: S. Han, H. Mao, W. J. Dally, "Deep Compression", 2016; T. Furlanello et al., "Born-Again
    Neural Networks", 2018, for the teacher that is the model itself.
    """
    _check(model, budget, max_drop, fine_tune, teacher)
    work = Work(model, data, metric, fine_tune, teacher, validation_data, target, store, loss)
    if max_drop is None:
        found = work.attempt(budget)
    else:
        found = _smallest(work, budget, max_drop)
    return work.finished(found, path)


def _smallest(work, budget, max_drop):
    """The attempt of the smallest budget that keeps the metric, by bisection."""
    low = work.least() if budget is None else work.share(budget)
    high = max(WIDEST, low)
    found = work.attempt(low)
    if work.before - found.value <= max_drop:
        return found
    best = None
    for _ in range(ROUNDS):
        middle = float(np.sqrt(low * high))
        found = work.attempt(middle)
        if work.before - found.value <= max_drop:
            best, high = found, middle
        else:
            low = middle
    best = best or work.attempt(high)
    if work.before - best.value > max_drop:
        raise ValueError(
            f"No budget up to {high:.3g} keeps the metric within {max_drop} of {work.before:.4f}: "
            f"{best.value:.4f} at {best.size:,}. Give more data or more epochs to `fine_tune`."
        )
    return best


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
        self, model, data, metric, fine_tune, teacher, validation_data, target, store, loss
    ):
        self.model, self.metric, self.fine_tune = model, metric, fine_tune
        self.teacher = model if isinstance(teacher, str) else teacher
        self.loss = loss if loss is not None or not model.compiled else model.loss
        self.target, self.store, self.tried, self.cache = target, store, [], None
        self.train, self.held = arrays(data), validation_data
        if self.held is None:
            self.train, self.held = _hold_out(self.train)
        self.held = _labelled(model, arrays(self.held))
        count = len(keras.tree.flatten(self.train[0])[0])
        some = _rows(self.train, np.linspace(0, count - 1, min(count, CALIBRATION)).astype(int))
        given = some if some[1] is not None and self.loss is not None else some[0]
        self.calibration = some[0]
        self.planner = Planner(model, given, target, self.loss, store=store)
        self.whole = self.measure(model, self.planner.whole)
        self.before = self.value(model)

    def share(self, budget) -> float:
        """A budget as a share of what the float32 model takes."""
        unit = 8 if self.target == "bits" else 1
        return budget if budget <= 1 else min(1.0, budget * unit / self.whole)

    def least(self) -> float:
        """The smallest share that the forms allow, with what the file has besides kernels."""
        return (self.planner.least + self.whole - self.planner.whole) / self.whole

    def attempt(self, budget, rate=RATE, alpha=ALPHA, temperature=TEMPERATURE):
        """Plans for a budget, trains, and measures."""
        plan, size = self.fitting(self.share(budget) * self.whole)
        keras.utils.set_random_seed(0)
        model = plan.model
        if callable(self.fine_tune):
            self.fine_tune(model, self.teacher, self.train)
        elif self.fine_tune:
            model = self.trained(plan, rate, alpha, temperature)
        size = self.measure(model, plan.cost)
        value = self.value(model)
        self.tried.append((size / self.whole, size, value))
        return Attempt(plan, model, size, value)

    def fitting(self, allowed):
        """A plan whose file holds the budget, and its size."""
        budget = allowed - max(self.whole - self.planner.whole, 0)
        for _ in range(TRIES):
            if budget < self.planner.least:
                break
            unit = 8 if self.target == "bits" else 1
            plan = self.planner.plan(max(budget / unit, 1 + 1e-9))
            size = self.measure(plan.model, plan.cost)
            if size <= allowed:
                return plan, size
            budget -= size - allowed
        raise ValueError(
            f"Even the smallest forms exceed the budget: they need about {self.least():.1%} of "
            f"{self.whole:,}. Received: a budget of {allowed / self.whole:.1%}"
        )

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
            from .export import file_bytes

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

    def finished(self, attempt, path) -> Compressed:
        """The result, exported and verified."""
        check = keras.tree.map_structure(lambda a: a[:CHECKED], self.calibration)
        blob = to_tflite(attempt.model, path, store=self.store, check=check)
        return Compressed(
            model=attempt.model,
            tflite=blob,
            plan=attempt.plan,
            report=report(attempt.model, self.model, blob),
            before=self.before,
            after=attempt.value,
            size=attempt.size,
            tried=self.tried,
        )


def arrays(data) -> tuple:
    """`(x, y)` as arrays, `y` None if there are no labels."""
    given = [batch[:2] for batch in batches(data, 1024)]
    x, y = (
        None if parts[0] is None else keras.tree.map_structure(lambda *a: np.concatenate(a), *parts)
        for parts in zip(*given, strict=True)
    )
    return x, y


def _no_loss(y, outputs):
    """Keras does not evaluate a model without a loss."""
    return ops.zeros(ops.shape(outputs)[:1])


def _hold_out(data):
    count = len(keras.tree.flatten(data[0])[0])
    held = np.zeros(count, bool)
    held[:: HELD] = True
    return _rows(data, ~held), _rows(data, held)


def _rows(data, chosen):
    return keras.tree.map_structure(lambda a: None if a is None else a[chosen], data)


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


def _check(model, budget, max_drop, fine_tune, teacher):
    check_graph(model)
    if budget is None and max_drop is None:
        raise ValueError("Give a `budget`, a `max_drop`, or both.")
    for name, value in (("budget", budget), ("max_drop", max_drop)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise TypeError(f"Expected `{name}` to be a number. Received: {value!r}")
    if budget is not None and not 0 < budget < float("inf"):
        raise ValueError(f"Expected `budget` > 0. Received: {budget!r}")
    if max_drop is not None and not 0 <= max_drop:
        raise ValueError(f"Expected `max_drop` >= 0. Received: {max_drop!r}")
    whole = isinstance(fine_tune, int) and not isinstance(fine_tune, bool) and fine_tune >= 0
    if not whole and not callable(fine_tune):
        raise ValueError(f"`fine_tune` is a number of epochs or a function. Received: {fine_tune!r}")
    known = teacher is None or isinstance(teacher, keras.Model) or teacher == "self"
    if not known:
        raise ValueError(f"`teacher` is 'self', a Keras model, or None. Received: {teacher!r}")
