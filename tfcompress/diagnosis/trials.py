"""What each cure gives: the loss with that cure alone."""

import keras
import numpy as np

from tfcompress.diagnosis.cures import Recalibration
from tfcompress.diagnosis.example_loss import ExampleLoss
from tfcompress.diagnosis.switchboard import Switchboard
from tfcompress.graph.suffix import outputs_of
from tfcompress.rewriting.pairs import Pair


def tried(
    small: keras.Model,
    board: Switchboard,
    causes: dict,
    observed: dict,
    loss: ExampleLoss,
) -> dict[Pair, float]:
    """The loss with each cure, by pair.

    Args:
        small: the compressed model that `board` runs.
        causes: `{pair: Cause or None}`.
        observed: `{pair: Observation}`.
        loss: on the examples.
    """
    found = {}
    for pair, cause in causes.items():
        cure = None if cause is None else cause.cure
        if isinstance(cure, Recalibration):
            found[pair] = _recalibrated(cure, small, loss)
        elif hasattr(cure, "layers"):
            try:
                chain = cure.layers(pair, observed[pair].float_inputs)
            except ValueError:  # the form does not take the layer
                continue
            outputs = [board(x, {pair: chain}) for x, _, _ in loss.batches]
            found[pair] = float(loss(outputs).mean())
    return found


def _recalibrated(cure, small, loss) -> float:
    inputs = [x for x, _, _ in loss.batches]
    joined = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *inputs)
    new = cure.apply(small, small, joined)
    outputs = [outputs_of(new, x) for x in inputs]
    return float(loss(outputs).mean())
