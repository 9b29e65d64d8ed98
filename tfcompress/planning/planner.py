"""One budget for a whole network: which layer takes which form."""

import math
from functools import partial

import numpy as np

from tfcompress import layers as forms
from tfcompress.graph.layerwise import follow
from tfcompress.graph.paths import name_of, walk
from tfcompress.graph.suffix import Suffix
from tfcompress.measure.batch_norm import recalibrate_batch_norm
from tfcompress.measure.held_out_loss import Judge, split
from tfcompress.measure.macs import macs, matrices, uses_of
from tfcompress.measure.moments import Moments, can_measure, intercepted, replaced
from tfcompress.numerics.knapsack import choose
from tfcompress.planning.candidates import counter, default_candidates, fitted
from tfcompress.planning.plan_result import Option, Plan, tables
from tfcompress.rewriting.swap import check_graph, copy, match, swapped
from tfcompress.utils.checks import check_number

BLOCK = 1024  # fan-in above which the metric of a layer's inputs is cut into blocks
POSITIONS = 16  # at which a convolution's inputs are measured in each image
HARMLESS = 0.002  # rise of the loss, as a share of it, from which on larger forms are not tried
GAIN = 0.1  # of the damage, for which another split is tried
ORDINARY = "float32"
TARGETS = ("bits", "tflite", "archive", "macs")


def plan(model, data, budget, target="bits", loss=None, candidates=None, store="fast") -> Plan:
    """Chooses a form for each layer so that the whole fits a budget and the loss suffers least.

    1. The candidates of each layer are fitted in the metric of the layer's inputs; those that
       another one beats in both size and `1/2 tr e^T A e` are dropped.
    2. The others are put into the network one by one, and the loss is measured on examples that no
       kernel was fitted on (an eighth of the data, at most 256, or 64 without labels). For `"bits"`
       and `"macs"`, forms larger than one that raises it by less than 0.2% are not tried.
    3. The multiple-choice knapsack takes the forms with the least sum of losses.
    4. The whole network is swapped, recalibrated and measured, then again with each layer put back.
       If another split promises 10% less damage by these losses, it is tried too, and the better
       one is kept.

    Args:
        model: a built Sequential or Functional model; it stays as it is.
        data: inputs `x`, or `(x, y)`, in any form that `fit` takes; some 1,000 examples are enough,
            and they are held in memory.
        budget: a share of what the float32 network takes, in (0, 1]; or above 1, bytes of stored
            kernels, bytes of the file's kernels, or MACs, as `target` says.
        target: `"bits"`, stored bits of all kernels; `"tflite"`, what they take in the file of
            `to_tflite` (each candidate is exported, which takes its time); `"archive"`, what they
            take in a file of `archive.save(half=True)`; or `"macs"`.
        loss: as in `compile`. None takes the compiled one, if there are labels; else the loss is
            the mean squared change of the outputs over their variance.
        candidates: `{name: maker}`, or a list of makers, of which a layer gets the first that can
            take it. None: binary, ternary, 3, 4 and 8 bits, and low rank and Tucker forms with
            8 bits; for `"tflite"` also CP forms with 8 bits, of up to 262,144 weights (they take
            long); for `"archive"` codebooks of 8 and 16 entries for 60, 80 and 90% zeros; for
            `"macs"`, low rank, k x 1 / 1 x k and Tucker forms at 1/2, 1/4 and 1/8 of the MACs.
        store: of the file whose bytes `"tflite"` counts, as in `to_tflite`.

    Returns:
        A `Plan`.

    Raises:
        ValueError: bad arguments; no candidate takes any layer; even the smallest forms exceed the
            budget (the message tells what they need).

    Example:

    >>> import keras, tfcompress as tfc
    >>> keras.utils.set_random_seed(0)
    >>> hidden = keras.layers.Dense(64, "relu", name="fc")
    >>> model = keras.Sequential([keras.Input((32,)), hidden, keras.layers.Dense(2, name="out")])
    >>> x = np.random.default_rng(0).normal(size=(200, 32))
    >>> made = tfc.plan(model, x, budget=0.15)
    >>> made.cost <= 0.15 * made.float_cost
    True
    """
    _check(budget)
    return Planner(model, data, target, loss, candidates, store).plan(budget)


