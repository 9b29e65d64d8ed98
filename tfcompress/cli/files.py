"""The files that the commands read and write: models, budgets and points, results."""

import json
from pathlib import Path
from typing import Any

import keras

from tfcompress.archive import files as archives
from tfcompress.utils.plain import plain
from tfcompress.utils.writers import save_model


def load_model(path: Path, compile: bool = False) -> keras.Model:
    """Loads a Keras model from a `.keras`, a legacy `.h5` or a `.tfc` file."""
    if not path.is_file():
        raise ValueError(f"There is no such file: {path}")
    if path.suffix == ".tfc":
        return archives.load(path)
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ValueError(f"Expected a .keras, .h5 or .tfc file. Received: {path}")
    try:
        return keras.models.load_model(path, compile=compile)
    except Exception as error:  # zip, HDF5, JSON and Keras raise their own
        raise ValueError(f"Keras cannot load {path}: {error}") from error


def read_budget(text: str) -> float:
    """The number that a budget names: a share for `10%` or `0.1`, bytes for `80000`."""
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(
            f"Expected a budget such as 10%, 0.1 or 80000 (bytes). Received: {text!r}"
        ) from None


def read_points(path: Path) -> dict[str, tuple[int, float]]:
    """The `{name: (bytes, accuracy)}` of a JSON file."""
    try:
        return {
            name: (int(size), float(accuracy))
            for name, (size, accuracy) in json.loads(path.read_text()).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        message = 'Expected JSON of the form {"name": [bytes, accuracy]}'
        raise ValueError(f"{message} in {path}: {error}") from error


def save_compressed(made: Any, output: Path, as_json: bool) -> None:
    """Prints the result of `compress`, and writes it unless `compress` has written the file."""
    if output.suffix == ".tfc":
        archives.save(made.model, output, half=True)
    elif output.suffix == ".keras":
        save_model(made.model, output)
    size = output.stat().st_size
    if as_json:
        facts = {"path": str(output), "bytes": size, "before": made.before, "after": made.after}
        print(json.dumps(facts | {"report": json.loads(made.report.to_json())}))
    else:
        print(made)
        print_file(output, size, as_json)


def print_file(path: Path, size: int, as_json: bool) -> None:
    """Prints the path and the size of a file that was written."""
    print(
        json.dumps({"path": str(path), "bytes": size})
        if as_json
        else f"{plain(path)}: {size:,} bytes"
    )
