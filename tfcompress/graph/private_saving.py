"""Private Keras behind saved files: one function for each use, as in `private_keras`."""

from typing import Any

import keras
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES, get_registered_name
from keras.src.saving.serialization_lib import serialize_with_public_class

from tfcompress.utils.types import Config


def class_config(kind: type, config: Config) -> dict:
    """The saved form of an object of a class, with this config.

    Keras' own classes are named by their public module, others by their registered name. Relies on
    `serialize_with_public_class` and `get_registered_name`.
    """
    public = serialize_with_public_class(kind, config)
    return public or {
        "module": kind.__module__,
        "class_name": kind.__name__,
        "config": config,
        "registered_name": get_registered_name(kind),
    }


def register_under(kind: type, name: str) -> None:
    """Objects of a class are saved under a name that another class reads.

    Relies on the dict `GLOBAL_CUSTOM_NAMES`, by which Keras finds the name of a class.
    """
    GLOBAL_CUSTOM_NAMES[kind] = name


def default_like(function: Any, other: Any) -> Any:
    """Marks a method as Keras' own default if `other` is one.

    `Operation.get_config` makes a config of the constructor's arguments for classes whose
    `get_config` bears this mark. Relies on `_is_default`.
    """
    function._is_default = getattr(other, "_is_default", False)
    return function


def has_graph_config(model: keras.Model) -> bool:
    """Whether a model is saved as its graph: any layers in it are in its config.

    Relies on `functional_like_constructor`, by which `Functional.get_config` decides the same.
    """
    kind = type(model)
    if isinstance(model, keras.Sequential):
        return kind.get_config is keras.Sequential.get_config
    own = isinstance(model, Functional) and kind.get_config is Functional.get_config
    return own and functional_like_constructor(kind)
