"""Spreads one budget over a whole network: chooses the form of each layer."""

import dataclasses
from concurrent.futures import Executor
from typing import Any

import keras

from tfcompress.graph.copy import copied
from tfcompress.graph.paths import check_finite_weights, check_keras_3, name_of, walk
from tfcompress.graph.private_training import compiled_loss
from tfcompress.measure.batch_norm import recalibrate_batch_norm
from tfcompress.measure.held_out_loss import split
from tfcompress.numerics.knapsack import solve_knapsack
from tfcompress.planning.candidates import by_name, default_candidates
from tfcompress.planning.correction import damage_factors
from tfcompress.planning.options import (
    check_steps_known,
    fixed_cost,
    input_moments,
    measured_options,
)
from tfcompress.planning.plan_result import Option, Plan, tables
from tfcompress.planning.workbench import Terms, Workbench
from tfcompress.rewriting.opening import close_like, opened
from tfcompress.rewriting.swap import swapped
from tfcompress.utils.checks import check_budget, check_store
from tfcompress.utils.progress import showing
from tfcompress.utils.types import Data, Loss, Store, Target, Verbose
from tfcompress.utils.workers import Shared, Workers, check_executor

LEAST_GAIN = 0.1  # share of the damage that another choice must save to be carried out
TARGETS = ("bits", "tflite", "archive", "macs")


def plan(
    model: keras.Model,
    data: Data,
    budget: float,
    target: Target = "bits",
    loss: Loss = None,
    candidates: Any = None,
    store: Store = "fast",
    executor: Executor | None = None,
    verbose: Verbose = "auto",
) -> Plan:
    """Chooses a form for each layer so that the network fits a budget and loses least.

    1. The candidates of each layer are fitted in the metric of the layer's inputs. A candidate is
       dropped if another one is better in both size and `1/2 tr e^T A e`.
    2. The others are put into the network one at a time, and the loss is measured on held-out
       examples: an eighth of the data, at most 256, or 64 without labels. For `"bits"` and
       `"macs"`, once a form raises the loss by less than 0.2%, larger ones are not tried.
    3. A multiple-choice knapsack finds the forms with the smallest sum of the rises of the loss.
    4. The whole network is swapped, its batch normalization recalibrated, and its loss measured,
       then again with the original of each layer put back in turn. If these losses promise at least
       10% less damage for another choice, that one is carried out too, and the better one is kept.

    Args:
        model: a built model of any kind; it stays as it is. The kernels of recurrent cells and of
            separable convolutions are planned for one by one.
        data: inputs `x`, or `(x, y)`, in any form that `fit` takes. About 1,000 examples are
            enough; of a dataset the first 512 MiB are read, and held in memory.
        budget: a share, in (0, 1], of the cost of the float32 network. A number above 1 counts
            bytes of stored kernels, bytes of the file's kernels, or MACs, depending on `target`.
        target: what the budget counts. `"bits"`: the stored bits of all kernels; `"tflite"`: the
            bytes of the kernels in the file of `to_tflite`, for which each candidate is exported,
            so that the plan takes longer; `"archive"`: their bytes in a file of
            `archive.save(half=True)`; `"macs"`: multiply-accumulates.
        loss: as in `compile`. None takes the compiled one if there are labels; otherwise the loss
            is the mean squared change of the outputs divided by their variance.
        candidates: a list of makers, or `{name: maker}`, where in place of a maker there may be a
            list of makers, of which a layer gets the first that accepts it. None: binary, ternary,
            3, 4 and 8 bits, and low-rank and Tucker forms in 8 bits; for `"tflite"` also CP forms
            in 8 bits of kernels of up to 262,144 weights (larger ones take too long to fit); for
            `"archive"` codebooks of 8 and 16 entries with 60, 80 and 90% zeros; for `"macs"`
            low-rank, k x 1 / 1 x k and Tucker forms with 1/2, 1/4 and 1/8 of the MACs.
        store: how the file that `"tflite"` counts stores kernels, as in `to_tflite`.
        executor: a `concurrent.futures.Executor`, whose workers fit and measure the forms of the
            layers; None does it here. The plan is the same to the bit where the workers have
            processors and threads like those here. See the page "On several machines".
        verbose: as in Keras' `fit`; see `swap`.

    Returns:
        A `Plan`.

    Raises:
        ValueError: an argument is out of range; no candidate accepts any layer; even the smallest
            forms exceed the budget (the message says what they need).

    Example:

    >>> import keras, tfcompress as tfc
    >>> keras.utils.set_random_seed(0)
    >>> hidden = keras.layers.Dense(64, "relu", name="fc")
    >>> model = keras.Sequential([keras.Input((32,)), hidden, keras.layers.Dense(2, name="out")])
    >>> x = np.random.default_rng(0).normal(size=(200, 32))
    >>> found = tfc.plan(model, x, budget=0.15)
    >>> found.cost <= 0.15 * found.float_cost
    True
    """
    check_budget(budget)
    with showing(verbose):
        return Planner(model, data, target, loss, candidates, store, executor).plan(budget)


