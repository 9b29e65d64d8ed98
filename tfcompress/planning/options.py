"""Fits and measures what each layer of a network could be replaced by."""

import dataclasses
import math
from operator import itemgetter
from typing import Any

import keras

from tfcompress import layers as forms
from tfcompress.graph.layerwise import follow
from tfcompress.graph.nodes import calls_its_graph, input_shapes
from tfcompress.graph.paths import name_of, walk
from tfcompress.measure.macs import macs, matrices, steps_of
from tfcompress.measure.moments import Moments
from tfcompress.measure.rows import can_measure
from tfcompress.planning.plan_result import Option
from tfcompress.planning.workbench import Terms, Workbench, options_of
from tfcompress.rewriting.matching import match
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Rest
from tfcompress.utils.workers import Shared, Workers

LARGEST_BLOCK = 1024  # fan-in above which the metric of a layer's inputs is cut into blocks
POSITIONS = 16  # at which a convolution's inputs are measured in each image


def measured_options(
    workbench: Workbench, fit_inputs: Any, terms: Terms, workers: Workers, shared: Shared
) -> tuple[dict[str, list[Option]], list[str]]:
    """`{path: options by rising cost}`, fitted and measured, and why forms are none.

    One walk over the network measures the inputs of each layer; the rest is a task for each.

    Args:
        workbench: the network.
        fit_inputs: inputs on which the kernels are fitted.
        terms: what is counted and tried.
        workers: do the tasks.
        shared: makes the workbench of a worker.
    """
    model, layers = workbench.changed, walk(workbench.changed)
    targets, _ = match(layers, {has_kernel: lambda layer: layer})
    numbers = {id(layer): number for number, (layer, _) in enumerate(layers.values())}
    shapes = input_shapes(model) if calls_its_graph(model) else {}
    tasks, steps = {}, steps_of(model, shapes)

    def change(layer, pairs):
        moments = input_moments(layer)
        for before, _ in pairs:
            moments.add(before)
        # a part of a composite layer counts once, in a recurrent one once a step, as in `macs`
        uses = shapes.get(id(layer)) or [(None, *before.shape[1:])] * (steps.get(id(layer)) or 1)
        path, number, metric = targets[id(layer)][0], numbers[id(layer)], moments.metric()
        given = number, layer.name, metric, uses, terms
        tasks[path] = workers.submit(f"Layer {path!r}", options_of, shared, *given)

    wanted = [layer for layer, _ in layers.values() if id(layer) in targets]
    follow(model, fit_inputs, wanted, change, "Trying forms")
    found, reasons = {}, []
    for path, task in progress(tasks.items(), "Measuring forms", len(tasks), itemgetter(0)):
        found[path], why = task.result()
        reasons += why
    return found, reasons


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


def has_kernel(layer):
    return layer.built and can_measure(layer) and not isinstance(layer, forms.CompressedLayer)


def fixed_cost(model: keras.Model, target: str, options: Any, rest: Rest) -> int:
    """The cost of the kernels that have no options; those of a file are as `rest` has them."""
    others = {path: layer for path, (layer, _) in walk(model).items() if path not in options}
    if target == "macs":
        counts = {path: count for path, count in macs(model).items() if path in others}
        unknown = [path for path, count in counts.items() if count is None]
        if unknown:
            raise ValueError(f"The MACs of {unknown} are not known. Plan for another `target`.")
        return sum(counts.values())
    from tfcompress.export.kernels.kernel import LEAST_REST_SIZE

    sizes = [math.prod(v.shape) for layer in others.values() for v in matrices(layer)]
    if target == "tflite" and rest == "int8":
        return sum(size if size >= LEAST_REST_SIZE else 4 * size for size in sizes)
    return sum(sizes) * {"bits": 32, "tflite": 4, "archive": 2}[target]


def by_path(
    measured: list[tuple[int, str, list[Option]]], model: keras.Model
) -> dict[str, list[Option]]:
    """The options of `Planner.by_number` by the paths here, where automatic names may be others."""
    paths, found = list(walk(model)), {}
    for number, name, row in measured:
        own = name_of(paths[number])
        parts = [tuple(part.replace(name, own, 1) for part in option.parts) for option in row]
        pairs = zip(row, parts, strict=True)
        found[paths[number]] = [dataclasses.replace(option, parts=p) for option, p in pairs]
    return found
