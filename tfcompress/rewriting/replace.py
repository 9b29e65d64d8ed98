"""Layers of a model replaced by chains of others: in a copy, or in the model itself."""

from typing import Any

import keras

from tfcompress.graph.chain import Chain
from tfcompress.graph.copy import copied
from tfcompress.graph.nodes import renew_shapes
from tfcompress.graph.private_keras import Functional
from tfcompress.graph.replace import replace_in_place
from tfcompress.rewriting.saving import mark_owners


def with_replacements(model: Any, chains: dict, inplace: bool = False) -> Any:
    """A model in which chains of layers stand in the places of layers.

    In graphs a chain becomes layers of the model, so that each can be replaced again; inside a
    composite layer or a subclassed model, whose code calls one layer there, it is one `Chain`.

    Args:
        model: a `keras.Model` of any kind.
        chains: `{layer of the model, at any depth: list of layers}`.
        inplace: whether the model itself is changed; otherwise a copy is.

    Returns:
        The copy, or the model itself; not compiled.
    """
    in_graphs = {id(layer) for layer in _in_plain_graphs(model)}
    chains = {
        old: chain if len(chain) == 1 or id(old) in in_graphs else [Chain(chain, name=old.name)]
        for old, chain in chains.items()
    }
    if inplace:
        replace_in_place(model, chains)
        new = model
    else:
        new = copied(model, chains)
    placed = {id(layer) for chain in chains.values() for layer in chain}
    renew_shapes(new, placed)
    mark_owners(new, placed)
    return new


def is_plain_graph(model: Any) -> bool:
    """Whether a graph is all that a model is: it has no class of its own."""
    return type(model) in (Functional, keras.Sequential)


def _in_plain_graphs(model):
    """The layers that plain graphs call, down from the model through such graphs alone."""
    for layer in model.layers if is_plain_graph(model) else ():
        yield layer
        yield from _in_plain_graphs(layer)
