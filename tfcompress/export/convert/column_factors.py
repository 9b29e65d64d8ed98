"""Undoes what the stock converter multiplied into the columns of a kernel.

`y = W (c x + b)`, from a normalization and the Dense layer behind it, becomes `(W c) x + W b` when
the Dense layer has a bias and an activation. If W is a matrix of few levels, `W c` is not.
"""

import numpy as np

from tfcompress.export.convert.names import layer_rows
from tfcompress.export.draft import Draft
from tfcompress.export.kernels.integer_grid import find_grid
from tfcompress.export.kernels.kernel import kernel_rows
from tfcompress.graph.chain import unchained
from tfcompress.measure.macs import matrices
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name

PRODUCT = "FULLY_CONNECTED"
TOLERANCE = 1e-5  # much more than float32 rounding
MOST_DISTINCT = 0.5  # of the entries: with more distinct values no form takes fewer bytes


def restore_kernels(draft: Draft) -> None:
    """Gives a matrix product the kernel of its layer and multiplies its input by the factors.

    Kernels that have their names, see `names.name_kernels`, are known already.
    """
    graph, operators, lowered = Graph(draft.file), [], draft.lowered
    layers = {p: layer for p, layer in unchained(lowered).items() if _has_own_kernel(layer)}
    named = {tensor.name.decode() for tensor in graph.tensors if tensor.name}
    left = {p: layer for p, layer in layers.items() if f"{p}/kernel" not in named}
    own = {f"{p}/kernel" for p in layers}
    for operator in graph.subgraph.operators:
        product = operator_name(graph.model, operator) == PRODUCT
        if product and left and graph.name(operator.inputs[1]) not in own:
            operators += _restore_kernel(graph, operator, left)
        operators.append(operator)
    graph.subgraph.operators = operators


def _has_own_kernel(layer) -> bool:
    """Whether a layer has a kernel, and not only a part of it."""
    return hasattr(layer, "kernel") and any(v is layer.kernel for v in matrices(layer))


def _restore_kernel(graph, operator, layers) -> list:
    values = None if graph.is_lazy(operator.inputs[1]) else graph.values(operator.inputs[1])
    if values is None or values.dtype != np.float32:
        return []
    folded = kernel_rows(values, 0)
    for path, layer in layers.items():
        rows = layer_rows(layer) if np.prod(layer.kernel.shape) == folded.size else None
        factors = None if rows is None else column_factors(folded, rows)
        if factors is not None and _few_levels(rows):
            x = operator.inputs[0]
            scaled = graph.tensor(graph.shape(x))
            multiply = graph.operator("MUL", [x, graph.constant(factors)], scaled)
            operator.inputs[0] = scaled
            operator.inputs[1] = graph.constant(rows, f"{path}/kernel")
            if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
                graph.tensors[operator.inputs[2]].name = f"{path}/bias".encode()
            return [multiply]
    return []


def column_factors(folded: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """`c` with `folded = rows * c`, float32 `(i,)`, or None.

    >>> column_factors(np.float32([[2, 3], [0, -3]]), np.float32([[1, 1], [0, -1]])).tolist()
    [2.0, 3.0]
    """
    if folded.shape != rows.shape:
        return None
    largest = np.abs(rows).argmax(axis=0), np.arange(rows.shape[1])
    top = rows[largest].astype(np.float64)
    factors = np.where(top == 0, 1.0, folded[largest] / np.where(top == 0, 1.0, top))
    close = np.allclose(
        folded, rows * factors, rtol=TOLERANCE, atol=TOLERANCE * np.abs(folded).max()
    )
    return factors.astype(np.float32) if close else None


def _few_levels(rows) -> bool:
    return find_grid(rows) is not None or len(np.unique(rows)) <= MOST_DISTINCT * rows.size
