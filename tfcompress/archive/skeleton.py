"""A model from a checked config, whose sizes are known before any of it is allocated."""

import copy
import math

import keras

from tfcompress.archive.entropy import dtype_of
from tfcompress.archive.untrusted import check_bound
from tfcompress.graph.paths import walk
from tfcompress.graph.private_keras import layers_in, variables_without_values
from tfcompress.graph.private_saving import has_graph_config
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.utils.types import Config

_L = keras.layers
# They have a `build` of their own, which makes no variables, and a composite may call them unbuilt.
MERGES = (
    _L.Add,
    _L.Average,
    _L.Concatenate,
    _L.Dot,
    _L.Maximum,
    _L.Minimum,
    _L.Multiply,
    _L.Subtract,
)


def skeleton(config: Config, max_bytes: int, trusted: bool = False) -> keras.Model:
    """The model of a config; its variables have shapes and no values yet.

    Args:
        config: what `Checker` has let pass.
        max_bytes: of its variables, and of what its layers derive from them.
        trusted: whether the caller vouches for classes in it. Their constructors may need variables
            with values, as that of a model which compiles itself; then they get them.

    Raises:
        ValueError: it would be larger. Keras raises its own errors on what is no sound config.
    """
    try:
        with variables_without_values():
            model = _made_of(config)
    except ValueError as error:
        if not trusted or "stateless scope" not in str(error):
            raise
        model = _made_of(config)
    if not isinstance(model, keras.Model):
        raise ValueError(f"it holds no model but {type(model).__name__}")
    _check_used(config["config"], model)
    for layer in layers_in(model):
        sized = type(layer).build is keras.layers.Layer.build or type(layer) in MERGES
        if not layer.built and not sized:
            raise ValueError(f"its layer {layer.name!r} is not built, so that its size is unknown")
    derived = (layer.derived_bytes for _, layer in compressed(model))
    check_bound(sum(map(_bytes, model.variables)) + sum(derived), max_bytes)
    return model


def _made_of(config):
    return keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)


def _check_used(config, model):
    """Raises if the config of a Functional model has layers that its outputs do not need."""
    if not has_graph_config(model) or isinstance(model, keras.Sequential):
        return
    operations = {operation.name: operation for operation in model.operations}
    for entry in config["layers"]:
        if entry["name"] not in operations:
            raise ValueError(f"no output needs its layer {entry['name']!r}")
        _check_used(entry["config"], operations[entry["name"]])


def compressed(model: keras.Model) -> list[tuple[str, CompressedLayer]]:
    """The compressed layers with their paths."""
    layers = ((path, layer) for path, (layer, _) in walk(model).items())
    return [(path, layer) for path, layer in layers if isinstance(layer, CompressedLayer)]


def _bytes(variable) -> int:
    shape = tuple(map(int, variable.shape))
    if any(size < 0 for size in shape):
        raise ValueError(f"a variable has a negative size: {shape}")
    return dtype_of(keras.backend.standardize_dtype(variable.dtype)).itemsize * math.prod(shape)
