"""A model made from a config that nobody vouches for, within bounds."""

import math

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.variables import initialize_all_variables

from tfcompress.archive.entropy import DTYPES, dtype_of
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.utils.types import Config

# They hold code, or read files.
REFUSED = {"Lambda", "__lambda__", "__typespec__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer"}
REFUSED |= {"FlaxLayer"}


def skeleton(config: Config, max_bytes: int) -> keras.Model:
    """The model of a config, with fresh weights.

    Args:
        config: from `keras.saving.serialize_keras_object`.
        max_bytes: of its weights, checked before any of them is allocated.

    Raises:
        ValueError: it is refused, see `check_config`, or too large. Keras raises its own errors on
            what is no config at all.
    """
    check_bound(4 * check_config(config), max_bytes)
    try:
        with keras.StatelessScope(initialize_variables=False):  # variables have shapes only
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        sizes = (dtype_of(v.dtype).itemsize * math.prod(v.shape) for v in model.variables)
        check_bound(sum(sizes), max_bytes)
    except BaseException:
        global_state.set_global_attribute("uninitialized_variables", [])
        raise
    initialize_all_variables()
    return model


def check_config(config: Config) -> int:
    """How many entries the kernels of the compressed layers in a config have.

    They bound what these layers allocate beside their weights, as the index of a hashed one.

    Raises:
        ValueError: it names something that runs code or reads files.
    """
    if isinstance(config, list):
        return sum(map(check_config, config))
    if not isinstance(config, dict):
        return 0
    name = config.get("class_name")
    cls = keras.saving.get_registered_object(config.get("registered_name") or name)
    cls = cls or getattr(keras.layers, str(name), None)
    if name in REFUSED or hasattr(cls, "save_assets"):
        raise ValueError(f"{name} is refused, as it holds code or a vocabulary, or reads files.")
    if name in ("__tensor__", "__numpy__") and config["config"]["dtype"] not in DTYPES:
        raise ValueError(f"an array of dtype {config['config']['dtype']} is refused")
    if isinstance(cls, type) and issubclass(cls, CompressedLayer):
        layer = cls.from_config(dict(config["config"]))
        return math.prod(layer.kernel_shape(config["build_config"]["input_shape"]))
    return sum(map(check_config, config.values()))


def check_bound(declared: int, max_bytes: int) -> None:
    """Raises `ValueError` if more bytes are declared than are allowed."""
    if declared > max_bytes:
        raise ValueError(
            f"it declares {declared} bytes or more, and at most {max_bytes} are allowed. If you "
            "trust the file, raise `max_bytes`."
        )
