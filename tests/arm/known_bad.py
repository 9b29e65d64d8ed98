"""Files that some runtime gets wrong: the exporter writes none, and the ARM suite must notice each.

Each is a good file of the suite with one thing changed.
"""

from dataclasses import replace

import numpy as np

from tfcompress.tflite import reader as flatbuffer
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.writer import write


def known_bad(cases) -> dict:
    """`{name: case}` from the good files."""
    eight, sparse = cases["eight bits"], cases["any zeros of integers"]
    return {
        "INT2 filter": _changed(cases["conv, dilated"], _two_bit_filter),
        "sparse blocks in version 12": _changed(cases["blocks of 16"], _version_12),
        "sparse entries as they are": _changed(sparse, _direct),
        "unpacked in version 12": _changed(sparse, _version_12),
        "INT4 weight of -8": _with_least(cases["four bits"]),
        "symmetric activations": _changed(eight, _symmetric),
        "symmetric, unpacked": _changed(cases["binary codes"], _symmetric),
        "INT2": cases["ternary"],
        "version 14": _changed(eight, _version_14),
        "float16 DENSIFY": _changed(cases["any zeros of float16"], _half),
    }


def _changed(case, change):
    file = flatbuffer.read(case.blob)
    change(Graph(file))
    return replace(case, blob=write(file))


def _product(graph):
    return graph.subgraph.operators[-1]


def _version_12(graph):
    graph.set_version(_product(graph), "FULLY_CONNECTED", 12)


def _version_14(graph):
    graph.set_version(_product(graph), "FULLY_CONNECTED", 14)


def _symmetric(graph):
    _product(graph).builtinOptions.asymmetricQuantizeInputs = False


def _two_bit_filter(graph):
    operator = _product(graph)
    weight = graph.tensors[operator.inputs[1]]
    values = graph.values(operator.inputs[1])
    operator.inputs[1] = graph.integers(values, 2, "filter", weight.quantization)


def _direct(graph):
    unpack, product = graph.subgraph.operators
    product.inputs[1] = unpack.inputs[0]
    graph.subgraph.operators = [product]


def _half(graph):
    unpack, product = graph.subgraph.operators
    weight, unpacked = graph.tensors[unpack.inputs[0]], unpack.outputs[0]
    buffer = graph.model.buffers[weight.buffer]
    buffer.data = np.frombuffer(
        np.frombuffer(buffer.data, np.float32).astype(np.float16).tobytes(), np.uint8
    )
    half = graph.tensor(graph.shape(unpacked), "FLOAT16")
    weight.type = graph.tensors[half].type
    unpack.outputs = [half]
    widen = graph.operator("DEQUANTIZE", [half], unpacked, 3)
    graph.subgraph.operators = [unpack, widen, product]


def _with_least(case):
    """The file with one weight -8 in place of a smaller one, and what it must compute."""
    file = flatbuffer.read(case.blob)
    graph = Graph(file)
    weight = graph.tensors[_product(graph).inputs[1]]
    values = graph.values(_product(graph).inputs[1]).copy()
    step = weight.quantization.scale[3] * (-8.0 - values[3, 5])
    values[3, 5] = -8
    file.buffers[weight.buffer].data = flatbuffer.pack_integers(values, 4)
    expected = case.expected.copy()
    expected[:, 3] += case.inputs[:, 5] * step
    return replace(case, blob=write(file), expected=expected)
