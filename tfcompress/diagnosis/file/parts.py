"""Which part of an attention, a recurrent layer or another composite one a file gets wrong."""

import numpy as np

from tfcompress.diagnosis.file.causes import CHANGED, FileCase
from tfcompress.diagnosis.file.kernels import FileKernel
from tfcompress.diagnosis.file.walk import Place
from tfcompress.measure.rows import fan_in_first
from tfcompress.tflite.reader import operator_name
from tfcompress.tflite.taps import Taps

LEAST = 0.05  # error of a part's product; rounding to 8 bits makes less


def worst_part(
    path: str, taps: Taps, kernels: dict[str, FileKernel], values: dict[int, np.ndarray]
) -> FileCase | None:
    """The part whose kernel or whose product differs most; None where none stands out.

    Args:
        path: of the composite layer.
        taps: of the file.
        kernels: those of the file, by the layers' paths.
        values: of the tensors of the file.
    """
    found = []
    for part, kernel in kernels.items():
        if not part.startswith(f"{path}/"):
            continue
        change = kernel.change()
        change = np.inf if np.isnan(change) else change
        place = _product(taps, kernel, values)
        error = 0.0 if place is None else place.error
        if change > CHANGED or error > LEAST:
            found.append((max(change, error), part, place, kernel))
    if not found:
        return None
    _, part, place, kernel = max(found, key=lambda row: row[0])
    return FileCase(part, taps, place, kernel, inputs=None if place is None else place.inputs[0])


def _product(taps, kernel, values) -> Place | None:
    """A matrix product of the main graph, beside what the file's kernel makes of its inputs."""
    operator, graph = kernel.operator, taps.graph
    if not kernel.main or operator_name(graph.model, operator) != "FULLY_CONNECTED":
        return None
    x, y = int(operator.inputs[0]), int(operator.outputs[0])
    if x not in values or y not in values or operator.builtinOptions.fusedActivationFunction:
        return None
    rows = values[x].reshape(-1, values[x].shape[-1]).astype("float64")
    weights = fan_in_first(kernel.layer, kernel.values)
    expected = rows @ weights.reshape(rows.shape[1], -1)
    expected = expected if kernel.bias is None else expected + kernel.bias.reshape(-1)
    summed = np.cumprod(weights.shape).tolist().index(rows.shape[1]) + 1
    letters = getattr(kernel.layer, "equation", "bc").split(",")[0]  # an EinsumDense has its axes
    free = len(letters) - summed if "..." not in letters else 1
    inputs = rows.reshape(*[1] * (free - 1), -1, *weights.shape[:summed])
    return Place([kernel.layer], [inputs], y, expected, values[y].reshape(expected.shape))