class Planner:
    """Fits and measures the forms of each layer once, for plans of any budget; see `plan`.

    Args:
        model, data, target, loss, candidates, store, executor: as in `plan`.
        measured: the options of another planner of the same model, see `by_number`.

    Attributes:
        options: `{layer path: list of Option}` by rising cost; the last one is the layer as it is.
        float_cost, smallest_cost: of the network as it is, and with the smallest form of each
            layer.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        target: Target = "bits",
        loss: Loss = None,
        candidates: Any = None,
        store: Store = "fast",
        executor: Executor | None = None,
        measured: list | None = None,
    ) -> None:
        check_keras_3(model)
        check_finite_weights(model)
        _check_target(target)
        check_store(store)
        check_executor(executor)
        candidates = by_name(candidates or default_candidates(target))
        self.closed, self.model, self.target = model, opened(model), target
        self.executor = executor
        if target == "macs":
            check_steps_known(self.model)
        self.fit_inputs, held_out = split(model, data)
        weights = None
        if loss is None and held_out[1] is not None and compiled_loss(model) is not None:
            loss, weights = compiled_loss(model)
        self.parts = held_out, loss, weights
        self.workbench = Workbench(self.model, *self.parts)
        reasons = []
        if measured is not None:
            self.options = _by_path(measured, self.model)
        else:
            terms = Terms(target, store, candidates)
            with Workers(executor) as workers:
                shared = Shared(Workbench, self.model, *self.parts, mine=self.workbench)
                given = self.workbench, self.fit_inputs, terms, workers, shared
                self.options, reasons = measured_options(*given)
        if not any(len(row) > 1 for row in self.options.values()):
            why = "\n".join(["", *reasons])
            raise ValueError(f"No candidate takes any layer, or none would be smaller.{why}")
        self.fixed_cost = fixed_cost(self.model, target, self.options)
        self.float_cost = self.fixed_cost + sum(row[-1].cost for row in self.options.values())
        self.smallest_cost = self.fixed_cost + sum(row[0].cost for row in self.options.values())

    def by_number(self) -> list[tuple[int, str, list[Option]]]:
        """The options with the number of each layer, which is the same wherever a model is read."""
        numbers = {path: number for number, path in enumerate(walk(self.model))}
        return [(numbers[path], name_of(path), row) for path, row in self.options.items()]

    def plan(self, budget: float) -> Plan:
        """The plan for a budget in the form that `plan` takes."""
        unit = 8 if self.target == "bits" else 1
        return self.plan_for(int(budget * (self.float_cost if budget <= 1 else unit)))

    def smallest(self) -> Plan:
        """The plan with the smallest form of each layer."""
        chosen = {path: row[0] for path, row in self.options.items()}
        return self.carried_out(self.smallest_cost, chosen)

    def plan_for(self, allowed: float, factors: Any = None) -> Plan:
        """The better one of two plans: the second corrects the damage that the first expected.

        Args:
            allowed: the budget, in bits, bytes or MACs.
            factors: `{layer path: factor}` by which each layer's expected damage is multiplied;
                None for 1.
        """
        factors, plans = factors or dict.fromkeys(self.options, 1.0), []
        for _ in range(2):
            chosen = self.choose(allowed, factors)
            if plans:
                first = _damage(plans[0].chosen, factors)
                if _damage(chosen, factors) >= (1 - LEAST_GAIN) * first:
                    break
            plans.append(self.carried_out(allowed, chosen))
            if len(plans) == 1:
                workbench = self.workbench.of(plans[0].model)
                with Workers(self.executor) as workers:
                    shared = Shared(
                        Workbench, self.model, *self.parts, plans[0].model, mine=workbench
                    )
                    found = damage_factors(workbench, plans[0], workers, shared)
                factors = {path: factors[path] * found.get(path, 1.0) for path in factors}
        return min(plans, key=lambda plan: plan.measured)

    def choose(self, allowed: float, factors: Any) -> dict[str, Option]:
        """`{layer path: Option}` by the knapsack, each layer's damage times its factor."""
        if allowed < self.smallest_cost:
            raise ValueError(
                f"Even the cheapest choices need {self.smallest_cost} of {self.float_cost}, and "
                f"{self.fixed_cost} of that is in kernels that no candidate takes. Raise the "
                f"budget. Received: {allowed}"
            )
        picked = solve_knapsack(*tables(self.options, factors), allowed - self.fixed_cost)
        return {path: row[i] for (path, row), i in zip(self.options.items(), picked, strict=True)}

    def carried_out(self, allowed: float, chosen: Any) -> Plan:
        """The plan of the chosen options, with its network swapped, recalibrated and measured."""
        rules = {path: o.maker for path, o in chosen.items() if o.maker is not None}
        data = {"data": self.fit_inputs, "moments": input_moments}
        new = swapped(self.model, rules, **data) if rules else copied(self.model)
        close_like(new, self.closed)
        recalibrate_batch_norm(new, self.fit_inputs)
        return Plan(
            target=self.target,
            budget=allowed,
            cost=self.fixed_cost + sum(option.cost for option in chosen.values()),
            float_cost=self.float_cost,
            options=self.options,
            chosen=chosen,
            loss=self.workbench.loss.base,
            predicted=sum(option.measured for option in chosen.values()),
            measured=self.workbench.loss(new) - self.workbench.loss.base,
            model=new,
        )


def _by_path(measured, model):
    """The options of `by_number` by the paths here, where automatic names may be others."""
    paths, found = list(walk(model)), {}
    for number, name, row in measured:
        own = name_of(paths[number])
        parts = [tuple(part.replace(name, own, 1) for part in option.parts) for option in row]
        pairs = zip(row, parts, strict=True)
        found[paths[number]] = [dataclasses.replace(option, parts=p) for option, p in pairs]
    return found


def _damage(chosen, factors):
    return sum(factors[path] * option.measured for path, option in chosen.items())


def _check_target(target):
    if target not in TARGETS:
        raise ValueError(f"Expected `target` to be one of {TARGETS}. Received: {target!r}")
