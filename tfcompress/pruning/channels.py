"""Pruning of whole channels, which really removes them: a smaller model of ordinary layers.

Letters: n fan-in of a layer, m its outputs, c a channel.
"""

import math

import numpy as np
from keras import ops

from tfcompress import score as scores_of
from tfcompress.graph.layerwise import follow
from tfcompress.graph.paths import name_of, walk
from tfcompress.measure.moments import Moments, can_measure, watch_inputs
from tfcompress.pruning.channel_ties import Channels, input_axis, output_axis, shrink
from tfcompress.pruning.masks import check_patterns, select
from tfcompress.rewriting.swap import copy
from tfcompress.utils.batches import batches, check_repeats
from tfcompress.utils.checks import check_sparsity, whole_number
from tfcompress.utils.progress import progress

BATCH = 128
TINY = 1e-30


def prune_channels(
    model, amount, score="magnitude", data=None, layers="*", scope="layer", multiple=1
):
    """A smaller copy of a model, with a share of its channels removed.

    A channel is a feature map of a convolution or a unit of a Dense layer. Channels that a residual
    sum, a product or a depthwise convolution ties to each other go together; the channels of the
    model's inputs and outputs stay, and those that grouped convolutions, recurrent, attention, and
    other layers see (see `channels.Channels`). The result has ordinary layers with the same names
    and fewer filters and units, and needs nothing special to train, save or export.

    With `data` the layers that read the removed channels make up for them: in the order of the
    graph, each kernel is fitted by least squares so that with the channels that are left it gives
    what the layer gave in the model itself. No labels are needed for that. In a model with batch
    normalization, call `recalibrate_batch_norm` afterwards.

    Cost: MACs and weights of inner layers fall by about `(1 - amount)^2`. With `data`: two forward
    passes; memory as in `follow`.

    Args:
        model: a built Sequential or Functional `keras.Model`.
        amount: the share of the channels to remove, in [0, 1). Each layer keeps one channel.
        score: what a channel counts: the sum over its weights of `"magnitude"`, `|w|`; of `"obd"`,
            `d w^2 / 2` with the loss that the model is compiled with (`data` then has labels); of
            `"random"`; of a callable `(w, d)`, with `d` None without data; each relative to its
            layer's sum. Or `"obs"`, Optimal Brain Surgeon on channels: what the layers that read
            the channel lose when the channels left make up for it, one channel after the other.
        data: inputs (arrays, `tf.data.Dataset`, `PyDataset`); some 2,000 examples are enough.
        layers: a name, path or glob, or a list of these: whose outputs may go.
        scope: `"layer"`, the same share in each layer (in all that are tied), or `"global"`, one
            ranking over all.
        multiple: of which the number of channels that stay is the nearest whole multiple, in layers
            that have as many. Kernels work on 8, 16 or 32 channels at a time, so that odd numbers
            save less time than MACs: on AVX-512 a small ResNet with (22, 45, 67) filters left of
            (32, 64, 96) took 0.8 of its time at 0.48 of its MACs, and with (16, 48, 64) 0.5 at 0.4.

    Returns:
        A new `keras.Model`, not compiled.

    Raises:
        ValueError: bad arguments; `layers` matches nothing, or names a layer whose channels must
            stay; `data` is missing for `"obs"`, or a generator.

    Example:

    >>> import keras
    >>> hidden = keras.layers.Dense(8, activation="relu", name="hidden")
    >>> model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2)])
    >>> prune_channels(model, 0.5).count_params(), model.count_params()
    (30, 58)

    Papers: H. Li et al., "Pruning Filters for Efficient ConvNets", 2017 (magnitude; they sum over
    the filters of a layer); Y. He, X. Zhang, J. Sun, "Channel Pruning for Accelerating Very Deep
    Neural Networks", 2017 (the least squares); G. Fang et al., "DepGraph: Towards Any Structural
    Pruning", 2023 (the ties).
    """
    check_sparsity(amount)
    if scope not in ("layer", "global"):
        raise ValueError(f"Expected scope 'layer' or 'global'. Received: scope={scope!r}")
    if score == "obs" and data is None:
        raise ValueError('score="obs" needs `data`, inputs of the model without labels.')
    whole_number(multiple, "multiple")
    check_repeats(data, 2)
    new = copy(model)
    channels = Channels(new)
    groups = _groups(new, channels, layers)
    if score == "obs":
        orders = _rank_by_readers(new, channels, groups, data)
    else:
        orders = _rank_by_weights(model, new, channels, groups, scores_of.get(score), data)
    gone = _lowest(orders, amount, scope, multiple)
    if data is not None:
        _absorb(model, new, channels, gone, data)
    return shrink(new, channels, gone)


