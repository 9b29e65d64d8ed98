"""Keeps RESHAPE from the delegate in files with loops, where it may be skipped."""

import numpy as np

from tfcompress.export.draft import Draft
from tfcompress.tflite.graph_editor import Graph, Writer
from tfcompress.tflite.reader import operator_name


def keep_reshapes_from_delegate(draft: Draft) -> None:
    """Gives each RESHAPE of free sizes in a file with a loop a shape that a CAST computes.

    XNNPACK (LiteRT 2.3) takes a RESHAPE to a constant shape as a copy, which it skips where source
    and target are at one address. When the sizes of the inputs grow, its workspace may move to
    where a tensor was before that a loop or the caller has given up. The copy is then skipped in
    all later calls, and what follows computes with zeros. Seen in up to half of all interpreters
    of two small LSTMs in a row, with a free batch and length; never without a loop.
    """
    graph = Graph(draft.file)
    codes = [operator_name(draft.file, operator) for operator in graph.subgraph.operators]
    if "WHILE" not in codes:
        return
    write, computed, operators = Writer(graph), {}, []
    for operator, code in zip(graph.subgraph.operators, codes, strict=True):
        shape = _constant_shape(graph, operator) if code == "RESHAPE" else None
        if shape is not None:
            if shape not in computed:
                computed[shape] = write.cast(write.constant(np.array(shape)), "INT32")
            operator.inputs = [operator.inputs[0], computed[shape]]
            operator.builtinOptions, operator.builtinOptionsType = None, 0
        operators.append(operator)
    graph.subgraph.operators = [*write.operators, *operators]


def _constant_shape(graph, reshape) -> tuple[int, ...] | None:
    """The constant to which a RESHAPE of free sizes goes, or None."""
    if -1 not in graph.shape(reshape.inputs[0]) or len(reshape.inputs) < 2:
        return None
    shape = graph.values(reshape.inputs[1])
    return None if shape is None else tuple(shape.tolist())
