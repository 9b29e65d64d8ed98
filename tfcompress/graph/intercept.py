"""Watching and changing layers while a model runs eagerly, without touching the model.

What runs is a shadow: a copy of the model's objects that shares its variables. So another thread
may use the model meanwhile.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from tfcompress.graph.copy import shadow
from tfcompress.graph.private_keras import layers_in

# Takes the place of a layer's `call`: `around(call, x, *args, **kwargs)` gives the outputs.
Around = Callable[..., Any]


def altered(operation: Any, arounds: Mapping[keras.layers.Layer, Around]) -> Any:
    """An operation in which calls of some layers go through functions.

    Args:
        operation: a layer, a model or a bare operation.
        arounds: `{layer, in the operation or elsewhere: function}`.

    Returns:
        A shadow of the operation, or the operation itself if it holds none of the layers.
    """
    held = layers_in(operation) if isinstance(operation, keras.layers.Layer) else []
    inside = [layer for layer in arounds if any(layer is one for one in held)]
    if not inside:
        return operation
    new, copy_of = shadow(operation)
    for layer in inside:
        copied = copy_of[id(layer)]
        vars(copied)["call"] = partial(_with_first, arounds[layer], copied.call)
    _run_step_by_step(new, [copy_of[id(layer)] for layer in inside])
    return new


def _run_step_by_step(operation, layers):
    """Lets recurrent layers that hold one of some layers call their cell once for each step.

    Otherwise a loop is traced once (JAX), or one fused operation makes all steps (cuDNN).
    """
    for owner in layers_in(operation):
        if isinstance(owner, keras.layers.RNN):
            held = layers_in(owner)
            if any(layer is one for layer in layers for one in held):
                owner.unroll = True
                if owner.go_backwards and getattr(owner, "zero_output_for_mask", False):
                    _reverse_first(owner)
                if hasattr(owner, "use_cudnn"):
                    owner.use_cudnn = False


def _reverse_first(owner):
    """Reverses the steps before the loop, since Keras' unrolled loop gets a mask the wrong way.

    It zeroes the outputs of steps that go backwards by the mask of steps that go forwards.
    """
    owner.go_backwards, loop = False, owner.inner_loop

    def backwards(sequences, initial_state, mask, training=False):
        turned = keras.tree.map_structure(lambda x: keras.ops.flip(x, 1), sequences)
        mask = None if mask is None else keras.ops.flip(mask, 1)
        return loop(turned, initial_state, mask, training)

    vars(owner)["inner_loop"] = backwards


def _with_first(around, call, *args, **kwargs):
    """Calls `around` with the input as its first argument, however the layer was called."""
    if args:
        return around(call, *args, **kwargs)
    name = next(iter(kwargs))
    return around(lambda x, **others: call(**{name: x}, **others), kwargs.pop(name), **kwargs)


def running(chain: list[keras.layers.Layer]) -> Around:
    """Runs layers one after the other in the place of a layer, in inference mode."""

    def around(call, x, *args, **kwargs):
        if len(chain) == 1:  # which may take what the layer takes, as `reverse` of an embedding
            others = {k: v for k, v in kwargs.items() if k not in ("training", "mask")}
            return chain[0](x, *args, training=False, **others)
        for part in chain:
            x = part(x, training=False)
        return x

    return around


def link(arrived: list, is_first: bool, call: Callable, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs a layer of a chain that is not its last one, and keeps what went into the chain.

    Args:
        arrived: what is kept, for `start_of` at the last layer.
        is_first: whether the layer is the first one of the chain.
        call, x, *args, **kwargs: of the layer, see `Around`.
    """
    start = (x, args, kwargs) if is_first else start_of(arrived, x, args, kwargs)
    y = call(x, *args, **kwargs)
    arrived.append((y, start))
    return y


def start_of(arrived: list, x: Any, args: tuple, kwargs: dict) -> tuple:
    """What went into the chain of layers that gave an input; if none did, the input itself.

    Calls of a shared chain can overlap, and its last layer may run in another order than its first.
    Where Keras has cast what a layer gave, it is the latest one.
    """
    if not arrived:
        return x, args, kwargs
    return arrived.pop(next((i for i, (y, _) in enumerate(arrived) if y is x), -1))[1]


def as_array(x: Any) -> Any:
    """A tensor as an array; None for one that stands for a value inside a trace."""
    if keras.backend.backend() == "jax":
        from jax.core import Tracer

        traced = isinstance(x, Tracer)
    else:
        traced = keras.ops.is_tensor(x) and not hasattr(x, "numpy")
    if traced:
        return None
    if keras.backend.backend() == "tensorflow":
        return np.asarray(x)  # reads a tensor where it is; Keras' function copies it
    return keras.ops.convert_to_numpy(x)