def _groups(model, channels, layers):
    """The channels that may go, as lists of those of the same layers."""
    free = channels.groups()
    may_go = set().union(*free)
    for pattern in check_patterns(layers):
        chosen = select(model, pattern)
        staying = [path for path, layer in chosen.items() if id(layer) not in may_go]
        if pattern in (*staying, *map(name_of, staying)):
            raise ValueError(
                f"The channels of '{staying[0]}' cannot be removed: an output of the model depends "
                "on each of them, or a layer through which they cannot be followed."
            )
    chosen = {id(layer) for layer in select(model, layers).values()}
    groups = [labels for keys, labels in free.items() if set(keys) <= chosen]
    if not groups:
        raise ValueError(
            "`layers` leaves no channels to remove; layers whose channels are tied must be chosen "
            f"together. Received: layers={layers!r}"
        )
    return groups


def _lowest(orders, amount, scope, multiple):
    """The channels that go, from `(channels, costs)` of each group, both by rising cost."""
    most = [len(labels) - 1 for labels, _ in orders]
    counts = [
        min(round(amount * len(labels)), m) for (labels, _), m in zip(orders, most, strict=True)
    ]
    if scope == "global":
        costs = np.concatenate([costs[:m] for (_, costs), m in zip(orders, most, strict=True)])
        total = round(amount * sum(len(labels) for labels, _ in orders))
        first = np.argsort(costs, kind="stable")[:total]
        counts = np.bincount(np.repeat(np.arange(len(most)), most)[first], minlength=len(most))
    counts = [_even(len(c), int(k), multiple) for (c, _), k in zip(orders, counts, strict=True)]
    return {c for (labels, _), k in zip(orders, counts, strict=True) for c in labels[:k]}


def _even(size, gone, multiple):
    """How many channels go, so that the nearest multiple is left."""
    if size < multiple:
        return gone
    return size - min(size, multiple * max(1, round((size - gone) / multiple)))


def _rank_by_weights(model, new, channels, groups, score, data):
    """Each group's channels by the score of the weights that make them."""
    curvature = {}
    if data is not None and score not in (scores_of.magnitude, scores_of.random):
        from tfcompress.measure.curvature import gauss_newton

        curvature = gauss_newton(model, data)
    costs = np.zeros(channels.count)
    for path, (layer, _) in walk(new).items():
        if id(layer) in channels.writes:
            saliency = np.asarray(score(ops.convert_to_numpy(layer.kernel), curvature.get(path)))
            if not np.isfinite(saliency).all():
                raise ValueError(f"The score of '{path}' holds NaN or infinite values.")
            axis = saliency.ndim + output_axis(layer)
            sums = saliency.sum(tuple(a for a in range(saliency.ndim) if a != axis))
            np.add.at(
                costs, channels.find(channels.writes[id(layer)]), sums / max(sums.sum(), TINY)
            )
    orders = []
    for labels in groups:
        order = np.argsort(costs[labels], kind="stable")
        orders.append((np.array(labels)[order].tolist(), costs[labels][order]))
    return orders


