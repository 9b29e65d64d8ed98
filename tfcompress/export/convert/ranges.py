"""The ranges of the activations of a float32 file."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.export.convert.masked_scores import bound_masks
from tfcompress.export.draft import Draft
from tfcompress.graph.private_keras import layers_in
from tfcompress.layers.discrete.fake_quant import FakeQuant
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import duplicate, operator_name
from tfcompress.tflite.runner import Probe

LEVELS = 255  # steps in the range of an int8 number
LARGEST_LOSS = 4.0  # int8 steps of a normalized input that one step of the input may be


def measure_ranges(source: Any, batches: Sequence[list]) -> dict[int, tuple[float, float]]:
    """The range of each float32 activation in the main graph of a file, widened to hold zero.

    Args:
        source: the file's bytes, or a `ModelT`.
    """
    probe, found = Probe(source, rounded_activations(source)), {}
    for inputs in batches:
        for tensor, values in probe.run(inputs)[1].items():
            low, high = found.get(tensor, (0.0, 0.0))
            lowest, highest = values.min(initial=0.0), values.max(initial=0.0)
            found[tensor] = (min(low, float(lowest)), max(high, float(highest)))
    return found


def normalized_later(
    graph: Graph, ranges: dict[int, tuple[float, float]], levels: int = LEVELS
) -> set[int]:
    """The activations before a normalization, which integers with one scale cannot hold.

    A normalization multiplies each column by a factor of its own. What one step of the input
    becomes in the column of the largest factor is compared with an int8 step of the output.

    Args:
        graph: the main graph of a float32 file.
        ranges: of its activations.
        levels: steps in the range of the input.
    """
    readers, found, most = {}, set(), LARGEST_LOSS * levels / LEVELS
    for operator in graph.subgraph.operators:
        for index in operator.inputs:
            readers.setdefault(index, []).append(operator)
    for index in set(map(int, graph.subgraph.inputs)) & ranges.keys():
        chain, factor = [index], np.ones(1)
        while (following := _scaling(graph, readers.get(chain[-1], []), chain[-1])) is not None:
            output, scale = following
            chain, factor = [*chain, output], factor * scale
        before, after = (np.subtract(*ranges[end][::-1]) for end in (chain[0], chain[-1]))
        if factor.size > 1 and before * np.abs(factor).max() > most * after:
            found |= set(chain[:-1])
    return found


def measure_noise(draft: Draft) -> None:
    """Measures the ranges of the float32 file, and with them what a full-integer file rounds.

    Activations before a normalization are not rounded where they stay in float32.
    """
    draft.ranges = measure_ranges(draft.float32, draft.batches)
    bound_masks(duplicate(draft.float32), draft.ranges)  # as in the file that is made
    learned = rounded_activations(draft.float32, draft.source)
    before = normalized_later(Graph(draft.float32), draft.ranges, draft.levels)
    # Int8 steps for int16 activations too: kernels in 8 bits are what their files round.
    steps = {index: (high - low) / LEVELS for index, (low, high) in draft.ranges.items()}
    draft.rounded = {i: max(learned[i], step) for i, step in steps.items() if i not in before}


def _scaling(graph, operators, tensor) -> tuple | None:
    """`(output, factors)` of the only reader of a tensor if it adds or multiplies constants."""
    if len(operators) != 1:
        return None
    (operator,) = operators
    code = operator_name(graph.model, operator)
    if code not in ("ADD", "SUB", "MUL", "DIV") or operator.inputs[0] != tensor:
        return None
    values = graph.values(operator.inputs[1])
    if values is None or operator.builtinOptions.fusedActivationFunction:
        return None
    if code in ("ADD", "SUB"):
        return int(operator.outputs[0]), 1.0
    values = values.astype(np.float64)
    return int(operator.outputs[0]), values if code == "MUL" else 1 / values


def rounded_activations(source: Any, model: keras.Model | None = None) -> dict[int, float]:
    """The float32 activations of a file, all of which a full-integer file rounds.

    Each has the step of its learned range if `model` has a `FakeQuant` for it, or 0. The range can
    be much wider than the values after a short training.
    """
    graph = Graph(duplicate(source))
    steps = dict.fromkeys(map(int, graph.subgraph.inputs), 0.0)
    layers = [] if model is None else layers_in(model)
    learned = {
        np.float32(end): (layer.high - layer.low) / LEVELS
        for layer in layers
        if isinstance(layer, FakeQuant)
        for end in (layer.low, layer.high)
        if end
    }
    for operator in graph.subgraph.operators:
        constants = [graph.values(i) for i in operator.inputs if i >= 0]
        ends = [c.item() for c in constants if c is not None and c.size == 1]  # of a clip
        step = max((learned.get(np.float32(end), 0.0) for end in ends), default=0.0)
        steps.update((int(index), step) for index in operator.outputs)
    return {index: s for index, s in steps.items() if graph.type(index) == "FLOAT32"}
