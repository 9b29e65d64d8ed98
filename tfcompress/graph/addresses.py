"""Where a layer holds its parts, as attribute names, indices and keys."""

from collections.abc import Collection, Iterator
from typing import Any

import keras

from tfcompress.graph.paths import is_graph
from tfcompress.graph.private_keras import BOOKKEEPING, OF_TENSORFLOW


def held_layers(owner: Any) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers that an object holds itself, each once, with its address.

    A layer is found in an attribute, or in lists, tuples and dicts there: `"norm"`, `"blocks/0"`,
    `"heads/digits"`. What only the graph of a model holds is `"layers/0"`, and so on.
    """
    seen = set()
    for name in sorted(vars(owner)):
        if name not in BOOKKEEPING and not name.startswith(OF_TENSORFLOW):
            yield from _in_value(vars(owner)[name], name, seen)
    if is_graph(owner):
        yield from _in_value(owner.layers, "layers", seen)


def _in_value(value, address, seen):
    if isinstance(value, keras.layers.Layer):
        if id(value) not in seen:
            seen.add(id(value))
            yield address, value
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from _in_value(one, f"{address}/{index}", seen)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _in_value(one, f"{address}/{key}", seen)


def addresses(
    owner: Any, closed: Collection[str] = (), closed_ids: Collection[int] = ()
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers below an object at any depth, each once, with its address.

    Args:
        owner: a layer or model.
        closed: addresses of layers that are not looked into.
        closed_ids: the ids of more of these.
    """
    yield from _below(owner, "", closed, closed_ids, {id(owner)})


def _below(owner, prefix, closed, closed_ids, seen):
    for address, layer in held_layers(owner):
        address = prefix + address
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield address, layer
        if address not in closed and id(layer) not in closed_ids:
            yield from _below(layer, f"{address}/", closed, closed_ids, seen)
