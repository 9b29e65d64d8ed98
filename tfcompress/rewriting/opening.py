"""Layers of several kernels opened: each kernel becomes a layer that can be named and replaced."""

from typing import NamedTuple

import keras

from tfcompress.graph.paths import check_keras_3, named_with_parts, walk
from tfcompress.graph.private_training import strategy_scope
from tfcompress.layers.core.embedding import is_renamed
from tfcompress.layers.core.opened import OpenedLayer
from tfcompress.layers.core.untied_embedding import OpenedReversibleEmbedding
from tfcompress.layers.factorized.separable import OpenedSeparableConv1D, OpenedSeparableConv2D
from tfcompress.layers.recurrent.cells import OpenedGRUCell, OpenedLSTMCell, OpenedSimpleRNNCell
from tfcompress.layers.recurrent.conv_lstm import OpenedConvLSTMCell
from tfcompress.rewriting.matching import Target, match
from tfcompress.rewriting.replace import with_replacements
from tfcompress.rewriting.saving import unmark_owners
from tfcompress.utils.types import Layers, Rules

OPENED = {
    cls.closed_class: cls
    for cls in (
        OpenedLSTMCell,
        OpenedGRUCell,
        OpenedSimpleRNNCell,
        OpenedConvLSTMCell,
        OpenedSeparableConv1D,
        OpenedSeparableConv2D,
        OpenedReversibleEmbedding,
    )
}


class Opening(NamedTuple):
    """A model in which layers were opened for the sake of rules."""

    model: keras.Model
    targets: dict[int, Target]  # as `match` gives them
    left: dict[str, str]
    closed: dict  # {opened layer: [the one that it stands for]}


def openings(model: keras.Model) -> dict[keras.layers.Layer, OpenedLayer]:
    """The opened forms of those layers of a model that have one, `{layer: opened layer}`.

    The model is not changed.
    """
    with strategy_scope(model):
        return {
            layer: form.from_layer(layer)
            for layer, _ in walk(model).values()
            if layer.built and (form := _form_of(layer)) is not None
        }


def _form_of(layer):
    """The class of a layer's opened form, or None."""
    kind = type(layer)
    if kind not in OPENED and is_renamed(kind):
        kind = kind.__base__
    form = OPENED.get(kind)
    return form if form is not None and form.opens(layer) else None


def opened(model: keras.Model) -> keras.Model:
    """Makes a copy of a model in which each kernel is that of a layer with a path of its own.

    Recurrent cells (LSTM, GRU, simple, convolutional LSTM, in any layer that runs them) become
    products and pointwise arithmetic, separable convolutions two convolutions, and a
    `ReversibleEmbedding` that is not tied a table and a Dense layer. `swap`, `prune`, `plan`,
    `compress` and `sensitivity` do this by themselves; `curvature` sees what is open.

    Returns:
        The copy, which computes the same. `to_ordinary` closes it again.

    Example:

    >>> import keras, tfcompress as tfc
    >>> model = keras.Sequential([keras.Input((9, 4)), keras.layers.LSTM(8, name="lstm")])
    >>> list(tfc.walk(tfc.opened(model)))[2:]
    ['lstm/lstm_cell/kernel', 'lstm/lstm_cell/recurrent_kernel']
    """
    check_keras_3(model)
    return with_replacements(model, {old: [new] for old, new in openings(model).items()})


def open_for(model: keras.Model, rules: Rules, inplace: bool) -> Opening:
    """Opens those layers of a model whose parts rules concern, in a copy or in the model itself."""
    forms = openings(model)
    layers = walk(model, forms)
    targets, left = match(layers, rules)
    chains = {
        old: [new]
        for old, new in forms.items()
        if any(id(part) in targets for part in new.parts_by_name.values())
    }
    if chains:
        model = with_replacements(model, chains, inplace)
    now = walk(model)
    targets = {
        id(now[path][0]): targets[id(layer)]
        for path, (layer, _) in layers.items()
        if id(layer) in targets
    }
    return Opening(model, targets, left, {new: [old] for old, (new,) in chains.items()})


def opened_where(model: keras.Model, patterns: Layers) -> keras.Model:
    """`opened`, of the layers that patterns name or of which they name a part.

    Returns:
        A copy in which these are opened, or the model itself if there are none.
    """
    forms = openings(model)
    listed = walk(model, forms)
    meant = {id(listed[path][0]) for path in named_with_parts(patterns, listed)}
    chains = {
        old: [new]
        for old, new in forms.items()
        if any(id(part) in meant for part in new.parts_by_name.values())
    }
    return with_replacements(model, chains) if chains else model


def close_like(model: keras.Model, other: keras.Model) -> None:
    """Closes layers of a model, in itself, that are closed at the same path in another.

    Those of which a part is no ordinary layer stay open.
    """
    now, before = walk(model), walk(other)
    with strategy_scope(model):
        chains = {
            layer: [layer.closed()]
            for path, (layer, _) in now.items()
            if isinstance(layer, OpenedLayer) and not isinstance(before[path][0], OpenedLayer)
        }
        close(model, {one: chain for one, chain in chains.items() if chain[0] is not None})


def close(model: keras.Model, chains: dict | None = None) -> None:
    """Puts Keras' own layers in the places of opened ones, in the model itself.

    Args:
        model: changed in place.
        chains: `{opened layer: [Keras' own]}`; None: for each whose parts are all ordinary.
    """
    if chains is None:
        opened_ones = (one for one, _ in walk(model).values() if isinstance(one, OpenedLayer))
        chains = {one: [one.closed()] for one in opened_ones}
        chains = {one: chain for one, chain in chains.items() if chain[0] is not None}
    with_replacements(model, chains, inplace=True)
    unmark_owners(model, {id(closed) for (closed,) in chains.values()})
