"""Pruning of whole channels, which removes them: the result is a smaller model."""

import warnings

import keras
import numpy as np
from keras import ops

from tfcompress import score as scores_of
from tfcompress.graph.copy import copied
from tfcompress.graph.layerwise import follow
from tfcompress.graph.paths import check_finite_weights, check_patterns, name_of, named, walk
from tfcompress.measure.moments import Moments
from tfcompress.pruning.channel_ranking import rank_by_readers, rank_by_weights
from tfcompress.pruning.channel_removal import input_axis, shrink
from tfcompress.pruning.channel_ties import Channels, acts_on_each
from tfcompress.pruning.curvature_of_score import check_weighs, curvature_of
from tfcompress.pruning.masks import select
from tfcompress.utils.batches import check_repeats
from tfcompress.utils.checks import check_sparsity, whole_number
from tfcompress.utils.types import ClassWeight, Data, Layers, Scope, Score


def prune_channels(
    model: keras.Model,
    amount: float,
    score: Score = "magnitude",
    data: Data | None = None,
    layers: Layers = "*",
    scope: Scope = "layer",
    multiple: int = 1,
    class_weight: ClassWeight = None,
) -> keras.Model:
    """Removes a share of the channels of a model and returns a smaller copy.

    A channel is a feature map of a convolution or a unit of a Dense layer. Channels that a residual
    sum, a product or a depthwise convolution ties to each other are removed together. The channels
    of the model's inputs and outputs stay, and so do those that grouped convolutions, recurrent
    layers, attention and other layers receive. The result has ordinary layers with the same names
    and fewer filters and units. It trains, saves and exports like any other model.

    Of attention layers (`MultiHeadAttention`, `GroupQueryAttention`), also inside composite layers
    and subclassed models, whole heads are removed: their queries, keys and values and their part of
    the output projection; in grouped attention a head of keys and values with its queries. Such a
    layer inside another must not be asked for its scores, which have an axis of heads.

    With `data`, the layers that read the removed channels compensate for them: in the order of the
    graph, each kernel is fitted by least squares, so that with the remaining channels the layer
    comes close to its outputs in the original model. This needs no labels. In a model with batch
    normalization, call `recalibrate_batch_norm` afterwards.

    Cost: the MACs and weights of inner layers are multiplied by about `(1 - amount)^2`. With `data`
    it takes two forward passes, and memory for the inputs and outputs of one layer at a time.

    Args:
        model: a built Sequential or Functional `keras.Model`, or one of another kind that has
            attention layers: of that the heads alone.
        amount: the share of the channels, and of the heads of each attention layer, to remove, in
            [0, 1). Each layer keeps one of them.
        score: how much a channel is worth. `"magnitude"`: the sum of `|w|` over its weights;
            `"obd"`: the sum of `d w^2 / 2`, where the curvature `d` is measured on `data`, with
            labels, by the loss that the model is compiled with; `"random"`: a random number; a
            callable `(w, d)`, where `d` is None without data: the sum of its values. Each sum is
            divided by the sum of the layer; a head gets the mean of its shares of the projections.
            `"obs"`, Optimal Brain Surgeon on channels: what the layers that read the channel lose
            when the remaining channels compensate for it, one channel after the other.
        data: inputs (arrays, `tf.data.Dataset`, `PyDataset`); about 2,000 examples are enough.
        layers: the layers whose output channels or heads may be removed: a name, path or glob, or a
            list of these.
        scope: `"layer"` removes the same share in each layer (in each set of tied layers),
            `"global"` ranks all channels together.
        multiple: the number of channels (not of heads) that stay is rounded to a multiple of this
            number, in layers that have at least so many. Kernels work on 8, 16 or 32 channels at a
            time, so that odd numbers save less time than MACs: on AVX-512, a small ResNet with
            (22, 45, 67) of its (32, 64, 96) filters took 0.8 of its time at 0.48 of its MACs, and
            with (16, 48, 64) filters 0.5 of its time at 0.4 of its MACs.
        class_weight: `{class: weight}` of the labels in `data`, as in `fit`, for scores that use
            the curvature.

    Returns:
        A new `keras.Model`, not compiled.

    Raises:
        ValueError: an argument is out of range; `layers` matches nothing, or names a layer whose
            channels must stay; `data` is missing for `"obs"`, or is a generator.

    Example:

    >>> import keras
    >>> hidden = keras.layers.Dense(8, activation="relu", name="hidden")
    >>> model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2)])
    >>> prune_channels(model, 0.5).count_params(), model.count_params()
    (30, 58)

    References: Li et al., "Pruning Filters for Efficient ConvNets", 2017 (magnitude); He et al.,
    "Channel Pruning for Accelerating Very Deep Neural Networks", 2017 (least squares); Fang et al.,
    "DepGraph: Towards Any Structural Pruning", 2023 (channels that are tied).
    """
    check_sparsity(amount)
    check_finite_weights(model)
    check_weighs(score, data, class_weight)
    if scope not in ("layer", "global"):
        raise ValueError(f"Expected scope 'layer' or 'global'. Received: scope={scope!r}")
    if score == "obs" and data is None:
        raise ValueError('score="obs" needs `data`, inputs of the model without labels.')
    whole_number(multiple, "multiple")
    check_repeats(data, 2)
    new = copied(model)
    channels = Channels(new)
    groups = _groups(new, channels, layers)
    kept = _reasons_of_heads(new, channels, layers)
    if kept:
        warnings.warn("These attention layers keep all heads:\n" + "\n".join(kept), stacklevel=2)
    if score == "obs":
        orders = rank_by_readers(new, channels, groups, data)
    else:
        score = scores_of.get(score)
        curvature = curvature_of(model, score, data, class_weight) or {}
        orders = rank_by_weights(new, channels, groups, score, curvature)
    heads = set().union(*map(set, channels.heads.values()))
    multiples = [1 if heads.issuperset(numbers) else multiple for numbers in groups]
    gone = _cheapest(orders, amount, scope, multiples)
    if data is not None:
        _compensate(model, new, channels, gone, data)
    return shrink(new, channels, gone)


