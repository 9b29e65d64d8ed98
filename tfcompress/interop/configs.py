"""Makes objects of one Keras version anew in the other, from their configs."""

import inspect
import operator
from typing import Any

import keras

# Settings that the other version lacks and that do not change what is computed.
IGNORED_SETTINGS = {
    "batch_input_shape",
    "flash_attention",
    "fn",
    "implementation",
    "input_length",
    "is_legacy_optimizer",
}
IGNORED_SETTINGS |= {"jit_compile", "key_shape", "query_shape", "seed", "use_cudnn", "value_shape"}
IGNORED_SETTINGS |= {"rng_type"}
IGNORED_SETTINGS |= {"kernel_initializer"}  # of separable convolutions, which do not use it
# The values of settings that the version without them computes with.
VALUES_WHERE_ABSENT = {"data_format": "channels_last", "groups": 1, "trainable": True}
POLICIES = {"DTypePolicy", "FloatDTypePolicy", "Policy"}
SLOPE_NAMES = {"negative_slope": "alpha", "alpha": "negative_slope"}
# Names under which the two versions compute different functions.
NAMES_OF_OTHER_FUNCTIONS = {"hard_sigmoid", "RandomCrop"}


def translate(item: Any, package: Any, **changes: Any) -> Any:
    """Makes a layer, optimizer, loss or metric anew in a Keras version, with the same config.

    Args:
        item: the object, or a list, tuple or dict of objects; anything else is returned as it is.
        package: the Keras version to make it in, `keras` or `tf_keras`.
        **changes: entries of the config to replace.

    Raises:
        ValueError: the other version has no such class, or lacks a setting that matters.
    """
    if isinstance(item, (list, tuple)):
        return type(item)(translate(one, package) for one in item)
    if isinstance(item, dict):
        return {key: translate(one, package) for key, one in item.items()}
    source = _keras_of(item)
    if source is None or source is package:
        return item
    serialized = source.saving.serialize_keras_object(item)
    config = serialized["config"] | changes
    return _make_object(serialized | {"config": config}, package, type(item))


def _keras_of(item):
    """The Keras version of an object with a config, or None."""
    if isinstance(item, type) or not hasattr(item, "get_config"):
        return None
    origins = {base.__module__.split(".")[0] for base in type(item).__mro__}
    if "tf_keras" in origins:
        import tf_keras

        return tf_keras
    return keras if "keras" in origins else None


def _config_value(value, package):
    if isinstance(value, (list, tuple)):
        return type(value)(_config_value(one, package) for one in value)
    if isinstance(value, dict):
        if {"class_name", "config"} <= set(value):
            return _make_object(value, package)
        return {key: _config_value(one, package) for key, one in value.items()}
    if isinstance(value, str):
        _check_same_function(value)
    return value


def _check_same_function(name):
    if name in NAMES_OF_OTHER_FUNCTIONS:
        raise ValueError(f"{name} computes something else there")


def _make_object(serialized, package, source=None):
    name, config = serialized["class_name"], serialized["config"]
    if name in POLICIES:
        return config["name"]
    if name == "__tuple__":
        return tuple(_config_value(one, package) for one in serialized["items"])
    _check_same_function(name)
    cls = _class(serialized, package)
    if name == "LeakyReLU":
        config = {SLOPE_NAMES.get(key, key): value for key, value in config.items()}
    # tf_keras keeps the axis in a list, Keras 3 as a number.
    if name == "BatchNormalization" and isinstance(config["axis"], (list, tuple)):
        (axis,) = config["axis"]
        config = config | {"axis": axis}
    names = _argument_names(cls)
    parameters = {} if source is None else inspect.signature(source.__init__).parameters
    defaults = {
        key: parameter.default for key, parameter in parameters.items()
    } | VALUES_WHERE_ABSENT
    for key, value in config.items():
        lost = value and key not in names and key not in IGNORED_SETTINGS
        if lost and not (key in defaults and defaults[key] == value):
            raise ValueError(f"{name} has no setting {key}={value!r} there")
    return cls(**{k: _config_value(v, package) for k, v in config.items() if k in names})


def _class(serialized, package):
    module, name = serialized.get("module") or "", serialized["class_name"]
    found = None
    if module.split(".")[0] == "keras":
        try:
            found = operator.attrgetter(f"{module}.{name}".removeprefix("keras."))(package)
        except AttributeError:
            found = None
    if not isinstance(found, type):
        raise ValueError(f"{package.__name__} has no {name}")
    return found


def _argument_names(cls) -> set[str]:
    """The arguments of a class, with those of its bases as long as it passes `**kwargs` on."""
    names = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    if any(base.__name__ == "RNN" for base in cls.__mro__):
        names.add("zero_output_for_mask")  # tf_keras takes it without naming it
    return names - {"self", "fn"}
