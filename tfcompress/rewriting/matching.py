"""Which rule concerns which layer of a model."""

import reprlib
from collections.abc import Mapping
from typing import NamedTuple

import keras

from tfcompress.graph.paths import named, near_names
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.maker import Maker
from tfcompress.utils.types import Rules


class Target(NamedTuple):
    """A layer that a rule concerns."""

    path: str
    maker: object
    by_name: bool  # whether the rule names this very layer, so that a refusal is an error


def match(layers: dict[str, tuple], rules: Rules) -> tuple[dict[int, Target], dict[str, str]]:
    """Finds the maker of each layer; of several rules for a layer the first one counts.

    `layers` are those of a model, as `walk` lists them.

    A rule whose key means a composite layer (an attention, a recurrent layer) is applied to
    each part of it that the maker takes.

    Returns:
        targets: `{id of the layer: Target}`.
        left: `{path: reason}` of composite layers that a pattern matched and whose parts no maker
            takes.
    """
    if not isinstance(rules, Mapping):
        raise TypeError(
            "Expected rules as a dict `{name, path, glob, class or predicate: maker}`, as "
            f'`{{"dense*": tfc.layers.TernaryDense}}`. Received: {reprlib.repr(rules)}'
        )
    targets, left, taken = {}, {}, set()
    for key, maker in rules.items():
        maker = _as_maker(key, maker)
        by_name, paths = _matching(key, layers)
        if not paths:
            raise ValueError(f"Rule {key!r} matches no layer. {near_names(key, layers)}")
        for path in paths:
            meant = _meant(path, maker, layers)
            if not meant and by_name:
                raise ValueError(f"Layer {path!r} cannot be swapped. {_no_part(maker)}")
            if not meant:
                left[path] = _no_part(maker)
            for part in meant:
                layer = layers[part][0]
                if id(layer) not in taken and maker is not None:
                    targets[id(layer)] = Target(part, maker, by_name and part == path)
                taken.add(id(layer))
    return targets, left


def _as_maker(key, maker):
    if isinstance(maker, type) and issubclass(maker, CompressedLayer):
        return maker.using()
    if isinstance(maker, type) and issubclass(maker, keras.layers.Layer):
        raise TypeError(
            f"The maker of rule {key!r} is a class that compresses nothing. Give a class of "
            f"`tfc.layers`, or a function that takes the layer. Received: {maker.__name__}"
        )
    if isinstance(maker, keras.layers.Layer):
        ours = isinstance(maker, CompressedLayer)
        kind = f"tfc.layers.{type(maker).__name__}" if ours else "tfc.layers.QuantizedDense"
        raise TypeError(
            f"The maker of rule {key!r} is a layer, and each layer that it matches gets one of its "
            f"own. Give a class of `tfc.layers`, or `{kind}.using(...)`. Received: {maker!r}"
        )
    if maker is not None and not callable(maker):
        raise TypeError(
            f"The maker of rule {key!r} must be `LayerClass.using(...)` or a callable. "
            f"Received: {maker!r}"
        )
    return maker


def _meant(path, maker, layers) -> list[str]:
    """The path itself, or if it is that of a composite layer, those of the parts that are meant."""
    below = [part for part in layers if part.startswith(f"{path}/")]
    if not below or (callable(maker) and not isinstance(maker, Maker)):
        return [path]
    if maker is None:  # which keeps all of it
        return [path, *below]
    return [part for part in (path, *below) if maker.takes(layers[part][0])]


def _no_part(maker):
    return f"Neither it nor a part of it is a layer that {maker!r} takes."


def _matching(key, layers):
    """Whether the key is a name or a path, and the paths that it matches."""
    if isinstance(key, str):
        exact = [path for path, (layer, _) in layers.items() if key in (path, layer.name)]
        if exact:
            return True, exact
        return False, named(key, layers)
    if isinstance(key, type):
        return False, [path for path, (layer, _) in layers.items() if isinstance(layer, key)]
    if callable(key):
        return False, [path for path, (layer, _) in layers.items() if key(layer)]
    raise TypeError(f"A rule's key must be a string, a class or a predicate. Received: {key!r}")
