"""`compress`: from a trained model and a budget to a small one, exported and measured."""

from dataclasses import dataclass

import keras
import numpy as np

from tfcompress.export import to_tflite
from tfcompress.planning.attempts import Work
from tfcompress.planning.plan_result import Plan
from tfcompress.reporting.model_report import ModelReport, report
from tfcompress.rewriting.swap import check_graph
from tfcompress.utils.checks import check_number, is_whole

CHECKED = 32  # examples that the file is verified with
ROUNDS = 4  # of bisection, in the logarithm of the budget
WIDEST = 0.5  # the largest budget that the search tries


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
    seed=0,
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
        seed: of `keras.utils.set_random_seed`, which is called before each training.

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
    check_arguments(model, budget, max_drop, fine_tune, teacher)
    work = Work(model, data, metric, fine_tune, teacher, validation_data, target, store, loss, seed)
    found = work.attempt(budget) if max_drop is None else _smallest(work, budget, max_drop)
    return finished(work, found, path)


def _smallest(work, budget, max_drop):
    """The attempt of the smallest budget that keeps the metric, by bisection."""
    low = work.least / work.whole if budget is None else work.share(budget)
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


def finished(work, attempt, path) -> Compressed:
    """The result, exported and verified."""
    check = keras.tree.map_structure(lambda a: a[:CHECKED], work.calibration)
    blob = to_tflite(attempt.model, path, store=work.store, check=check)
    return Compressed(
        model=attempt.model,
        tflite=blob,
        plan=attempt.plan,
        report=report(attempt.model, work.model, blob),
        before=work.before,
        after=attempt.value,
        size=attempt.size,
        tried=work.tried,
    )


def check_arguments(model, budget, max_drop, fine_tune, teacher):
    check_graph(model)
    if budget is None and max_drop is None:
        raise ValueError("Give a `budget`, a `max_drop`, or both.")
    for name, value in (("budget", budget), ("max_drop", max_drop)):
        if value is not None:
            check_number(value, name)
    if budget is not None and not 0 < budget < float("inf"):
        raise ValueError(f"Expected `budget` > 0. Received: {budget!r}")
    if max_drop is not None and not max_drop >= 0:
        raise ValueError(f"Expected `max_drop` >= 0. Received: {max_drop!r}")
    if not is_whole(fine_tune, least=0) and not callable(fine_tune):
        raise ValueError(
            f"`fine_tune` is a number of epochs or a function. Received: {fine_tune!r}"
        )
    known = teacher is None or isinstance(teacher, keras.Model) or teacher == "self"
    if not known:
        raise ValueError(f"`teacher` is 'self', a Keras model, or None. Received: {teacher!r}")
