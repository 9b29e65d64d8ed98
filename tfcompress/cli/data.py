"""Loads data named on the command line: an .npz file, a folder of images, or a function."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.batches import HELD, some

ARRAYS = ("x", "y", "sample_weight")  # of an .npz file


def load_data(source: str, model: keras.Model | None = None) -> Any:
    """Loads the data that a text names, in a form for `fit`.

    Args:
        source: one of

            - `"data.npz"`: the arrays `x` and, if there are labels, `y`, and with them, if there
              are weights of the examples, `sample_weight`.
            - `"images/"`: a folder with a folder of images (.jpg, .png, .bmp or .gif) for each
              class. Labels number the classes in alphabetical order. Images are resized to the
              model's input size, and pixels are floats from 0 to 255, which the model has to scale.
            - `"module:function"`: what the function, called without arguments, returns. The module
              may be a file of the current folder, which this puts on `sys.path`.
        model: the Keras model that the data is for, whose input size images get.

    Returns:
        `(x,)`, `(x, y)` or `(x, y, sample_weight)` for an .npz file, a batched dataset for a
        folder, anything for a function.

    Raises:
        ValueError: the text names none of these, or the data do not have this form.

    Example:

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/data.npz"
    >>> np.savez(path, x=np.zeros((5, 3)), y=np.arange(5))
    >>> [array.shape for array in load_data(path)]
    [(5, 3), (5,)]
    """
    path = Path(source)
    if path.suffix == ".npz":
        return _arrays(path)
    if path.is_dir():
        return _images(path, model)
    module, colon, function = str(source).partition(":")
    if colon and all(name.isidentifier() for name in (*module.split("."), function)):
        return _call(module, function)
    raise ValueError(
        "Expected data as an .npz file, an existing folder of images, or `module:function`. "
        f"Received: {source}"
    )


def has_labels(data: Any) -> bool:
    """Whether data of `load_data` have labels beside the inputs."""
    if isinstance(data, tuple):
        return len(data) > 1
    spec = getattr(data, "element_spec", None)  # of a tf.data.Dataset
    if spec is None and isinstance(data, keras.utils.PyDataset):
        spec = data[0]
    return isinstance(spec, tuple) and len(spec) > 1


def load_inputs(source: str, model: keras.Model) -> Any:
    """The inputs alone of at most 1,000 examples of the data that a text names."""
    return keras.tree.map_structure(to_numpy, some(model, load_data(source, model), 1000, HELD))


def _arrays(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # zip and NumPy raise their own
        raise ValueError(f"NumPy cannot load {path}: {error}") from error
    if set(arrays) not in (set(ARRAYS[:1]), set(ARRAYS[:2]), set(ARRAYS)):
        raise ValueError(
            f"{path} must hold the arrays `x` and `y`, and `sample_weight` if there are weights. "
            f"Received: {sorted(arrays)}"
        )
    found = tuple(arrays[name] for name in ARRAYS if name in arrays)
    if len(set(map(len, found))) > 1:
        raise ValueError(
            f"The arrays of {path} must have the same length. Received: {[*map(len, found)]}"
        )
    return found


def _images(folder, model):
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "A folder of images is for a model with one input (height, width, channels) of known "
            f"size. Received: a model with input shape {shape}"
        )
    colors = {1: "grayscale", 3: "rgb", 4: "rgba"}
    if shape[-1] not in colors:
        raise ValueError(f"Images have 1, 3 or 4 channels. Received: input shape {shape}")
    return keras.utils.image_dataset_from_directory(
        folder,
        image_size=shape[1:3],
        color_mode=colors[shape[-1]],
        batch_size=32,
        shuffle=True,
        seed=0,
        verbose=False,
    )


def _call(module, function):
    # It stays there: the function, or a generator that it returns, may import others of the folder.
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    found = importlib.import_module(module)
    if not callable(getattr(found, function, None)):
        raise ValueError(f"Module '{module}' has no function '{function}'.")
    return getattr(found, function)()
