"""A network in which one layer at a time is replaced, and the loss measured: in this process, or
in a worker that has the network from a file.

A layer is named by its number in the order of `walk`, which is the same wherever the model is read;
the automatic names of layers inside composite ones are not.
"""

from functools import partial
from typing import Any, NamedTuple

import keras

from tfcompress.graph.intercept import link, running, start_of
from tfcompress.graph.paths import walk
from tfcompress.graph.suffix import Suffix
from tfcompress.measure.held_out_loss import HeldOutLoss
from tfcompress.planning.candidates import fitted
from tfcompress.planning.costs import cost_function, estimate_function
from tfcompress.planning.latency.layer_times import LayerTimes
from tfcompress.planning.plan_result import Option
from tfcompress.utils.types import Activations, Loss, Metric, Rest

HARMLESS_RISE = 0.002  # share of the loss; once a form raises it by less, larger ones are not tried
UNCHANGED = "float32"  # name of the option that leaves a layer as it is


class Terms(NamedTuple):
    """What a plan counts and tries: see `plan`; of a plan that counts time, the times."""

    target: str
    store: str
    candidates: dict
    times: LayerTimes | None = None
    rest: Rest = "float32"
    activations: Activations = "int8"


class Workbench:
    """The loss of a network on held-out examples while single layers of it are replaced.

    Args:
        model: the network before any change.
        held_out: `(x, y, sample_weight)`.
        loss, loss_weights: see `HeldOutLoss`.
        changed: the network in which layers are replaced; None for `model`.
    """

    def __init__(
        self,
        model: keras.Model,
        held_out: Any,
        loss: Loss,
        loss_weights: Any,
        changed: keras.Model | None = None,
    ) -> None:
        self.loss = HeldOutLoss(model, *held_out, loss, loss_weights)
        self.sizes = {}
        layers = walk(model)
        self.paths, self.originals = list(layers), [layer for layer, _ in layers.values()]
        self._change(model if changed is None else changed)

    def of(self, changed: keras.Model) -> "Workbench":
        """The same for another network in which layers are replaced."""
        other = object.__new__(Workbench)
        other.loss, other.paths, other.originals = self.loss, self.paths, self.originals
        other._change(changed)
        return other

    def _change(self, changed):
        self.changed = changed
        self.layers = [layer for layer, _ in walk(changed).values()]
        self.suffix = Suffix(changed, self.loss.inputs, many=True)

    def loss_with(self, first: keras.layers.Layer, arounds: Any) -> float:
        """The loss with others in the place of layers, of which `first` is called first."""
        if self.suffix.place(first) < self.suffix.position:  # it lies behind
            self.suffix = Suffix(self.changed, self.loss.inputs, many=True)
        self.suffix.advance(first)
        return self.loss.of_outputs(self.suffix.outputs(arounds))


def options_of(
    workbench: Workbench, number: int, name: str, metric: Metric, uses: list, terms: Terms
) -> tuple[list[Option], list[str]]:
    """The options of a layer by rising cost, and why forms are none.

    Args:
        workbench: the network.
        number: of the layer.
        name: of the layer, in the process of the plan.
        metric: of its inputs.
        uses: the shapes of its inputs, one for each of its uses.
        terms: what is counted and tried.
    """
    layer, reasons, time = workbench.layers[number], [], None
    if terms.times is not None:
        stored = {"store": terms.store, "rest": terms.rest, "activations": terms.activations}
        time = partial(terms.times.of, uses=uses, **stored)
    counts_time = terms.target == "milliseconds"
    counted = terms.target, uses, terms.store, workbench.sizes
    count = time if counts_time else cost_function(*counted, terms.rest)
    cost, milliseconds = count([layer]), None if time is None else time([layer])
    forms = fitted(
        layer,
        metric,
        terms.candidates,
        (cost,) if time is None else (cost, milliseconds),
        count,
        None if time is not None else estimate_function(*counted, terms.rest),
        measure=partial(_rise, workbench, layer),
        harmless=HARMLESS_RISE * workbench.loss.scale,
        reasons=reasons,
        time=time,
    )
    row = []
    for *form, chain, took in forms:
        parts = tuple(part.name.replace(layer.name, name, 1) for part in chain)
        row.append(Option(*form, parts, took))
    return [*row, Option(UNCHANGED, None, cost, milliseconds=milliseconds)], reasons


def _rise(workbench, layer, chain):
    """The rise of the loss with a chain in the place of a layer."""
    return max(workbench.loss_with(layer, {layer: running(chain)}) - workbench.loss.base, 0.0)


def loss_with_original(workbench: Workbench, chain: list[int], original: int) -> float:
    """The loss of a changed network with an original layer put back in the place of a chain.

    Args:
        workbench: the network.
        chain: numbers of the layers of the chain.
        original: number of the layer in the network before any change.
    """
    layers = [workbench.layers[number] for number in chain]
    return workbench.loss_with(layers[0], _put_back(layers, workbench.originals[original]))


def _put_back(chain, layer):
    """Functions by which a layer runs in place of a chain: on the first one's input, for the last.

    See `graph.intercept.altered`.
    """
    arrived = []

    def last(call, x, *args, **kwargs):
        start, args, kwargs = start_of(arrived, x, args, kwargs)
        return running([layer])(call, start, *args, **kwargs)

    return {one: partial(link, arrived, one is chain[0]) for one in chain[:-1]} | {chain[-1]: last}
