"""The time that each operator of a .tflite file takes when it runs alone."""

import time
from typing import Any

import numpy as np

from tfcompress.tflite.reader import duplicate
from tfcompress.tflite.runner import Runner
from tfcompress.tflite.taps import Taps

ROUNDS = 5
LEAST_SECONDS = 1e-3  # of a round, in which a quick operator runs many times


def operator_milliseconds(taps: Taps, values: dict[int, np.ndarray]) -> dict[int, float]:
    """Milliseconds of each operator of the main graph, by its place: the fastest of a few rounds.

    Each runs in a file of its own, on numbers that it gets in the whole one, with the delegates.
    Neighbours that a delegate would run as one are timed one by one. An operator that gets
    integers that are no quantized numbers, as shapes, is left out.

    Args:
        taps: of the file.
        values: of its inputs and tensors.
    """
    found = {}
    for place, operator in enumerate(taps.subgraph.operators or []):
        inputs = [int(i) for i in operator.inputs if int(i) in taps.origins]
        if not inputs or any(index not in values for index in inputs):
            continue
        runner = Runner(_alone(taps, place, inputs))
        arrays = [values[index] for index in dict.fromkeys(inputs)]
        runner(arrays)
        found[place] = _milliseconds(runner.interpreter)
    return found


def _alone(taps, place, inputs) -> Any:
    """A file whose main graph is one operator."""
    file = duplicate(taps.graph.model)
    graph, file.signatureDefs = file.subgraphs[0], []
    # of the copy, whose tensors get other numbers when it is written
    makers = {int(o): operator for operator in graph.operators for o in operator.outputs}
    operator = graph.operators[place]
    constants = {int(i) for i in operator.inputs if i >= 0} - set(inputs)
    unpacked = [makers[i] for i in constants if i in makers]  # DEQUANTIZE and others of constants
    graph.operators = [*unpacked, operator]
    graph.inputs = list(dict.fromkeys(inputs))
    graph.outputs = list(graph.operators[-1].outputs)
    return file


def _milliseconds(interpreter) -> float:
    start = time.perf_counter()
    interpreter.invoke()
    repeats = int(np.clip(LEAST_SECONDS / max(time.perf_counter() - start, 1e-9), 1, 100))
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(repeats):
            interpreter.invoke()
        times.append((time.perf_counter() - start) / repeats)
    return 1e3 * min(times)