def _rank_by_readers(model, channels, groups, data):
    """Each group's channels in the order in which it hurts their readers least to lose them."""
    readers = [channels.layers[key] for key in channels.reads]
    unknown = [layer.name for layer in readers if not can_measure(layer)]
    if unknown:
        raise ValueError(f'score="obs" cannot measure the inputs of {unknown}. Use another score.')
    moments = {id(layer): Moments(layer) for layer in readers}
    for x, _, _ in progress(batches(data, BATCH), "Measuring inputs"):
        watch_inputs(model, x, readers, lambda layer, x: moments[id(layer)].add(x))
    orders = []
    for labels in progress(groups, "Ranking channels", len(groups)):
        parts = [
            part
            for layer in readers
            for part in _parts(layer, moments[id(layer)].metric(), channels, labels)
        ]
        orders.append(_eliminate(parts, labels))
    return orders


class _Part:
    """Some rows of a kernel that read the channels of a group: what it loses with each of them."""

    def __init__(self, w, A, H, rows):
        self.w, self.rows = w, rows  # (n, m), {channel: its rows}
        self.inverse = np.linalg.inv(H)
        self.whole = max(np.vdot(w, A @ w), TINY)

    def loss(self, channel):
        """`1/2 tr w_c^T (H^-1)_cc^-1 w_c`, in shares of the layer's own output."""
        return np.vdot(self.w[self.rows[channel]], self._lagrange(channel)) / self.whole

    def remove(self, channel):
        rows = self.rows[channel]
        across = self.inverse[:, rows]
        self.w = self.w - across @ self._lagrange(channel)
        block = self.inverse[np.ix_(rows, rows)]
        self.inverse = self.inverse - across @ np.linalg.solve(block, across.T)
        self.inverse[rows, rows] += 1.0  # apart from the rest now; keeps it invertible

    def _lagrange(self, channel):
        rows = self.rows[channel]
        return np.linalg.solve(self.inverse[np.ix_(rows, rows)], self.w[rows])


def _parts(layer, metric, channels, labels):
    """The blocks of a layer's metric that hold inputs of a group's channels."""
    w = np.asarray(ops.convert_to_numpy(layer.kernel), "float64")
    inputs = channels.find(channels.reads[id(layer)])
    inputs = np.tile(inputs, math.prod(w.shape[:-2]))  # the channel of each row of the kernel
    for rows, A, H in metric.parts():
        of_channel = {c: np.flatnonzero(inputs[rows] == c) for c in labels}
        if any(map(len, of_channel.values())):
            yield _Part(w.reshape(len(inputs), -1)[rows], A[0], H[0], of_channel)


def _eliminate(parts, labels):
    """The channels in the order of their removal, and the rising cost of each."""
    left, order, costs = list(labels), [], []
    while left:
        losses = [sum(p.loss(c) for p in parts if len(p.rows[c])) for c in left]
        best = int(np.argmin(losses))
        costs.append(max(losses[best], costs[-1] if costs else 0.0))
        order.append(left.pop(best))
        for part in parts:
            if len(part.rows[order[-1]]):
                part.remove(order[-1])
    return order, np.array(costs)


def _absorb(model, new, channels, gone, data):
    """Fits the kernels of `new`, whose channels `gone` count as 0, to what `model` gives."""
    readers = {p: layer for p, (layer, _) in walk(new).items() if id(layer) in channels.reads}
    before = {path: layer for path, (layer, _) in walk(model).items() if path in readers}
    path_of = {id(layer): path for path, layer in before.items()}

    def change(old, pairs):
        layer = readers[path_of[id(old)]]
        kept = channels.kept(channels.reads[id(layer)], gone)
        kernel = ops.convert_to_numpy(layer.kernel)
        if can_measure(layer):
            moments = Moments(layer)
            for x, now in pairs:
                moments.add(now * kept, x)
            kernel = moments.adapted()
        shape = [1] * kernel.ndim
        shape[input_axis(layer)] = len(kept)
        layer.kernel.assign(kernel * kept.reshape(shape))
        return [layer]

    follow(model, data, before.values(), change)