class Planner:
    """The forms of each layer, fitted and measured once, for plans of any budget; see `plan`.

    Args:
        model, data, target, loss, candidates, store: as in `plan`.
    """

    def __init__(self, model, data, target="bits", loss=None, candidates=None, store="fast"):
        check_graph(model)
        _check_target(target)
        self.model, self.target = model, target
        self.fit, held = split(data)
        self.judge = Judge(model, *held, loss)
        makers, reasons = candidates or default_candidates(target), []
        count = partial(counter, target, store=store)
        counts = count, count if target in ("bits", "macs") else lambda *_: None
        self.options = _options(model, self.fit, counts, self.judge, makers, reasons)
        if not any(len(row) > 1 for row in self.options.values()):
            why = "\n".join(["", *reasons])
            raise ValueError(f"No candidate takes any layer, or none would be smaller.{why}")
        self.fixed = _fixed(model, target, self.options)
        self.whole = self.fixed + sum(row[-1].cost for row in self.options.values())
        self.least = self.fixed + sum(row[0].cost for row in self.options.values())

    def plan(self, budget) -> Plan:
        """The plan for a budget as `plan` takes it."""
        unit = 8 if self.target == "bits" else 1
        return self.plan_for(int(budget * (self.whole if budget <= 1 else unit)))

    def smallest(self) -> Plan:
        """The plan of the smallest forms."""
        return self.tried(self.least, {path: row[0] for path, row in self.options.items()})

    def plan_for(self, allowed, bend=None) -> Plan:
        """The better one of two plans.

        Args:
            allowed: the budget, in bits, bytes or MACs.
            bend: `{layer path: factor}` of the damage to expect; None for 1 each.
        """
        scales, plans = bend or dict.fromkeys(self.options, 1.0), []
        for _ in range(2):
            chosen = self.choose(allowed, scales)
            if plans and _harm(chosen, scales) >= (1 - GAIN) * _harm(plans[0].chosen, scales):
                break
            plans.append(self.tried(allowed, chosen))
            if len(plans) == 1:
                found = _scales(self.model, plans[0], self.judge)
                scales = {path: scales[path] * found.get(path, 1.0) for path in scales}
        return min(plans, key=lambda one: one.measured)

    def choose(self, allowed, scales) -> dict:
        """`{layer path: Option}` by the knapsack, each layer's damage times its scale."""
        picked = choose(*tables(self.options, scales), allowed - self.fixed)
        return {path: row[i] for (path, row), i in zip(self.options.items(), picked, strict=True)}

    def tried(self, allowed, chosen) -> Plan:
        """The plan with the network that comes of it, measured."""
        rules = {path: one.maker for path, one in chosen.items() if one.maker is not None}
        data = {"data": self.fit, "moments": _moments}
        new = swapped(self.model, rules, **data) if rules else copy(self.model)
        recalibrate_batch_norm(new, self.fit)
        return Plan(
            target=self.target,
            budget=allowed,
            cost=self.fixed + sum(one.cost for one in chosen.values()),
            float_cost=self.whole,
            options=self.options,
            chosen=chosen,
            loss=self.judge.base,
            predicted=sum(one.measured for one in chosen.values()),
            measured=self.judge(new) - self.judge.base,
            model=new,
        )


def _options(model, fit, counts, judge, candidates, reasons):
    """`{path: options by rising cost}`, fitted and measured in one walk over the network."""
    targets, _ = match(model, {_has_kernel: lambda layer: layer})
    shapes, suffix, found = uses_of(model), Suffix(model, judge.inputs), {}

    def change(layer, pairs):
        moments = _moments(layer)
        for before, _ in pairs:
            moments.add(before)
        count, estimate = (of(layer, shapes.get(id(layer), [])) for of in counts)
        suffix.advance(layer)
        measure = partial(suffix_loss, layer)
        harmless = HARMLESS * judge.unit
        made = fitted(
            layer, moments.metric(), candidates, count, estimate, measure, harmless, reasons
        )
        row = [Option(*one, _names(chain)) for *one, chain in made]
        found[targets[id(layer)][0]] = [*row, Option(ORDINARY, None, count([layer]))]

    def suffix_loss(layer, chain):
        return max(judge.of(suffix.outputs(replaced([(layer, chain)]))) - judge.base, 0.0)

    layers = [layer for layer, _ in walk(model).values() if id(layer) in targets]
    follow(model, fit, layers, change, "Trying forms")
    return found


def _moments(layer):
    return Moments(layer, BLOCK, POSITIONS)


def _harm(chosen, scales):
    return sum(scales[path] * one.measured for path, one in chosen.items())


def _has_kernel(layer):
    return layer.built and can_measure(layer) and not isinstance(layer, forms.CompressedLayer)


def _names(chain):
    return tuple(part.name for part in chain)


def _fixed(model, target, options):
    """What the kernels take that no form is chosen for."""
    others = {path: layer for path, (layer, _) in walk(model).items() if path not in options}
    if target == "macs":
        counts = {path: count for path, count in macs(model).items() if path in others}
        unknown = [path for path, count in counts.items() if count is None]
        if unknown:
            raise ValueError(f"The MACs of {unknown} are not known. Plan for another `target`.")
        return sum(counts.values())
    sizes = sum(math.prod(v.shape) for layer in others.values() for v in matrices(layer))
    return sizes * {"bits": 32, "tflite": 4, "archive": 2}[target]


def _scales(model, made, judge):
    """How much more, or less, each layer's form costs in the midst of the others than alone."""
    suffix, before, now = Suffix(made.model, judge.inputs), walk(model), walk(made.model)
    loss, scales = judge.base + made.measured, {}
    chains = {}
    for path, one in made.chosen.items():
        if one.maker is not None and one.measured > HARMLESS * made.predicted:
            folder = path.removesuffix(name_of(path))
            chains[path] = [now[folder + name][0] for name in one.parts]
    for path in sorted(chains, key=lambda path: suffix.place(chains[path][0])):
        suffix.advance(chains[path][0])
        back = suffix.outputs(_put_back(chains[path], before[path][0]))
        gain, alone = loss - judge.of(back), made.chosen[path].measured
        scales[path] = float(np.clip(gain / alone, 0.25, 4.0)) if alone > 0 else 1.0
    return scales


def _put_back(chain, layer):
    """While open, the layer runs on what the first of the chain gets, in the place of the last."""
    arrived = []

    def around(part, call, x, *args, **kwargs):
        if part is chain[0]:
            arrived.append(x)
        outputs = call(x, *args, **kwargs)
        return layer(arrived.pop(), training=False) if part is chain[-1] else outputs

    return intercepted(dict.fromkeys([chain[0], chain[-1]]), around)


def _check_target(target):
    if target not in TARGETS:
        raise ValueError(f"Expected `target` to be one of {TARGETS}. Received: {target!r}")


def _check(budget):
    check_number(budget, "budget")
    if not 0 < budget < math.inf:
        raise ValueError(f"Expected `budget` > 0. Received: {budget!r}")
