"""Errors, bytes and times of a file's operators, in the form in which Model Explorer shows them."""

import json
import os
import pathlib

import numpy as np

from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.operator_times import operator_milliseconds
from tfcompress.tflite.runner import Runner
from tfcompress.tflite.taps import Taps
from tfcompress.utils.types import Path
from tfcompress.utils.writers import write_file

GRADIENT = ({"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#e8710a"})


def write_overlays(errors: dict[int, float], tflite: Path | bytes, folder: Path) -> None:
    """Writes `error.json`, `bytes.json` and `milliseconds.json` for Model Explorer.

    Each is node data: `{graph: {"results": {operator: {"value": number}}}}`, where an operator is
    called by its place in its graph. Open the file in Model Explorer and upload them there.

    Args:
        errors: of tensors of the main graph, by index.
        tflite: the file's bytes or its path.
        folder: of the three files, which is made if there is none.
    """
    taps = Taps(tflite)
    main = taps.subgraph.name.decode()
    makers = {int(o): n for n, op in enumerate(taps.subgraph.operators) for o in op.outputs}
    of_operators = {makers[index]: error for index, error in errors.items() if index in makers}
    model, counted = taps.graph.model, set()
    graphs = [Graph(model, place) for place in range(len(model.subgraphs))]
    measures = {
        "error": {main: of_operators},
        "bytes": {graph.subgraph.name.decode(): _bytes(graph, counted) for graph in graphs},
        "milliseconds": {main: operator_milliseconds(taps, _sample(taps))},
    }
    os.makedirs(folder, exist_ok=True)
    for name, graphs in measures.items():
        data = {graph: _node_data(name, values) for graph, values in graphs.items() if values}
        write_file(pathlib.Path(folder, f"{name}.json"), json.dumps(data, indent=2))


def _node_data(name, values) -> dict:
    results = {str(place): {"value": float(value)} for place, value in values.items()}
    return {"results": results, "name": name, "gradient": list(GRADIENT)}


def _bytes(graph, counted) -> dict[int, int]:
    """The bytes of the constants of each operator; one that several read counts for the first."""
    found = {}
    for place, operator in enumerate(graph.subgraph.operators or []):
        total = 0
        for index in operator.inputs:
            buffer = graph.tensors[index].buffer if index >= 0 else 0
            data = graph.model.buffers[buffer].data
            if buffer not in counted and data is not None:
                total += len(data)
                counted.add(buffer)
        if total:
            found[place] = total
    return found


def _sample(taps) -> dict[int, np.ndarray]:
    """The numbers of all tensors for one sample of random inputs."""
    details = Runner(taps.graph.model).interpreter.get_input_details()
    random = np.random.default_rng(0)
    inputs = [
        random.standard_normal(d["shape"]).astype("float32")
        if np.dtype(d["dtype"]).kind == "f" or d["quantization"][0]
        else random.integers(0, 2, d["shape"]).astype(d["dtype"])
        for d in details
    ]
    _, values = taps.run(inputs)
    return values | dict(zip(map(int, taps.subgraph.inputs), inputs, strict=True))
