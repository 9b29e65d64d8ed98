"""What each layer of a compressed model gets and gives, beside what the float layer would give."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.diagnosis.switchboard import Switchboard
from tfcompress.graph.intercept import as_array
from tfcompress.graph.suffix import watching
from tfcompress.rewriting.pairs import Pair

MOST_NUMBERS = 2**20  # of the inputs of one layer, kept to look for causes


class Observation:
    """The inputs and outputs of one place, added up over its calls.

    Attributes:
        inputs: arrays of the inputs in the compressed model that were kept.
        float_inputs: of the inputs in the float model, in which nothing before the layer is wrong.
        lost: whether outputs were not finite where inputs and the float layer's outputs were.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair, self.inputs, self.kept = pair, [], 0
        self.float_inputs, self.float_kept = [], 0
        self.error, self.size, self.lost = 0.0, 0.0, False
        self.statistics = None  # of the inputs of a batch normalization: count, sum, squares

    @property
    def output_error(self) -> float | None:
        """The root mean square of the error of the outputs, in units of that of the outputs.

        None where nothing was finite.
        """
        if not self.size and not self.error:
            return None if self.lost or not self.kept else 0.0
        return float(np.sqrt(self.error / max(self.size, 1e-30)))

    def add(self, x: Any, y: Any, run: Any) -> None:
        x, y = as_array(_first(x)), as_array(_first(y))
        if x is None or y is None:  # inside a graph of its own
            return
        y0 = as_array(_first(run(self.pair.before)))
        if self.kept < MOST_NUMBERS:
            self.inputs.append(x)
        self.kept += x.size
        if y0.shape != y.shape or y.dtype.kind not in "fV":
            return
        y, y0 = y.astype("float64"), y0.astype("float64")
        sound = np.isfinite(y0)
        finite = sound & np.isfinite(y)
        self.lost |= bool((sound & ~finite).any())
        self.error += float(np.square(np.where(finite, y - y0, 0)).sum())
        self.size += float(np.square(np.where(finite, y0, 0)).sum())
        if isinstance(self.pair.now[-1], keras.layers.BatchNormalization):
            self._add_statistics(x)

    def add_float(self, x: np.ndarray) -> None:
        """Adds inputs of the float layer."""
        if self.float_kept < MOST_NUMBERS:
            self.float_inputs.append(x)
        self.float_kept += x.size

    def _add_statistics(self, x):
        layer = self.pair.now[-1]
        rows = np.moveaxis(x, layer.axis, -1).reshape(-1, x.shape[layer.axis]).astype("float64")
        rows = rows[np.isfinite(rows).all(1)]
        found = np.stack([np.full(rows.shape[1], len(rows)), rows.sum(0), np.square(rows).sum(0)])
        self.statistics = found if self.statistics is None else self.statistics + found


def observe(
    model: keras.Model, board: Switchboard, pairs: Sequence[Pair], batches: list
) -> tuple[dict, list]:
    """Runs the float model and the compressed one once.

    Returns:
        `{pair: Observation}`, and the outputs of the compressed model for each batch.
    """
    found = {pair: Observation(pair) for pair in pairs}
    floats = {pair.before[0]: one for pair, one in found.items() if pair.before}
    watched = watching(model, floats, lambda layer, x: floats[layer].add_float(x))
    for x, _, _ in batches:
        watched(x)
    outputs = [
        board.watched(x, lambda pair, x, y, run: found[pair].add(x, y, run)) for x, _, _ in batches
    ]
    return found, outputs


def _first(structure):
    return keras.tree.flatten(structure)[0]
