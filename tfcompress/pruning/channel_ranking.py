"""Ranks the channels of each group by how little their removal hurts.

Letters: n fan-in of a layer, m its outputs, c a channel.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph.paths import walk
from tfcompress.graph.suffix import watching
from tfcompress.measure.attention import by_head, projections
from tfcompress.measure.moments import Moments
from tfcompress.measure.rows import fan_in_first
from tfcompress.pruning.channel_removal import output_axis
from tfcompress.utils.batches import batches
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Curvature, Data, Score, Tensor

BATCH_SIZE = 128
TINY = 1e-30  # keeps a division by the sum of an all-zero kernel finite


def rank_by_weights(
    new: keras.layers.Layer,
    channels: Any,
    groups: Any,
    score: Score,
    curvature: Curvature,
) -> Any:
    """Ranks channels by the score of the weights that produce them.

    Args:
        new: a copy of the model.
        channels: the `Channels` of `new`.
        groups: lists of channel numbers.
        score: a function of `tfcompress.score`.
        curvature: by path; empty for a score without.

    Returns:
        `(channels, costs)` of each group, both by rising cost.
    """
    costs, paths = np.zeros(channels.count), {}

    def scored(layer):
        path = paths[id(layer)]
        saliency = np.asarray(score(ops.convert_to_numpy(layer.kernel), curvature.get(path)))
        if not np.isfinite(saliency).all():
            raise ValueError(f"The score of {path!r} holds NaN or infinite values.")
        return saliency

    for path, (layer, _) in walk(new).items():
        paths[id(layer)] = path
    for key, numbers in channels.writes.items():
        saliency = scored(channels.layers[key])
        axis = saliency.ndim + output_axis(channels.layers[key])
        sums = saliency.sum(tuple(a for a in range(saliency.ndim) if a != axis))
        np.add.at(costs, channels.find(numbers), sums / max(sums.sum(), TINY))  # some are tied
    for key, numbers in channels.heads.items():
        parts = projections(channels.layers[key])
        for name, part in parts.items():
            sums = by_head(channels.layers[key], name, scored(part)).sum(1)
            costs[numbers] += sums / max(sums.sum(), TINY) / len(parts)
    orders = []
    for numbers in groups:
        order = np.argsort(costs[numbers], kind="stable")
        orders.append((np.array(numbers)[order].tolist(), costs[numbers][order]))
    return orders


def rank_by_readers(model: keras.Model, channels: Any, groups: Any, data: Data | None) -> Any:
    """Ranks channels by what the layers that read them lose (Optimal Brain Surgeon).

    Channels are removed one after the other, each time the one that costs least once the remaining
    channels compensate for it.

    Args:
        model: a model.
        channels: its `Channels`.
        groups: lists of channel numbers.
        data: inputs.

    Returns:
        `(channels, costs)` of each group, both by rising cost.
    """
    readers = [layer for layer, _ in channels.readers().values()]
    moments = {id(layer): Moments(layer) for layer in readers}
    watched = watching(model, readers, lambda layer, x: moments[id(layer)].add(x))
    for x, _, _ in progress(batches(model, data, BATCH_SIZE), "Measuring inputs"):
        watched(x)
    orders = []
    for numbers in progress(groups, "Ranking channels", len(groups)):
        blocks = [
            block
            for layer, inputs in channels.readers().values()
            for block in _blocks(layer, moments[id(layer)].metric(), channels.find(inputs), numbers)
        ]
        orders.append(eliminate(blocks, numbers))
    return orders


class KernelBlock:
    """Rows of a kernel that read the channels of a group, and what each channel is worth to them.

    Args:
        w: the rows, `(n, m)`.
        A: the second moment of their inputs, `(n, n)`.
        H: the same with damping, which can be inverted.
        rows: `{channel: the numbers of its rows}`.
    """

    def __init__(self, w: Tensor, A: np.ndarray, H: np.ndarray, rows: np.ndarray) -> None:
        self.w, self.rows = w, rows
        self.inverse = np.linalg.inv(H)
        self.whole = max(np.vdot(w, A @ w), TINY)

    def loss(self, channel: int) -> float:
        """`tr w_c^T (H^-1)_cc^-1 w_c`, relative to the size of the layer's own output."""
        return np.vdot(self.w[self.rows[channel]], self._lagrange(channel)) / self.whole

    def remove(self, channel: int) -> None:
        """Removes a channel: the other rows compensate for it."""
        rows = self.rows[channel]
        across = self.inverse[:, rows]
        self.w = self.w - across @ self._lagrange(channel)
        block = self.inverse[np.ix_(rows, rows)]
        self.inverse = self.inverse - across @ np.linalg.solve(block, across.T)
        self.inverse[rows, rows] += 1.0  # the removed rows are decoupled; this keeps it invertible

    def _lagrange(self, channel):
        """The multipliers of the constraint that the channel's rows become zero."""
        rows = self.rows[channel]
        return np.linalg.solve(self.inverse[np.ix_(rows, rows)], self.w[rows])


def _blocks(layer, metric, inputs, numbers):
    """The blocks of a layer's metric that hold inputs of a group's channels."""
    w = fan_in_first(layer, np.asarray(ops.convert_to_numpy(layer.kernel), "float64"))
    taps = 1 if hasattr(layer, "equation") else math.prod(w.shape[:-2])
    inputs = np.tile(inputs, taps)  # the channel of each row of the kernel
    for rows, A, H in metric.parts():
        of_channel = {c: np.flatnonzero(inputs[rows] == c) for c in numbers}
        if any(map(len, of_channel.values())):
            yield KernelBlock(w.reshape(len(inputs), -1)[rows], A[0], H[0], of_channel)


def eliminate(blocks: Any, numbers: Any) -> Any:
    """The channels in the order of their removal, and the rising cost of each."""
    left, order, costs = list(numbers), [], []
    while left:
        losses = [sum(b.loss(c) for b in blocks if len(b.rows[c])) for c in left]
        best = int(np.argmin(losses))
        costs.append(max(losses[best], costs[-1] if costs else 0.0))
        order.append(left.pop(best))
        for block in blocks:
            if len(block.rows[order[-1]]):
                block.remove(order[-1])
    return order, np.array(costs)
