"""Whether an archive could be read back, told before it is written."""

import sys

import keras

from tfcompress.archive.skeleton import compressed, skeleton
from tfcompress.graph.private_keras import layers_in
from tfcompress.utils.plain import plain
from tfcompress.utils.types import Config


def check_readable(model: keras.Model, config: Config) -> None:
    """Raises `ValueError` if `load` would not make the same layers and weights of the config."""
    own = {getattr(type(layer), "_plain", type(layer)) for layer in layers_in(model)}
    names = {keras.saving.get_registered_name(kind): kind for kind in own if _is_custom(kind)}
    try:
        with keras.saving.custom_object_scope(names):
            made = skeleton(config, sys.maxsize, bool(names))
    except Exception as error:  # of the constructors of others too
        reason = str(error).strip().splitlines() or [type(error).__name__]
        stateful = [layer.name for layer in layers_in(model) if getattr(layer, "stateful", False)]
        if stateful and "stateless scope" in str(error):
            reason = [f"layers {stateful} are stateful, and make variables of any size"]
        raise ValueError(
            f"Model {model.name!r} cannot be archived, since `load` could not make it again from "
            f"its config: {plain(reason[-1])}"
        ) from error
    if _kernels_and_weights(made) != _kernels_and_weights(model):
        raise ValueError(
            f"Model {model.name!r} cannot be archived: its config makes other layers or weights "
            "than it has. Expected a `get_config` with all that the constructor needs."
        )


def _kernels_and_weights(model):
    kernels = [(type(layer), layer.name) for _, layer in compressed(model)]
    return kernels, [tuple(variable.shape) for variable in weights_beside(model)]


def _is_custom(kind) -> bool:
    return kind.__module__.partition(".")[0] not in ("keras", "tfcompress")


def weights_beside(model: keras.Model) -> list:
    """The variables that are not kept by `stored()`."""
    parts = {id(v) for _, layer in compressed(model) for v in layer.parts.values()}
    return [v for v in model.weights if id(v) not in parts]
