"""Removes the operators that compute shapes in files with a free batch size."""

import numpy as np

from tfcompress.export.draft import Draft
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name


def make_shapes_static(draft: Draft) -> None:
    """Gives each RESHAPE with at most one unknown size a constant shape.

    With a free batch size the converter computes the shape of each Flatten from SHAPE,
    STRIDED_SLICE and PACK. These and a RESHAPE to a computed shape stay outside the delegate.
    """
    graph = Graph(draft.file)
    operators = graph.subgraph.operators
    readers = {}
    for operator in operators:
        for index in operator.inputs:
            readers.setdefault(index, []).append(operator)
    for operator in operators:
        if operator_name(draft.file, operator) == "RESHAPE" and len(operator.inputs) == 2:
            shape = _static_shape(graph, operator, readers.get(operator.outputs[0], []))
            if shape is not None and graph.values(operator.inputs[1]) is None:
                operator.inputs[1] = graph.constant(np.array(shape, np.int32), "shape")
    drop_unread(graph)


def _static_shape(graph, reshape, readers) -> list[int] | None:
    """The output shape of a RESHAPE if at most one size is unknown, or None."""
    shape = list(graph.shape(reshape.outputs[0]))
    if shape.count(-1) == 2 == len(shape) and readers:  # the input of a Dense layer on a sequence
        widths = {_product_width(graph, reader, reshape.outputs[0]) for reader in readers}
        if len(widths) == 1 and None not in widths:
            shape = [-1, *widths]
    return shape if shape.count(-1) <= 1 else None


def _product_width(graph, reader, tensor) -> int | None:
    """The size that a FULLY_CONNECTED needs in the last axis of its input."""
    if operator_name(graph.model, reader) != "FULLY_CONNECTED" or reader.inputs[0] != tensor:
        return None
    return graph.shape(reader.inputs[1])[-1]


def drop_unread(graph: Graph) -> None:
    """Removes operators whose outputs nothing reads, from the last to the first."""
    subgraph, kept = graph.subgraph, []
    read = {int(index) for index in subgraph.outputs}
    for operator in reversed(subgraph.operators):
        effect = not operator.outputs or operator_name(graph.model, operator) in ("WHILE", "IF")
        if effect or read & set(operator.outputs):
            kept.append(operator)
            read |= set(operator.inputs)
    subgraph.operators = kept[::-1]
