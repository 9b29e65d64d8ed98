"""Recurrent layers run step by step, so that each call of their cells can be seen."""

import contextlib
from collections.abc import Iterator

import keras

from tfcompress.graph.private_keras import layers_in


@contextlib.contextmanager
def step_by_step(model: keras.Model) -> Iterator[None]:
    """While open, eager runs call the recurrent cells of a model once for each step.

    Otherwise a loop is traced once (JAX), or one fused operation runs all steps (cuDNN).
    """
    layers = [layer for layer in layers_in(model) if isinstance(layer, keras.layers.RNN)]
    before = [{name: getattr(layer, name, None) for name in _OPTIONS} for layer in layers]
    for layer in layers:
        _set(layer, {"unroll": True, "use_cudnn": False})
    try:
        yield
    finally:
        for layer, options in zip(layers, before, strict=True):
            _set(layer, options)


_OPTIONS = ("unroll", "use_cudnn")


def _set(layer, options):
    for name, value in options.items():
        if hasattr(layer, name):
            setattr(layer, name, value)
