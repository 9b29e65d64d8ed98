"""Rebuild a model with some of its layers replaced; the model itself stays untouched."""

import warnings
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.graph.layerwise import follow
from tfcompress.graph.paths import is_graph, named, near, walk
from tfcompress.graph.rebuild import check_graph, rebuild
from tfcompress.layers.core.base import CompressedLayer, kernel_bits
from tfcompress.layers.core.maker import Maker
from tfcompress.measure.moments import Moments
from tfcompress.utils.types import Curvature, Data, Rules


def swap(
    model: keras.Model, rules: Rules, curvature: Curvature | None = None, data: Data | None = None
) -> keras.Model:
    """Makes a new model in which the layers that rules name are replaced.

    Args:
        model: a built or unbuilt Sequential or Functional `keras.Model`, with nested and shared
            layers and bare operations (`x + y`) as they come. It stays as it is.
        rules: dict `{key: maker}`; for each layer the first matching rule wins. A key is a name or
            a path (`"fc1"`, `"block/fc1"`; names match at any depth), a glob over both
            (`"block*/conv?"`), a class, or a predicate on layers. A maker comes from
            `LayerClass.using(**options)`, or is any callable that makes a layer (or a chain of
            them, as a list) from a layer; None leaves the layer as it is.
        curvature: dict `{path: metric}`, as from `tfcompress.curvature`; the kernels are fitted in
            it. See `CompressedLayer.fit_kernel`.
        data: inputs of the model, in any form that `fit` takes; all are held; labels are ignored,
            some 2,000 examples are enough. Each layer's Kronecker metric is then measured on the
            inputs that it sees in the model as swapped so far, and its kernel adapted to them, so
            that later layers make up for earlier ones. Not with `curvature`. In a model with batch
            normalization, call `recalibrate_batch_norm` afterwards.

    Returns:
        A new model with the same names, the weights of the other layers copied. The compiled state
        is not carried over: call `compile`.

    Raises:
        ValueError: a key matches nothing; the layer of a name or a path cannot be taken (the
            message tells why); the model is a subclassed one.
        TypeError: the model comes from tf_keras, or a maker does not return layers.

    A class, a glob or a predicate leaves a layer that its maker cannot take, or that would not
    become smaller, as it is; one warning lists these with the reasons.

    Example:

    >>> import keras, tfcompress as tfc
    >>> model = keras.Sequential(
    ...     [keras.Input((64,)), keras.layers.Dense(64, name="fc"), keras.layers.Dense(10)]
    ... )
    >>> small = tfc.swap(model, {"fc": tfc.layers.LowRankDense.using(rank=8)})
    >>> small.get_layer("fc").rank
    8
    """
    check_graph(model)
    if curvature is not None and data is not None:
        raise ValueError("Give either `curvature` or `data`, not both: `data` measures its own.")
    return swapped(model, rules, curvature, data)


def swapped(
    model: keras.Model,
    rules: Rules,
    curvature: Curvature | None = None,
    data: Data | None = None,
    moments: Callable[..., Any] = Moments,
) -> keras.Model:
    """`swap`; `moments(layer)` makes what measures the inputs of a layer."""
    targets, left = match(model, rules)
    made = {}

    def make(layer, pairs=None):
        path, maker, named = targets[id(layer)]
        try:
            fit = {"metric": (curvature or {}).get(path)}
            if pairs is not None and isinstance(maker, Maker):
                fit = _measured(moments(layer), pairs)
            made[id(layer)] = _make(maker, layer, named, fit)
        except ValueError as error:
            if named:
                raise ValueError(f"Layer '{path}' cannot be swapped. {error}") from error
            left[path] = str(error)
        return made.get(id(layer))

    layers = [layer for layer, _ in walk(model).values() if id(layer) in targets]
    if data is not None:
        follow(model, data, [layer for layer in layers if layer.built], make)
    for layer in layers:
        if data is None or not layer.built:
            make(layer)
    new = rebuild(model, lambda layer: made.get(id(layer)))
    if left:
        reasons = "\n".join(f"- {path}: {reason}" for path, reason in left.items())
        warnings.warn(f"{len(left)} matching layers stay as they are:\n{reasons}", stacklevel=2)
    return new


def to_ordinary(model: keras.Model) -> keras.Model:
    """Makes a new model of plain Keras layers that computes the same function.

    Each compressed layer becomes a chain of ordinary layers, in place; the last one keeps the name.
    Further swaps can then be made on the parts ("low rank, then 8 bits").
    """
    check_graph(model)
    return rebuild(
        model, lambda layer: layer.to_ordinary() if isinstance(layer, CompressedLayer) else None
    )


def match(model: keras.Model, rules: Rules) -> tuple[dict, dict]:
    """Finds the maker of each layer.

    Returns:
        targets: `{id of the layer: (path, maker, whether a name or a path chose it)}`.
        left: `{path: reason}` of the layers inside composite layers that only a pattern matched.
    """
    layers = walk(model)
    replaceable = _replaceable(model)
    targets, left, taken = {}, {}, set()
    for key, maker in rules.items():
        if isinstance(maker, type) and issubclass(maker, CompressedLayer):
            maker = maker.using()
        if maker is not None and not callable(maker):
            raise TypeError(
                f"The maker of rule {key!r} must be `LayerClass.using(...)` or a callable. "
                f"Received: {maker!r}"
            )
        by_name, paths = _matching(key, layers)
        if not paths:
            raise ValueError(f"Rule {key!r} matches no layer. {near(key, layers)}")
        for path in paths:
            layer, owner = layers[path]
            if id(layer) in taken:
                continue
            taken.add(id(layer))
            if maker is None:
                continue
            if id(layer) in replaceable:
                targets[id(layer)] = (path, maker, by_name)
                continue
            left[path] = (
                f"it is a part of the {type(owner).__name__} '{owner.name}', whose parts cannot be "
                "replaced"
            )
            if by_name:
                raise ValueError(f"Layer '{path}' cannot be swapped: {left[path]}.")
    return targets, left


def _measured(moments, pairs) -> dict:
    """The metric of a layer on its inputs in the model as changed so far, and a kernel for them."""
    for before, now in pairs:
        moments.add(now, before)
    return {"metric": moments.metric(), "kernel": moments.adapted()}


def _make(maker, layer, named, fit):
    """The chain of layers that a maker makes; `ValueError` with the reason if it cannot."""
    made = maker(layer, **fit) if isinstance(maker, Maker) else maker(layer)
    if made is layer:
        return None
    chain = list(made) if isinstance(made, (list, tuple)) else [made]
    if not chain or not all(isinstance(part, keras.layers.Layer) for part in chain):
        raise TypeError(
            f"The maker of layer '{layer.name}' must return a layer or a list of layers. "
            f"Received: {made!r}"
        )
    checked = isinstance(maker, Maker) and not any(getattr(p, "stochastic", False) for p in chain)
    if not named and layer.built and checked:  # a stochastic layer is small once binarized
        before, after = kernel_bits(layer), sum(map(kernel_bits, chain))
        if after >= before:
            raise ValueError(f"It would not be smaller: {after} bits, and {before} in float32.")
    return chain


def _replaceable(model) -> set[int]:
    """Ids of the layers that are nodes of the model's graph or of a nested model's."""
    found = set()
    for layer in model.layers:
        found |= _replaceable(layer) if is_graph(layer) else {id(layer)}
    return found


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
