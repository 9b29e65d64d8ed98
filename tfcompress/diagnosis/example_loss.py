"""The loss of each example, and how far each example's outputs moved."""

from typing import Any

import keras
import numpy as np

from tfcompress.graph.private_training import compiled_loss
from tfcompress.graph.suffix import outputs_of
from tfcompress.measure.held_out_loss import squared_change, variance
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.batches import examples_in
from tfcompress.utils.types import Loss

WORST = 100.0  # a loss that is not finite counts as so many times the largest of the float model


class ExampleLoss:
    """The loss of a model's outputs, example by example.

    Without labels or a loss it is the change of the outputs, `mean (z - z0)^2 / var z0`.

    Args:
        model: the float model, compiled or not.
        batches: `(x, y, sample_weight)` of the examples.
        loss: as in `compile`; None takes the compiled one.

    Attributes:
        name: what is measured.
        before: the loss of each example of the float model.
    """

    def __init__(self, model: keras.Model, batches: list, loss: Loss = None) -> None:
        self.batches, self.objective = batches, None
        labelled = batches[0][1] is not None
        if loss is not None or (labelled and compiled_loss(model) is not None):
            from tfcompress.measure.objective import Objective  # TensorFlow

            self.objective = Objective(model, loss)
            self.objective.see(batches[0][0])
            for _, y, _ in batches:
                self.objective.check_labels(y)
        self.name = "change of the outputs" if self.objective is None else "loss"
        self.outputs = [outputs_of(model, x) for x, _, _ in batches]
        arrays = [[to_numpy(z).astype("float64") for z in row] for row in self.outputs]
        self.floats = arrays
        columns = zip(*arrays, strict=True)
        self.variances = [variance(np.concatenate(c)) for c in columns]
        self.worst = np.inf
        self.before = self(self.outputs)
        self.worst = WORST * max(1.0, float(np.abs(self.before).max(initial=0.0)))

    def __call__(self, outputs: list) -> np.ndarray:
        """The loss of each example for the outputs of each batch."""
        if self.objective is None:
            return self.moved(outputs)
        found, self._divisor = [], None
        self.objective.begin()
        for z, (x, y, w) in zip(outputs, self.batches, strict=True):
            count = examples_in(x)
            parts = self.objective.parts_of(z, y, w)
            values = [to_numpy(weight * term.values(y, z)) for term, y, z, weight in parts]
            found.append(sum(v.reshape(count, -1).sum(1) for v in values))
        losses = np.concatenate(found).astype("float64")
        losses *= len(losses) / self.objective.divisor(len(losses))
        return self._finite(losses)

    def moved(self, outputs: list) -> np.ndarray:
        """How far each example's outputs are from those of the float model."""
        found = []
        for row, floats in zip(outputs, self.floats, strict=True):
            changes = [
                squared_change(z0, to_numpy(z)).reshape(len(z0), -1).mean(1) / var
                for z, z0, var in zip(row, floats, self.variances, strict=True)
            ]
            found.append(np.mean(changes, 0))
        return self._finite(np.concatenate(found))

    def _finite(self, losses: np.ndarray) -> Any:
        return np.where(np.isfinite(losses), np.minimum(losses, self.worst), self.worst)
