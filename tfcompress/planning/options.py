"""Fits and measures what each layer of a network could be replaced by."""

import math
from functools import partial
from typing import Any

import keras

from tfcompress import layers as forms
from tfcompress.graph.intercept import running
from tfcompress.graph.layerwise import follow
from tfcompress.graph.nodes import calls_its_graph, input_shapes
from tfcompress.graph.paths import walk
from tfcompress.graph.suffix import Suffix
from tfcompress.measure.macs import macs, matrices, steps_of
from tfcompress.measure.moments import Moments, can_measure
from tfcompress.planning.candidates import fitted
from tfcompress.planning.plan_result import Option
from tfcompress.rewriting.matching import match
from tfcompress.utils.types import Loss

LARGEST_BLOCK = 1024  # fan-in above which the metric of a layer's inputs is cut into blocks
POSITIONS = 16  # at which a convolution's inputs are measured in each image
HARMLESS_RISE = 0.002  # share of the loss; once a form raises it by less, larger ones are not tried
UNCHANGED = "float32"  # name of the option that leaves a layer as it is


def measured_options(
    model: keras.Model,
    fit_inputs: Any,
    counts: Any,
    loss: Loss,
    candidates: Any,
    reasons: dict[str, str],
) -> Any:
    """`{path: options by rising cost}`, fitted and measured in one walk over the network.

    Args:
        model: the network.
        fit_inputs: inputs on which the kernels are fitted.
        counts: two functions of the shapes of a layer's inputs, which give `count` and `estimate`
            of `fitted`.
        loss: the `HeldOutLoss` of the network.
        candidates: see `planner.plan`.
        reasons: a list, to which is added why a maker cannot take a layer.
    """
    targets, _ = match(walk(model), {_has_kernel: lambda layer: layer})
    shapes = input_shapes(model) if calls_its_graph(model) else {}
    suffix, found, steps = Suffix(model, loss.inputs), {}, steps_of(model, shapes)

    def change(layer, pairs):
        moments = input_moments(layer)
        for before, _ in pairs:
            moments.add(before)
        # a part of a composite layer counts once, in a recurrent one once a step, as in `macs`
        uses = shapes.get(id(layer)) or [(None, *before.shape[1:])] * (steps.get(id(layer)) or 1)
        count, estimate = (of(uses) for of in counts)
        suffix.advance(layer)
        forms_of_layer = fitted(
            layer,
            moments.metric(),
            candidates,
            count,
            estimate,
            measure=partial(rise, layer),
            harmless=HARMLESS_RISE * loss.scale,
            reasons=reasons,
        )
        row = [Option(*form, _names(chain)) for *form, chain in forms_of_layer]
        found[targets[id(layer)][0]] = [*row, Option(UNCHANGED, None, count([layer]))]

    def rise(layer, chain):
        return max(loss.of_outputs(suffix.outputs({layer: running(chain)})) - loss.base, 0.0)

    layers = [layer for layer, _ in walk(model).values() if id(layer) in targets]
    follow(model, fit_inputs, layers, change, "Trying forms")
    return found


def check_steps_known(model: keras.Model) -> None:
    """Raises where kernels run once a step, and the number of steps is not known."""
    steps = steps_of(model, input_shapes(model) if calls_its_graph(model) else {})
    unknown = [
        path
        for path, (layer, _) in walk(model).items()
        if steps.get(id(layer), 1) is None and matrices(layer)
    ]
    if unknown:
        raise ValueError(f"The MACs of {unknown} are not known. Plan for another `target`.")


def input_moments(layer: keras.layers.Layer) -> Moments:
    """The moments of a layer's inputs, with the bounds that keep a plan fast."""
    return Moments(layer, LARGEST_BLOCK, POSITIONS)


def _has_kernel(layer):
    return layer.built and can_measure(layer) and not isinstance(layer, forms.CompressedLayer)


def _names(chain):
    return tuple(part.name for part in chain)


def fixed_cost(model: keras.Model, target: str, options: Any) -> int:
    """The cost of the kernels that have no options."""
    others = {path: layer for path, (layer, _) in walk(model).items() if path not in options}
    if target == "macs":
        counts = {path: count for path, count in macs(model).items() if path in others}
        unknown = [path for path, count in counts.items() if count is None]
        if unknown:
            raise ValueError(f"The MACs of {unknown} are not known. Plan for another `target`.")
        return sum(counts.values())
    sizes = sum(math.prod(v.shape) for layer in others.values() for v in matrices(layer))
    return sizes * {"bits": 32, "tflite": 4, "archive": 2}[target]