def _groups(model, channels, layers):
    """The channels that may be removed, in a list for each set of layers that share them."""
    free = channels.groups()
    may_go = set().union(*free)
    chosen = {}
    for pattern in check_patterns(layers):
        matching = _select(model, channels, pattern)
        staying = [path for path, layer in matching.items() if id(layer) not in may_go]
        if pattern in (*staying, *map(name_of, staying)):
            reason = _why_not(matching[staying[0]], channels, free)
            raise ValueError(
                f"The channels of '{staying[0]}' cannot be removed: {reason}. Leave the layer out "
                "of `layers`."
            )
        chosen |= matching
    ids = set(map(id, chosen.values()))
    groups = [numbers for keys, numbers in free.items() if set(keys) <= ids]
    if not groups:
        reasons = [f"- {path}: {_why_not(one, channels, free)}" for path, one in chosen.items()]
        reasons = _reasons_of_heads(model, channels, layers) + reasons
        raise ValueError(
            f"There are no channels to remove. Received: layers={layers!r}\n" + "\n".join(reasons)
        )
    return groups


def _select(model, channels, pattern):
    """The layers that a pattern means, by path; attention layers among them."""
    listed = {path: layer for path, (layer, _) in walk(model).items()}
    matching = {path: listed[path] for path in named(pattern, listed)}
    heads = {path: layer for path, layer in matching.items() if id(layer) in channels.heads}
    for path, layer in matching.items():
        reason = channels.without_heads.get(id(layer))
        if reason and pattern in (path, name_of(path)):
            raise ValueError(f"The heads of {path!r} cannot be removed: {reason}.")
    return heads if heads and len(heads) == len(matching) else heads | select(model, pattern)


def _reasons_of_heads(model, channels, layers):
    """Lines that name the attention layers which patterns match and whose heads stay."""
    listed = {path: layer for path, (layer, _) in walk(model).items()}
    return [
        f"- {path}: {channels.without_heads[id(layer)]}"
        for path, layer in listed.items()
        if id(layer) in channels.without_heads
        and any(path in named(pattern, listed) for pattern in check_patterns(layers))
    ]


def _why_not(layer, channels, free):
    """Why no channel of a layer can be removed, for a message."""
    if id(layer) not in channels.writes:
        return (
            f"{type(layer).__name__} is no Dense layer or convolution without groups that a graph "
            "calls (it may be a part of a composite layer)"
        )
    if not acts_on_each(layer.activation):
        name = getattr(layer.activation, "__name__", layer.activation)
        return f"its activation {name} is not known to act on each channel alone"
    if any(id(layer) in keys for keys in free):
        return "its channels are tied to those of layers that `layers` leaves out"
    return (
        "each channel is needed by an output of the model, or by a layer through which channels "
        "cannot be followed"
    )


def _cheapest(orders, amount, scope, multiples):
    """The channels to remove, from `(channels, costs)` of each group, both by rising cost."""
    most = [len(numbers) - 1 for numbers, _ in orders]  # each layer keeps one channel
    counts = [
        min(round(amount * len(numbers)), m) for (numbers, _), m in zip(orders, most, strict=True)
    ]
    if scope == "global":
        costs = np.concatenate([costs[:m] for (_, costs), m in zip(orders, most, strict=True)])
        total = round(amount * sum(len(numbers) for numbers, _ in orders))
        first = np.argsort(costs, kind="stable")[:total]
        counts = np.bincount(np.repeat(np.arange(len(most)), most)[first], minlength=len(most))
    counts = [
        _round_to_multiple(len(numbers), int(count), multiple)
        for (numbers, _), count, multiple in zip(orders, counts, multiples, strict=True)
    ]
    return {c for (numbers, _), k in zip(orders, counts, strict=True) for c in numbers[:k]}


def _round_to_multiple(size, gone, multiple):
    """How many of `size` channels to remove, near `gone`, so that a multiple of them is left."""
    if size < multiple:
        return gone
    return size - min(size, multiple * max(1, round((size - gone) / multiple)))


def _compensate(model, new, channels, gone, data):
    """Fits the kernels of `new`, without the channels `gone`, to the outputs in `model`."""
    of_layer = channels.readers()
    readers = {p: layer for p, (layer, _) in walk(new).items() if id(layer) in of_layer}
    before = {path: layer for path, (layer, _) in walk(model).items() if path in readers}
    path_of = {id(layer): path for path, layer in before.items()}

    def change(old, pairs):
        layer = readers[path_of[id(old)]]
        kept = channels.kept(of_layer[id(layer)][1], gone)
        kernel = ops.convert_to_numpy(layer.kernel)
        shape, of_inputs = [1] * kernel.ndim, (len(kept),)
        if hasattr(layer, "equation"):  # of heads, whose inputs are (..., h, k)
            shape[:2] = of_inputs = kernel.shape[:2]
        else:
            shape[input_axis(layer)] = len(kept)
        moments = Moments(layer)
        for x, now in pairs:
            moments.add(now * kept.reshape(of_inputs), x)
        kernel = moments.adapted()
        layer.kernel.assign(kernel * kept.reshape(shape))
        return [layer]

    follow(model, data, before.values(), change)
