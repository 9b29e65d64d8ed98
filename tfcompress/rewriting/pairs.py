"""Which layers of a compressed model stand in the place of which of the float one."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.graph.chain import Chain
from tfcompress.graph.paths import walk
from tfcompress.graph.private_keras import layers_in
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.rewriting.counterparts import link_owners, next_operations
from tfcompress.utils.arrays import to_numpy

# Endings of what a config says beside the function that a layer computes.
OF_TRAINING = ("initializer", "regularizer", "constraint", "name", "dtype", "trainable", "seed")


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer of the float model, and what stands in its place in the compressed one.

    Attributes:
        path: of the float layer; of a layer that only the compressed model has, its own.
        before: the float layers, in the order of their calls; none for a layer that only the
            compressed model has, in whose place nothing stood.
        now: the layers of the compressed model, in the order of their calls.
    """

    path: str
    before: list
    now: list

    @property
    def method(self) -> str:
        """The classes of the compressed model's layers."""
        links = (one.parts if isinstance(one, Chain) else [one] for one in self.now)
        return " + ".join(type(layer).__name__ for parts in links for layer in parts)


def pairs_of(model: keras.Model, small: keras.Model) -> list[Pair]:
    """The layers in which two models differ, in the order of the compressed model.

    Args:
        model: the float model, with its cells opened.
        small: the compressed one, with its cells opened.

    Raises:
        ValueError: a layer has another shape in the compressed model, or none has a counterpart.
    """
    before, now = _units(model), _units(small)
    if not before.keys() & now.keys():
        raise ValueError(
            "No layer of `small` has the path of a layer of `model`, so they cannot be compared. "
            f"Received: the layers {list(now)[:8]}, and {list(before)[:8]} in `model`"
        )
    owners, followers = link_owners(small, before), _followers(model, before, now)
    found = [Pair(*row) for row in _rows(before, now, owners, followers)]
    for pair in found:
        _check_shapes(pair)
    return [pair for pair in found if _differ(pair)]


def own_weights(layer: keras.layers.Layer) -> list:
    """The weights that a layer holds itself, and not by its parts."""
    parts = {id(v) for part in layers_in(layer, include_self=False) for v in part.weights}
    return [v for v in layer.weights if id(v) not in parts]


def _units(model) -> dict:
    """The layers that are compared as wholes: without parts, or with weights beside their parts."""
    found = {}
    for path, (layer, _) in walk(model).items():
        inside = any(path.startswith(f"{other}/") for other in found)
        parts = layers_in(layer, include_self=False)
        if not inside and (not parts or isinstance(layer, Chain) or own_weights(layer)):
            found[path] = layer
    return found


def _rows(before, now, owners, followers):
    """`(path, float layers, compressed layers)`, in the order of the compressed model."""
    chains = {}
    for path, layer in now.items():
        owner = path if path in before else owners.get(path)
        chains.setdefault(owner, []).append(layer)
    for path, layer in now.items():
        if path in before:
            yield path, [before[p] for p in (path, *followers.get(path, []))], chains[path]
        elif path not in owners:
            yield path, [], [layer]


def _followers(model, before, now) -> dict:
    """The float layers with weights that the compressed model lacks, by the one before them.

    Such as a batch normalization that was folded into its convolution. In a graph, the one before
    gives what it makes to them alone; elsewhere it is the one that is listed before them.
    """
    following = next_operations(model)
    previous = {layer: one for one, layer in following.items()}
    kept = {before[path]: path for path in before if path in now}
    found, last = {}, None
    for path, layer in before.items():
        if path in now:
            last = path
        elif layer.weights:
            owner = last
            if layer in following:
                while layer is not None and layer not in kept:
                    layer = previous.get(layer)
                owner = kept.get(layer)
            found.setdefault(owner, []).append(path)
    return found


def _check_shapes(pair):
    if len(pair.before) != 1 or len(pair.now) != 1:
        return
    shapes = [_kernel_shape(layers[0]) for layers in (pair.before, pair.now)]
    if None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(
            f"The kernel of layer {pair.path!r} has the shape {shapes[1]} in `small` and "
            f"{shapes[0]} in `model`, and layers are compared one by one. If channels were removed,"
            " give the model without these channels as `model`."
        )


def _kernel_shape(layer) -> tuple | None:
    try:
        return tuple(kernel_of(layer).shape)
    except (AttributeError, ValueError, TypeError):  # it has no kernel, or is not built
        return None


def _differ(pair) -> bool:
    if len(pair.before) != 1 or len(pair.now) != 1:
        return True
    before, now = pair.before[0], pair.now[0]
    if type(before) is not type(now) or _function(before) != _function(now):
        return True
    rows = zip(before.weights, now.weights, strict=True)
    return not all(np.array_equal(to_numpy(a), to_numpy(b)) for a, b in rows)


def _function(layer) -> Any:
    """What a config says of the function that a layer computes."""
    try:
        config = layer.get_config()
    except NotImplementedError:  # a layer of the user's own
        return None
    return {key: value for key, value in config.items() if not key.endswith(OF_TRAINING)}
