"""The loss of a changed network on examples that nothing was fitted on."""

import keras
import numpy as np

from tfcompress.graph.suffix import Suffix
from tfcompress.utils.arrays import concatenated, rows
from tfcompress.utils.batches import batches

BATCH = 64
HELD = 256  # examples on which the loss is measured, at most
UNLABELLED = 64  # without labels: the outputs' change varies far less by example than a loss does
SHARE = 8  # of the data, one in as many at most


def split(data):
    """Inputs to fit on, and examples `(x, y, weights)` to measure on, from all over the data."""
    given = list(batches(data, BATCH))
    x, y, weights = concatenated(given)
    count = len(keras.tree.flatten(x)[0])
    held = min(UNLABELLED if y is None else HELD, count // SHARE)
    if not held:
        raise ValueError(f"`data` must hold at least {SHARE} examples. Received: {count}")
    chosen = np.zeros(count, bool)
    chosen[np.linspace(0, count - 1, held).astype(int)] = True
    return rows(x, ~chosen), [rows(part, chosen) for part in (x, y, weights)]


class Judge:
    """The loss on held-out examples, of a model or of its outputs.

    Args:
        model: the network as it is.
        x, y, weights: the examples.
        loss: as in `compile`, or None for the compiled one; without labels or a loss it is the
            mean squared change of the outputs over their variance.
    """

    def __init__(self, model, x, y, weights, loss):
        given = list(batches((x, y, weights), BATCH))
        self.inputs = [x for x, _, _ in given]
        self.labels = [(y, w) for _, y, w in given]
        self.count = len(keras.tree.flatten(x)[0])
        self.objective, self.before = None, None
        if loss is not None or (y is not None and getattr(model, "compiled", False)):
            from tfcompress.measure.objective import Objective

            self.objective = Objective(model, loss)
        outputs = Suffix(model, self.inputs).outputs()
        if self.objective is None:
            self.before = _joined(outputs)
        self.base = self.of(outputs)
        self.unit = self.base if self.objective is not None else 1.0

    def __call__(self, model):
        return self.of([keras.tree.flatten(model(x, training=False)) for x in self.inputs])

    def of(self, outputs) -> float:
        """The loss of the outputs of each batch."""
        if self.objective is None:
            changes = [
                np.mean(np.square(now - before)) / max(np.var(before), 1e-12)
                for now, before in zip(_joined(outputs), self.before, strict=True)
            ]
            return float(np.mean(changes))
        parts = zip(outputs, self.labels, strict=True)
        totals = (self.objective.total(self.objective.parts_of(z, *yw)) for z, yw in parts)
        return sum(map(float, totals)) / self.count


def _joined(outputs):
    """Each output over all batches."""
    return [
        np.concatenate(list(map(keras.ops.convert_to_numpy, one)))
        for one in zip(*outputs, strict=True)
    ]
