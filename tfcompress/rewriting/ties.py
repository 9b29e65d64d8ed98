"""Variables that several layers of a model hold, which a new layer in one place would untie."""

import collections

import keras

from tfcompress.graph.paths import is_graph
from tfcompress.graph.private_keras import layers_in

Holders = dict[int, list[keras.layers.Layer]]


def holders_of_variables(model: keras.Model) -> Holders:
    """`{id of a variable: the layers that have it as an attribute}`."""
    found = collections.defaultdict(list)
    for layer in layers_in(model):
        for number in {id(v) for v in vars(layer).values() if isinstance(v, keras.Variable)}:
            found[number].append(layer)
    return found


def used_by_others(model: keras.Model) -> set[int]:
    """Ids of the layers that another layer may compute with: it holds them, or a variable of them.

    Models that call their layers do not count.
    """
    owners = [layer for layer in layers_in(model) if not is_graph(layer)]
    found = {id(part) for owner in owners for part in layers_in(owner, include_self=False)}
    shared = [holders for holders in holders_of_variables(model).values() if len(holders) > 1]
    return found | {id(layer) for holders in shared for layer in holders}


def check_holds_alone(layer: keras.layers.Layer, holders: Holders) -> None:
    """Raises `ValueError` if another layer computes with the kernel of a layer.

    A `SpectralNormalization` does not: it changes the kernel of the layer that it runs.
    """
    for value in vars(layer).values():
        for other in holders.get(id(value), []):
            wraps = isinstance(other, keras.layers.SpectralNormalization)
            if other is not layer and not (wraps and other.layer is layer):
                raise ValueError(
                    f"Layer {other.name!r} holds its variable {value.name!r} too, and would keep "
                    "the one in float32."
                )
