"""Keeps operators from the delegate where it computes them wrongly after a change of sizes."""

import numpy as np

from tfcompress.export.draft import Draft
from tfcompress.tflite.graph_editor import Graph, Writer
from tfcompress.tflite.reader import operator_name


def keep_from_delegate(draft: Draft) -> None:
    """Gives operators that XNNPACK (LiteRT 2.3) takes a constant that a CAST computes.

    It then leaves them to the builtin kernels:

    - RESHAPE of free sizes in a file with a loop. The delegate makes it a copy, which it skips
      where source and target are at one address. When inputs grow, its workspace may move to where
      a tensor was before that a loop or the caller has given up. The copy is then skipped in all
      later calls, and what follows computes with zeros: in up to half of all interpreters of two
      small LSTMs in a row with a free batch and length, never without a loop. Files of LSTM(128)
      take as long as before.
    - MEAN and SUM of integers over an axis of free size, wrong after some calls with a larger one.
    """
    graph = Graph(draft.file)
    codes = [operator_name(draft.file, operator) for operator in graph.subgraph.operators]
    write, computed, operators = Writer(graph), {}, []
    for operator, code in zip(graph.subgraph.operators, codes, strict=True):
        kept = _is_sum_of_free_size(graph, operator, code) or (
            code == "RESHAPE" and "WHILE" in codes and -1 in graph.shape(operator.inputs[0])
        )
        values = graph.values(operator.inputs[1]) if kept and len(operator.inputs) > 1 else None
        if values is not None:
            key = values.shape, tuple(values.ravel().tolist())
            if key not in computed:
                computed[key] = write.cast(write.constant(values.astype(np.int64)), "INT32")
            operator.inputs = [operator.inputs[0], computed[key]]
            if code == "RESHAPE":
                operator.builtinOptions, operator.builtinOptionsType = None, 0
        operators.append(operator)
    graph.subgraph.operators = [*write.operators, *operators]


def _is_sum_of_free_size(graph, operator, code) -> bool:
    if code not in ("MEAN", "SUM") or graph.type(operator.inputs[0]) not in ("INT8", "INT16"):
        return False
    axes, shape = graph.values(operator.inputs[1]), graph.shape(operator.inputs[0])
    return axes is not None and any(shape[axis] == -1 for axis in axes.ravel())
