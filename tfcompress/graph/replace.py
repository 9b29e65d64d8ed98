"""Layers of a model replaced in the model itself."""

from typing import Any

import keras

from tfcompress.graph.chain import open_chain, rebuild_graph
from tfcompress.graph.copy import as_layer
from tfcompress.graph.nodes import graphs_in
from tfcompress.graph.private_keras import (
    forget_compiled,
    inbound_nodes,
    layers_in,
    replace_in,
    take_over_calls,
)


def replace_in_place(model: Any, replacements: dict) -> None:
    """Changes a model or layer: other layers stand wherever the old ones stood.

    Args:
        model: a layer or model of any kind; it is no longer compiled.
        replacements: `{layer of it, at any depth: layer or list of layers}`. A list becomes layers
            of the graphs that call the old layer; in attributes a `Chain` holds it.
    """
    memo = {id(old): as_layer(old, new) for old, new in replacements.items()}
    owners = [owner for owner in layers_in(model) if id(owner) not in memo]
    for old in replacements:
        if inbound_nodes(old):
            take_over_calls(old, memo[id(old)])
    for owner in owners:
        replace_in(owner, memo)
    for old, new in replacements.items():
        if not isinstance(new, keras.layers.Layer) and len(new) > 1:
            open_chain(memo[id(old)], [*graphs_in(model), *owners])
    for graph in graphs_in(model):
        rebuild_graph(graph)
    if isinstance(model, keras.Model):
        forget_compiled(model)
