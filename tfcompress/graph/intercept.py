"""Watching and replacing layers while a model runs eagerly."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

Around = Callable[..., object]


def watch_inputs(
    model: keras.Model, x: Any, layers: Iterable[keras.layers.Layer], see: Callable
) -> None:
    """Runs a model, in inference mode and eagerly, and shows what goes into some of its layers.

    Args:
        model: a built model of any kind.
        x: a batch of its inputs.
        layers: layers of it, at any depth.
        see: called as `see(layer, array)` at each call of one of the layers. A call inside a
            graph (a `tf.function`, a vectorized map) has no array and is passed over.
    """

    def shown(layer, call, *args, **kwargs):
        array = _array(args[0] if args else next(iter(kwargs.values())))
        if array is not None:
            see(layer, array)
        return call(*args, **kwargs)

    with intercepted(layers, shown):
        model(x, training=False)


@contextlib.contextmanager
def intercepted(layers: Iterable[keras.layers.Layer], around: Around) -> Iterator[None]:
    """While open, a call of one of the layers goes through `around(layer, call, *args)`.

    For eager runs within the `with` block only; the layers are as they were afterwards.
    """

    def caught(layer, call):
        return lambda *args, **kwargs: around(layer, call, *args, **kwargs)

    layers = list(layers)
    try:
        for layer in layers:
            vars(layer)["call"] = caught(layer, layer.call)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def replaced(chains: Iterable[tuple]) -> Iterator[None]:
    """While open, eager calls of some layers run chains of others in their place.

    Args:
        chains: pairs `(layer, list of layers)`.
    """
    of = {id(layer): chain for layer, chain in chains}

    def around(layer, call, x, *args, **kwargs):
        for part in of[id(layer)]:
            x = part(x, training=False)
        return x

    return intercepted([layer for layer, _ in chains], around)


def _array(x):
    """A tensor as an array; None for one that stands for a value inside a trace."""
    if keras.backend.backend() == "jax":
        from jax.core import Tracer

        traced = isinstance(x, Tracer)
    else:
        traced = keras.ops.is_tensor(x) and not hasattr(x, "numpy")
    return None if traced else keras.ops.convert_to_numpy(x)
