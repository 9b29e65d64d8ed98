"""Lets the tables of Embedding layers read their ids as they are."""

from tfcompress.export.convert.static_shapes import drop_unread
from tfcompress.export.draft import Draft
from tfcompress.graph.chain import unchained
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name


def read_plain_ids(draft: Draft) -> None:
    """Takes away the three operators that count a negative id from the end of a table.

    Keras writes them for any lookup. The ids of an Embedding layer are not negative, as its
    documentation says; the runtime refuses others. The operators take half of the time of a small
    network with a table.
    """
    tables = {p for p, layer in unchained(draft.lowered).items() if _is_embedding(layer)}
    for index in range(len(draft.file.subgraphs)):
        graph = Graph(draft.file, index)
        makers = {o: operator for operator in graph.subgraph.operators for o in operator.outputs}
        found = [
            (operator, _plain_ids(graph, operator, makers))
            for operator in graph.subgraph.operators
            if operator_name(graph.model, operator) == "GATHER"
            and graph.name(operator.inputs[0]).rpartition("/")[0] in tables
        ]
        for operator, ids in found:
            operator.inputs[1] = operator.inputs[1] if ids is None else ids
        if any(ids is not None for _, ids in found):
            drop_unread(graph)


def _is_embedding(layer) -> bool:
    return hasattr(layer, "input_dim") and hasattr(layer, "output_dim")


def _plain_ids(graph, gather, makers) -> int | None:
    """The ids of `select(ids < 0, ids + rows, ids)`, or None if they are another tensor."""
    select = makers.get(gather.inputs[1])
    if not _is(graph, select, "SELECT", "SELECT_V2"):
        return None
    negative, moved, ids = select.inputs
    less, add = makers.get(negative), makers.get(moved)
    if not (_is(graph, less, "LESS") and _is(graph, add, "ADD")):
        return None
    rows = graph.shape(gather.inputs[0])[0]
    same = less.inputs[0] == ids == add.inputs[0]
    known = _number(graph, less.inputs[1]) == 0 and _number(graph, add.inputs[1]) == rows
    return int(ids) if same and known else None


def _is(graph, operator, *codes) -> bool:
    return operator is not None and operator_name(graph.model, operator) in codes


def _number(graph, index) -> int | None:
    values = graph.values(index)
    return int(values.reshape(-1)[0]) if values is not None and values.size == 1 else None
