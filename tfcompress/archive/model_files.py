"""Models in files of any kind."""

import zipfile
from pathlib import Path
from typing import Any

import keras

from tfcompress.archive import files
from tfcompress.utils import types


def load_model(path: types.Path, compile: bool = False) -> keras.Model:
    """Loads a Keras model from a `.keras`, a legacy `.h5` or a `.tfc` file.

    Args:
        path: the file.
        compile: whether the model is compiled as it was when it was saved.

    Raises:
        ValueError: there is no such file, or it cannot be loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no such file: {path}")
    if path.suffix == ".tfc":
        return files.load(path)
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ValueError(f"Expected a .keras, .h5 or .tfc file. Received: {path}")
    if path.suffix == ".keras" and not (path.is_dir() or zipfile.is_zipfile(path)):
        raise ValueError(f"{path} is no .keras file, which is a zip file: damaged, or another.")
    try:
        return keras.models.load_model(path, compile=compile)
    except Exception as error:  # zip, HDF5, JSON and Keras raise their own
        raise ValueError(f"Keras cannot load {path}: {error}") from error


def model_of(model: Any, compile: bool = False) -> Any:
    """A model, or that in a file, for functions that take both."""
    return load_model(model, compile) if isinstance(model, (str, Path)) else model
