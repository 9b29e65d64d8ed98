"""The loss of a changed network on examples that nothing was fitted on."""

from typing import Any

import keras
import numpy as np

from tfcompress.graph.suffix import Suffix
from tfcompress.utils.arrays import rows, spread
from tfcompress.utils.batches import HELD, are_arrays, batches, examples_in, first
from tfcompress.utils.types import ClassWeight, Data, Loss, Tensor

BATCH_SIZE = 64
MOST_LABELLED = 256  # examples on which the loss is measured, at most
MOST_UNLABELLED = 64  # the change of the outputs varies far less than a loss
HELD_OUT_ONE_IN = 8  # at most one example in so many is held out
UNLABELLED_ONE_IN = 16
CONSTANT = 1e-12  # variance of what is the same in each example, in shares of its square
FAR = 1e3  # from the others, in units of how they differ


def split(model: keras.Model, data: Data, class_weight: ClassWeight = None) -> tuple[Any, ...]:
    """Inputs to fit on, and examples `(x, y, weights)` to measure on, spread over all of the data.

    Args:
        model: the model that the data are for.
        data, class_weight: as in `batches`; of what yields batches the first 512 MiB are taken.

    Raises:
        ValueError: there are fewer than 8 examples.
    """
    most = None if are_arrays(data) else HELD
    x, y, weights = first(batches(model, data, BATCH_SIZE, class_weight), None, most)
    count = examples_in(x)
    if count < HELD_OUT_ONE_IN:
        raise ValueError(f"`data` must hold at least {HELD_OUT_ONE_IN} examples. Received: {count}")
    size = min(MOST_LABELLED, count // HELD_OUT_ONE_IN)
    if y is None:
        size = min(MOST_UNLABELLED, max(count // UNLABELLED_ONE_IN, 1))
    held_out = np.zeros(count, bool)
    held_out[spread(count, size)] = True
    return rows(x, ~held_out), [rows(part, held_out) for part in (x, y, weights)]


class HeldOutLoss:
    """The loss on held-out examples, of a model or of outputs that were computed already.

    Args:
        model: the network before any change.
        x, y, weights: the examples.
        loss: as in `compile`, or None for the compiled one. Without labels or a loss it is the mean
            squared change of the outputs, divided by their variance.
        loss_weights: as in `compile`, beside `loss`.

    Attributes:
        base: the loss of the network before any change.
        scale: what a rise of the loss is compared with: `base`, or 1 without labels or a loss.
        inputs: the inputs of the examples, in batches.
    """

    def __init__(
        self,
        model: keras.Model,
        x: Tensor,
        y: Tensor,
        weights: Tensor,
        loss: Loss,
        loss_weights: Any = None,
    ) -> None:
        given = list(batches(model, (x, y, weights), BATCH_SIZE))
        self.inputs = [x for x, _, _ in given]
        self.labels = [(y, w) for _, y, w in given]
        self.count = examples_in(x)
        self.objective, self.before = None, None
        if loss is not None or (y is not None and getattr(model, "compiled", False)):
            # Objective needs TensorFlow; the change of the outputs works on any backend.
            from tfcompress.measure.objective import Objective

            self.objective = Objective(model, loss, loss_weights=loss_weights)
            self.objective.see(self.inputs[0])
            for labels, _ in self.labels:
                self.objective.check_labels(labels)
        outputs = Suffix(model, self.inputs).outputs()
        if self.objective is None:
            self.before = joined(outputs)
        self.base = self.of_outputs(outputs)
        self.scale = self.base if self.objective is not None else 1.0

    def __call__(self, model: keras.Model) -> float:
        """The loss of a model that takes the same inputs."""
        return self.of_outputs(Suffix(model, self.inputs).outputs())

    def of_outputs(self, outputs: Tensor) -> float:
        """The loss of the outputs of each batch."""
        if self.objective is None:
            return change(self.before, joined(outputs))
        self.objective.begin()
        parts = zip(outputs, self.labels, strict=True)
        totals = (self.objective.total(self.objective.parts_of(z, *yw)) for z, yw in parts)
        return sum(map(float, totals)) / self.objective.divisor(self.count)


def joined(outputs: list) -> list[np.ndarray]:
    """Each output over all batches."""
    return [
        np.concatenate(list(map(keras.ops.convert_to_numpy, parts)))
        for parts in zip(*outputs, strict=True)
    ]


def change(before: list[np.ndarray], now: list[np.ndarray]) -> float:
    """The mean squared change of outputs, of any type, divided by their `variance`."""
    pairs = zip(before, now, strict=True)  # masks are outputs, too
    return float(np.mean([squared_change(a, b).mean() / variance(a) for a, b in pairs]))


def squared_change(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """The squared difference of each number; equal infinities differ by nothing."""
    a, b = (array.astype("float64") for array in (before, now))
    return np.square(np.subtract(b, a, out=np.zeros_like(a), where=a != b))


def variance(outputs: np.ndarray) -> float:
    """The variance of outputs; of equal ones, as of a single number, their mean square.

    Entries of the last axis that are -1e9 or minus infinity in each example, as those of actions
    that are not allowed, do not count: what lies between them and the others is no variance.
    """
    finite = np.ma.masked_invalid(np.asarray(outputs, "float64"))
    columns = finite.reshape(-1, finite.shape[-1] if finite.ndim > 1 else 1)
    squares = np.square(columns).mean(0)
    varied = np.ma.filled(columns.var(0) > CONSTANT * squares, False)
    live = columns[:, varied] if varied.any() else columns
    far = np.abs(live.mean(0) - np.ma.median(live.mean(0)))
    near = far <= FAR * (np.ma.median(far) + np.ma.median(live.std(0)))
    found = live[:, np.ma.filled(near, False)].var(), columns.var(), squares.mean(), 1.0
    return next(float(one) for one in found if one is not np.ma.masked and one > 0)
