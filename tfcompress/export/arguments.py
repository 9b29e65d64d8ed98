"""Checks of the arguments of `to_tflite`, before anything is done."""

import os
from typing import Any

import keras

from tfcompress.export.convert.full_integer import IO_TYPES
from tfcompress.graph.paths import check_finite_weights, check_keras_3
from tfcompress.tflite.runtimes import parse_version
from tfcompress.utils.checks import check_ending, check_store
from tfcompress.utils.types import Activations, Path, Rest, Sample, Store

ACTIVATIONS = ("int8", "float32", "static_int8", "static_int16")
RESTS = ("float32", "float16", "int8")


def check_model(model: Any) -> None:
    """Refuses what is no Keras 3 model of finite weights on the TensorFlow backend."""
    check_keras_3(model)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Export needs the TensorFlow backend of Keras. Save the model, and export it in a "
            f"process with KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()!r}"
        )
    check_finite_weights(model)


def check_arguments(
    activations: Activations, store: Store, min_runtime: str, io: str, check: Sample, rest: Rest
) -> tuple[int, ...]:
    """Checks the arguments of `to_tflite`, and gives `min_runtime` in numbers."""
    if activations not in ACTIVATIONS:
        raise ValueError(f"`activations` must be one of {ACTIVATIONS}. Received: {activations!r}")
    check_store(store)
    if rest not in RESTS:
        raise ValueError(f"`rest` must be one of {RESTS}. Received: {rest!r}")
    if activations.startswith("static") and check is None:
        raise ValueError(
            f"`activations={activations!r}` measures its ranges on samples: give `check`."
        )
    if io not in IO_TYPES or (io == "int8" and activations != "static_int8"):
        raise ValueError(
            "`io` must be 'float32', or 'int8' together with `activations='static_int8'`. "
            f"Received: io={io!r}, activations={activations!r}"
        )
    return parse_version(min_runtime)


def check_path(path: Path | None) -> None:
    """Refuses a path without the ending, or in a folder that does not exist."""
    if path is None:
        return
    check_ending(path, ".tflite")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise ValueError(f"The folder of `path` does not exist. Received: {os.fspath(path)!r}")
    if os.path.isdir(path):
        raise ValueError(f"Expected `path` of a file, and it is a folder: {os.fspath(path)!r}")
    if not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        raise ValueError(f"Nothing can be written into the folder of `path`: {os.fspath(path)!r}")
