"""Spreads one budget over a whole network: chooses the form of each layer."""

from concurrent.futures import Executor
from typing import Any

import keras

from tfcompress.graph.copy import copied
from tfcompress.graph.paths import check_finite_weights, check_keras_3, name_of, walk
from tfcompress.graph.private_training import compiled_loss
from tfcompress.measure.batch_norm import recalibrate_batch_norm
from tfcompress.measure.held_out_loss import split
from tfcompress.planning.candidates import by_name, default_candidates
from tfcompress.planning.correction import damage_factors
from tfcompress.planning.latency.clock import Clock
from tfcompress.planning.latency.layer_times import LayerTimes
from tfcompress.planning.latency.ledger import Ledger, damage, in_time, refuse_plans
from tfcompress.planning.latency.measured import times_for_plan
from tfcompress.planning.latency.timing import timer_here
from tfcompress.planning.options import (
    by_path,
    check_steps_known,
    fixed_cost,
    input_moments,
    measured_options,
)
from tfcompress.planning.plan_result import Option, Plan
from tfcompress.planning.workbench import Terms, Workbench
from tfcompress.rewriting.opening import close_like, opened
from tfcompress.rewriting.swap import swapped
from tfcompress.utils.budgets import Limit, check_counts_time, check_target, read_limits
from tfcompress.utils.checks import check_store
from tfcompress.utils.progress import showing
from tfcompress.utils.types import (
    Activations,
    Budget,
    ClassWeight,
    Data,
    Loss,
    Path,
    Store,
    Target,
    Verbose,
)
from tfcompress.utils.workers import Shared, Workers, check_executor

LEAST_GAIN = 0.1  # share of the damage that another choice must save to be carried out
NO_FORMS = "No candidate takes any layer, or none would be smaller."
MOST_PLANS = 4  # that are carried out until one's file keeps a budget of time


