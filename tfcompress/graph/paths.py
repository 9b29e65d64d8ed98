"""The one way to name a layer at any depth: the path of layer names."""

import difflib
import fnmatch
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.graph.private_keras import Functional, layers_in
from tfcompress.utils.arrays import to_numpy


def walk(
    model: keras.Model, instead: dict | None = None
) -> dict[str, tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Lists the layers of a model at any depth.

    A path is the names of the layers from the model down, joined by `/`: `"conv"`, `"block/conv"`
    (in a nested model), `"attention/query"` (a part of a composite layer). Variable paths are not
    used, since after `clone_model` two layers in different nested models can have the same one.

    Args:
        model: a `keras.Model`, of any kind.
        instead: `{layer: another layer}`; the other one is listed in the place of the layer.

    Returns:
        A dict `{path: (layer, owner)}` in the order of the model's graph. `owner` is the model or
        composite layer that holds the layer. Nested models and input layers are not listed, their
        layers are. A layer that is used in several places is listed once, where it comes first.

    Raises:
        TypeError: `model` is not a Keras 3 model.

    Example:

    >>> fc, out = keras.layers.Dense(4, name="fc"), keras.layers.Dense(2, name="out")
    >>> block = keras.Sequential([keras.Input((4,)), fc], name="block")
    >>> model = keras.Sequential([keras.Input((4,)), block, out])
    >>> list(walk(model))
    ['block/fc', 'out']
    """
    check_keras_3(model)
    found = {}
    _collect(model, "", found, set(), {id(old): new for old, new in (instead or {}).items()})
    return found


def _collect(owner, prefix, found, seen, instead):
    for layer in parts(owner):
        layer = instead.get(id(layer), layer)
        if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
            continue
        seen.add(id(layer))
        path = prefix + layer.name
        while path in found:  # two unnamed parts of one composite layer
            path += "'"
        if not isinstance(layer, keras.Model):
            found[path] = (layer, owner)
        _collect(layer, path + "/", found, seen, instead)


def parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly below a model or a composite layer, in graph order for a model."""
    if isinstance(layer, keras.Model):
        return layer.layers
    return layers_in(layer, include_self=False, recursive=False)


def named(pattern: str, paths: Iterable[str]) -> list[str]:
    """The paths that a name, a path or a glob over both matches.

    >>> named("fc?", ["block/fc1", "out"])
    ['block/fc1']
    """
    return [
        path
        for path in paths
        if fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(name_of(path), pattern)
    ]


def named_with_parts(patterns: str | Iterable[str], paths: Iterable[str]) -> list[str]:
    """The paths that names, paths or globs match, and those of all that lies below them.

    >>> named_with_parts("lst?", ["lstm", "lstm/lstm_cell", "out"])
    ['lstm', 'lstm/lstm_cell']
    """
    paths = list(paths)
    above = {path for pattern in check_patterns(patterns) for path in named(pattern, paths)}
    return [path for path in paths if any(f"{path}/".startswith(f"{one}/") for one in above)]


def check_patterns(layers: str | Iterable[str]) -> list[str]:
    """`layers`, a pattern or a list of patterns, as a list; raises `TypeError` if it is neither."""
    patterns = [layers] if isinstance(layers, str) else layers
    if isinstance(patterns, (list, tuple)) and all(isinstance(p, str) for p in patterns):
        return list(patterns)
    raise TypeError(
        f"Expected `layers` to be a name, path or glob, or a list of these. Received: {layers!r}"
    )


def near_names(key: str, paths: Iterable[str]) -> str:
    """For an error message: the paths and names near to a key, or else all paths."""
    listed = dict.fromkeys([*paths, *map(name_of, paths)])
    close = difflib.get_close_matches(key, listed, cutoff=0.4) if isinstance(key, str) else []
    if close:
        return f"Near names: {', '.join(close)}"
    return f"The layers: {', '.join(list(paths)[:20])}"


def name_of(path: str) -> str:
    """The last part of a path: the layer's own name."""
    return path.rpartition("/")[2]


def is_graph(model: keras.Model) -> bool:
    """Whether the model is a Sequential or Functional one, whose layers can be replaced."""
    return isinstance(model, (keras.Sequential, Functional))


def check_keras_3(model: keras.Model) -> None:
    """Raises `TypeError` unless `model` is a Keras 3 model."""
    if any(base.__module__.split(".")[0] == "tf_keras" for base in type(model).__mro__):
        raise TypeError(
            "Expected a Keras 3 model, and this one comes from tf_keras (Keras 2). Build it again "
            f"with `import keras` and copy the weights with `set_weights`. Received: {model!r}"
        )
    if not isinstance(model, keras.Model):
        load = "; load it with `keras.models.load_model`" if isinstance(model, (str, Path)) else ""
        raise TypeError(
            f"Expected a `keras.Model`{load}. Received: {reprlib.repr(model)} of type {type(model)}"
        )


def check_graph(model: Any, work: str) -> None:
    """Raises unless a Keras 3 model shows its graph.

    Args:
        model: what was given.
        work: what needs the graph, for the message.
    """
    check_keras_3(model)
    if not is_graph(model):
        raise ValueError(
            f"{work} needs the graph of the model, and `{type(model).__name__}` is a subclassed "
            "model, whose layers are called from Python code. Expected a Sequential or Functional "
            f"model, as `keras.Model(inputs, outputs)` makes it. Received: {model!r}"
        )


def check_finite_weights(model: keras.Model) -> None:
    """Raises `ValueError` with the layer and the weight if one holds NaN or infinite values."""
    for path, (layer, _) in walk(model).items():
        for variable in layer.weights:
            if not keras.backend.is_float_dtype(variable.dtype):
                continue
            if not np.isfinite(to_numpy(variable)).all():
                raise ValueError(
                    f"Weight {variable.name!r} of layer {path!r} holds NaN or infinite values."
                )
