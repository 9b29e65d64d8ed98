"""Products over the last axis of sequences, without the RESHAPE before and behind them."""

from typing import Any

from tfcompress.export.convert.static_shapes import drop_unread
from tfcompress.export.draft import Draft
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name

KEEPS_DIMS = 5  # the first version of FULLY_CONNECTED that knows `keepNumDims`


def keep_sequences(draft: Draft) -> None:
    """Lets FULLY_CONNECTED take and give `(batch, steps, features)` in files with loops.

    The converter flattens batch and steps, and computes the sizes that the product gets back. What
    a RESHAPE of free sizes gives has no place in the memory that LiteRT plans: the product next to
    it was wrong in a tenth of the interpreters of a small streamed file whose batch had grown.
    """
    graph = Graph(draft.file)
    operators = graph.subgraph.operators
    if all(operator_name(draft.file, operator) != "WHILE" for operator in operators):
        return
    makers = {int(index): operator for operator in operators for index in operator.outputs}
    readers = {}
    for operator in operators:
        for index in operator.inputs:
            readers.setdefault(int(index), []).append(operator)
    ends, gone = {int(index) for index in graph.subgraph.outputs}, set()
    for product in operators:
        if operator_name(draft.file, product) != "FULLY_CONNECTED":
            continue
        before, behind = makers.get(int(product.inputs[0])), readers.get(int(product.outputs[0]))
        if int(product.outputs[0]) in ends or len(behind or []) != 1:
            continue
        width = graph.shape(product.inputs[1])[-1]
        if _flattens(graph, before, width) and _restores(graph, behind[0], before, makers):
            product.inputs = [before.inputs[0], *product.inputs[1:]]
            product.outputs = behind[0].outputs
            product.builtinOptions.keepNumDims = True
            version = draft.file.operatorCodes[product.opcodeIndex].version
            graph.set_version(product, "FULLY_CONNECTED", max(version, KEEPS_DIMS))
            gone.add(id(behind[0]))
    graph.subgraph.operators = [operator for operator in operators if id(operator) not in gone]
    drop_unread(graph)


def _flattens(graph: Graph, operator: Any, width: int) -> bool:
    """Whether an operator gives the rows `(-1, width)` of a tensor with more axes."""
    if operator is None or operator_name(graph.model, operator) != "RESHAPE":
        return False
    x = graph.shape(operator.inputs[0])
    return len(x) > 2 and x[-1] == width and len(graph.shape(operator.outputs[0])) == 2


def _restores(graph, operator, before, makers) -> bool:
    """Whether an operator gives rows the axes back that they had before, but for the last one."""
    if operator_name(graph.model, operator) != "RESHAPE":
        return False
    rows, y = graph.shape(operator.inputs[0]), graph.shape(operator.outputs[0])
    x = graph.shape(before.inputs[0])
    if len(x) != len(y) or rows[-1] != y[-1] or y[-1] < 1:
        return False
    if x[:-1] == y[:-1] and x.count(-1) < 2:
        return True
    sizes = makers.get(int(operator.inputs[1]))
    return sizes is not None and _leading_sizes(graph, sizes, makers) == before.inputs[0]


def _leading_sizes(graph, operator, makers) -> int | None:
    """The tensor all whose sizes but the last one begin what a CONCATENATION gives, or None."""
    taken = makers.get(int(operator.inputs[0]))
    if taken is None or operator_name(graph.model, operator) != "CONCATENATION":
        return None
    shape = makers.get(int(taken.inputs[0]))
    if shape is None or operator_name(graph.model, shape) != "SHAPE":
        return None
    x, code = int(shape.inputs[0]), operator_name(graph.model, taken)
    count = len(graph.shape(x)) - 1
    wanted = {"GATHER": [list(range(count))], "STRIDED_SLICE": [[0], [count], [1]]}.get(code)
    values = [graph.values(index) for index in taken.inputs[1:]]
    given = [None if one is None else one.tolist() for one in values]
    return x if given == wanted else None