def plan(
    model: keras.Model,
    data: Data,
    budget: Budget,
    target: Target = "bits",
    loss: Loss = None,
    candidates: Any = None,
    store: Store = "fast",
    latency: Path | LayerTimes | None = None,
    executor: Executor | None = None,
    verbose: Verbose = "auto",
    class_weight: ClassWeight = None,
) -> Plan:
    """Chooses a form for each layer so that the network fits a budget and loses least.

    1. The candidates of each layer are fitted in the metric of the layer's inputs. A candidate is
       dropped if another one is better in both size and `1/2 tr e^T A e`.
    2. The others are put into the network one at a time, and the loss is measured on held-out
       examples: an eighth of the data, at most 256, or without labels a sixteenth, at most 64. Once
       a form raises the loss by less than 0.2%, larger ones are not tried, unless time counts.
    3. A multiple-choice knapsack finds the forms with the smallest sum of the rises of the loss.
    4. The whole network is swapped, its batch normalization recalibrated, and its loss measured,
       then again with the original of each layer put back in turn. If these losses promise at least
       10% less damage for another choice, that one is carried out too, and the better one is kept.

    A budget of time needs the time of each layer in each form: that of a .tflite file of this layer
    alone, which runs in LiteRT here, on one thread, in turn with the layer's float32 file. It is
    kept in the user's folder for caches and measured once for each shape, form, runtime and
    processor, so let nothing else run meanwhile. What the forms save is taken from the time of the
    model's own file. The file of the plan is timed as well, in turn with the float32 file: if it
    takes longer than the budget allows, or far less, the prediction is corrected and the plan made
    again.

    Args:
        model: a built model of any kind; it stays as it is. The kernels of recurrent cells and of
            separable convolutions are planned for one by one.
        data: inputs `x`, or `(x, y)`, in any form that `fit` takes. About 1,000 examples are
            enough; of a dataset the first 512 MiB are read, and held in memory.
        budget: a share, in (0, 1], of the cost of the float32 network. A number above 1 counts
            bytes of stored kernels, bytes of the file's kernels, MACs or milliseconds, depending on
            `target`. A text such as `"5ms"` or `"300us"` is a budget of time whatever the target. A
            dict has a budget for each target in place of `target`: one, or two of which one is of
            time, as `{"tflite": 0.1, "milliseconds": 5}`; a share of 1 of the milliseconds means no
            slower than float32.
        target: what the budget counts. `"bits"`: the stored bits of all kernels; `"tflite"`: the
            bytes of the kernels in the file of `to_tflite`, for which candidates are exported, so
            that the plan takes longer; `"archive"`: their bytes in a file of
            `archive.save(half=True)`; `"macs"`: multiply-accumulates; `"milliseconds"`: the time of
            one run of the file of `to_tflite`, one example at a time.
        loss: as in `compile`. None takes the compiled one if there are labels; otherwise the loss
            is the mean squared change of the outputs divided by their variance.
        candidates: a list of makers, or `{name: maker}`, where in place of a maker there may be a
            list of makers, of which a layer gets the first that accepts it. None: binary, ternary,
            3, 4 and 8 bits, low-rank and Tucker forms in 8 bits; for `"tflite"` also low-rank forms
            in 4 bits, and CP forms of up to 262,144 weights; for `"archive"` codebooks of 8 and 16
            entries with 60, 80, 90% zeros; for `"macs"` low-rank, k x 1 / 1 x k and Tucker forms
            with 1/2, 1/4 and 1/8 of the MACs.
        store: how the file that `"tflite"` and `"milliseconds"` count stores kernels, as in
            `to_tflite`.
        latency: the table of times that a budget of time counts, of another processor, or its path:
            see `time_layers`. No file is timed then, and the plan depends on the table alone. None
            for times of this machine.
        executor: a `concurrent.futures.Executor`, whose workers fit and measure the forms of the
            layers; None does it here. The plan is the same to the bit where the workers have
            processors and threads like those here. See the page "On several machines".
        verbose: as in Keras' `fit`; see `swap`.
        class_weight: `{class: weight}` of the labels, as in `fit`.

    Returns:
        A `Plan`.

    Raises:
        ValueError: an argument is out of range; no candidate accepts any layer; even the smallest
            or fastest forms exceed a budget (the message says what they need); a budget of time,
            and the size of an input is not known.

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
    (target, limit), *more = read_limits(budget, target).items()
    with showing(verbose):
        given = model, data, target, loss, candidates, store, executor
        terms = {"latency": latency, "time": dict(more).get("milliseconds")}
        return Planner(*given, **terms, class_weight=class_weight).plan(limit)


class Planner:
    """Fits and measures the forms of each layer once, for plans of any budget; see `plan`.

    Args:
        model, data, target, loss, candidates, store, executor, latency, class_weight: as in `plan`,
            with one target.
        measured: the options of another planner of the same model, see `by_number`.
        time: the limit of milliseconds beside another target; None for none.
        rest, activations: of the file that is measured, see `to_tflite`.

    Attributes:
        options: `{layer path: list of Option}` by rising cost; the last one is the layer as it is.
        float_cost, smallest_cost: of the network as it is, and with each layer's smallest form.
        times: of the layers; None unless the plans count milliseconds.
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
        latency: Path | LayerTimes | None = None,
        time: Limit | None = None,
        rest: str = "float32",
        class_weight: ClassWeight = None,
        activations: Activations = "int8",
    ) -> None:
        check_keras_3(model)
        check_finite_weights(model)
        check_target(target)
        check_counts_time(latency, target, time)
        check_store(store)
        check_executor(executor)
        candidates = by_name(candidates or default_candidates(target))
        self.closed, self.model, self.target = model, opened(model), target
        self.executor = executor
        if target == "macs":
            check_steps_known(self.model)
        self.fit_inputs, held_out = split(model, data, class_weight)
        weights = None
        if loss is None and held_out[1] is not None and compiled_loss(model) is not None:
            loss, weights = compiled_loss(model)
        if loss is None and class_weight is not None:
            raise ValueError("`class_weight` weighs a loss: compile the model, or give `loss`.")
        self.parts = held_out, loss, weights
        self.workbench = Workbench(self.model, *self.parts)
        reasons, self.times, files, check = [], None, [], None
        if time is not None or target == "milliseconds":
            given = self.closed, self.model, self.fit_inputs, candidates, store, rest
            self.times, files, check = times_for_plan(latency, *given, activations)
        if measured is not None:
            self.options = by_path(measured, self.model)
        else:
            terms = Terms(target, store, candidates, self.times, rest, activations)
            with Workers(executor) as workers:
                shared = Shared(Workbench, self.model, *self.parts, mine=self.workbench)
                given = self.workbench, self.fit_inputs, terms, workers, shared
                self.options, reasons = measured_options(*given)
        # a network of which no form is faster may still be fast enough, or small enough in int8
        by_time = target == "milliseconds"
        enough = by_time or (rest == "int8" and self.options)
        if not enough and not any(len(row) > 1 for row in self.options.values()):
            raise ValueError("\n".join([NO_FORMS, *reasons]))
        self.clock = None
        if self.times is not None:
            terms = store, rest, timer_here() if latency is None else None, activations, check
            self.clock = Clock(self.options, self.times, files, *terms)
        allowed = None if time is None else time.of(self.clock.float_milliseconds)
        fixed = 0 if by_time else fixed_cost(self.model, target, self.options, rest)
        self.ledger = Ledger(self.options, target, fixed, self.clock, allowed)
        self.float_cost = self.ledger.float_cost
        self.smallest_cost = self.ledger.cost_of(self.ledger.smallest())

    def by_number(self) -> list[tuple[int, str, list[Option]]]:
        """The options with the number of each layer, which is the same wherever a model is read."""
        numbers = {path: number for number, path in enumerate(walk(self.model))}
        return [(numbers[path], name_of(path), row) for path, row in self.options.items()]

    def plan(self, limit: Limit) -> Plan:
        """The plan for a budget."""
        allowed = limit.of(self.float_cost, 8 if self.target == "bits" else 1)
        return self.plan_for(allowed if self.target == "milliseconds" else int(allowed))

    def smallest(self) -> Plan:
        """The plan with the smallest form of each layer that the time allows."""
        return self.carried_out(self.smallest_cost, self.ledger.smallest())

    def plan_for(self, allowed: float, factors: Any = None) -> Plan:
        """The best of some plans: a second one corrects the damage that the first expected.

        Where the files run here, further ones follow until one's file keeps the limit of time.

        Args:
            allowed: the budget, in bits, bytes, MACs or milliseconds.
            factors: `{layer path: factor}` by which each layer's expected damage is multiplied;
                None for 1.
        """
        factors, plans = factors or dict.fromkeys(self.options, 1.0), []
        limit = allowed if self.target == "milliseconds" else self.ledger.time
        for _ in range(MOST_PLANS):
            chosen = self.ledger.choose(allowed, factors)
            kept = in_time(plans, limit)
            if kept:
                before, after = (damage(choice, factors) for choice in (kept[0].chosen, chosen))
                if after >= (1 - LEAST_GAIN) * before:
                    break
            plans.append(self.carried_out(allowed, chosen))
            if len(plans) == 1:
                factors = self._corrected(plans[0], factors)
            elif in_time(plans, limit):
                break
        kept = in_time(plans, limit)
        if not kept and self.target == "milliseconds" and limit >= self.clock.float_milliseconds:
            as_it_is = {path: row[-1] for path, row in self.options.items()}
            kept = in_time([self.carried_out(allowed, as_it_is)], limit)
        if not kept:
            refuse_plans([plan.milliseconds for plan in plans], limit)
        return min(kept, key=lambda plan: plan.measured)

    def _corrected(self, plan, factors):
        """Factors by what the first plan showed of the damage of each form."""
        workbench = self.workbench.of(plan.model)
        with Workers(self.executor) as workers:
            shared = Shared(Workbench, self.model, *self.parts, plan.model, mine=workbench)
            found = damage_factors(workbench, plan, workers, shared)
        return {path: factors[path] * found.get(path, 1.0) for path in factors}

    def carried_out(self, allowed: float, chosen: Any) -> Plan:
        """The plan of the chosen options, with its network swapped, recalibrated and measured."""
        rules = {path: o.maker for path, o in chosen.items() if o.maker is not None}
        data = {"data": self.fit_inputs, "moments": input_moments}
        new = swapped(self.model, rules, **data) if rules else copied(self.model)
        close_like(new, self.closed)
        recalibrate_batch_norm(new, self.fit_inputs, frozen=False)
        milliseconds = None if self.clock is None else self.clock.seen(new, chosen)
        by_time = self.target == "milliseconds"
        return Plan(
            target=self.target,
            budget=allowed,
            cost=milliseconds if by_time else self.ledger.cost_of(chosen),
            float_cost=self.float_cost,
            options=self.options,
            chosen=chosen,
            loss=self.workbench.loss.base,
            predicted=sum(option.measured for option in chosen.values()),
            measured=self.workbench.loss(new) - self.workbench.loss.base,
            model=new,
            milliseconds=milliseconds,
            float_milliseconds=self.clock and self.clock.float_milliseconds,
        )
