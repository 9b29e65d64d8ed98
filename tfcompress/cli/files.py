"""The files that the commands read and write: models, budgets and points, results."""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from tfcompress.archive import files as archives
from tfcompress.archive.model_files import load_model as load_model
from tfcompress.planning.plan_result import Plan
from tfcompress.utils.budgets import TIME, read_limits
from tfcompress.utils.checks import check_above_zero
from tfcompress.utils.plain import plain
from tfcompress.utils.types import Rest, Store
from tfcompress.utils.writers import save_model


def read_budgets(texts: Sequence[str], target: str) -> float | dict[str, float | str]:
    """The budget that one text names, or two of which one is of time, as `plan` takes it.

    Args:
        texts: such as `10%`, `0.1`, `80000` and `5ms`.
        target: of those that are not of time.

    Raises:
        ValueError: a text is none, or there are two of one target.
    """
    found: dict[str, float | str] = {}
    for text in texts:
        is_time = TIME.fullmatch(text) is not None
        found |= {"milliseconds": text} if is_time else {target: _read_budget(text)}
    if len(found) != len(texts):
        raise ValueError(
            "Expected one budget, or one of size and one of time such as 10% and 5ms. "
            f"Received: {' '.join(texts)}"
        )
    read_limits(found, target)
    return found[target] if list(found) == [target] else found


def read_epochs(text: str) -> Any:
    """A number of epochs, or `"auto"`, as `compress` takes it."""
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise ValueError(f"`--epochs` must be a number, 0 or more, or auto. Received: {text}")


def _read_budget(text) -> float:
    """A share for `10%` or `0.1`, bytes for `80000`."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        raise ValueError(
            f"Expected a budget such as 10%, 0.1, 80000 (bytes) or 5ms. Received: {text!r}"
        ) from None
    if text.endswith("%") and not 0 < number <= 100:
        raise ValueError(f"Expected a budget above 0% and at most 100%. Received: {text}")
    return number / 100 if text.endswith("%") else number


def read_points(path: Path) -> dict[str, tuple[int, float]]:
    """The `{name: (bytes, accuracy)}` of a JSON file."""
    try:
        points = {
            name: (int(size), float(accuracy))
            for name, (size, accuracy) in json.loads(path.read_text()).items()
        }
        for name, (size, _) in points.items():
            check_above_zero(size, f"bytes of {name}")
        return points
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        message = 'Expected JSON of the form {"name": [bytes, accuracy]}'
        raise ValueError(f"{message} in {path}: {error}") from error


def check_output(path: Path, suffixes: Sequence[str] = (".tflite", ".tfc", ".keras")) -> None:
    """Refuses a file that could not be written, before hours of work and not after them."""
    if path.suffix not in suffixes:
        raise ValueError(f"Expected an output named {' or '.join(suffixes)}. Received: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"There is no such folder: {path.parent}")
    if path.is_dir():
        raise ValueError(f"Expected the name of a file to write, and this is a folder: {path}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"Nothing can be written into this folder: {path.parent}")


def load_to_train(path: Path, loss: str | None) -> keras.Model:
    """A model as it was compiled, whose metrics count where its loss is another one.

    What it was compiled with may be lost, functions of its author for example: a warning says so.

    Args:
        path: of the file.
        loss: that is given; without it the model needs its own.
    """
    try:
        return load_model(path, compile=True)
    except ValueError as error:
        if loss is None:
            raise
        loaded = load_model(path)
        warnings.warn(f"Its compiled loss and metrics are not used: {error}", stacklevel=2)
        return loaded


def write_model(
    model: keras.Model,
    path: Path,
    rest: Rest = "float32",
    store: Store = "fast",
    half: bool = False,
) -> None:
    """Writes a model as its file is named.

    Args:
        model: the model.
        path: as `check_output` has taken it.
        rest, store: of a `.tflite` file, see `to_tflite`.
        half: of a `.tfc` file, see `archive.save`.
    """
    if path.suffix == ".tfc":
        archives.save(model, path, half=half)
    elif path.suffix == ".keras":
        save_model(model, path)
    else:
        from tfcompress.export import to_tflite  # TensorFlow

        to_tflite(model, path, rest=rest, store=store)


def print_plan(made: Plan, path: Path | None, as_json: bool) -> None:
    """Prints the result of `plan`, and the file that was written if there is one."""
    chosen = {path: option.name for path, option in made.chosen.items()}
    number = float if made.target == "milliseconds" else int
    costs = {"cost": number(made.cost), "float_cost": number(made.float_cost)}
    facts = {"target": made.target, **costs}
    if made.milliseconds is not None:
        facts |= {
            "milliseconds": made.milliseconds,
            "float_milliseconds": made.float_milliseconds,
        }
    facts |= {"loss": made.loss, "layers": chosen}
    if path is not None and as_json:
        facts |= {"path": str(path), "bytes": path.stat().st_size}
    print(json.dumps(facts) if as_json else made)
    if path is not None and not as_json:
        print_file(path, as_json)


def save_compressed(made: Any, output: Path, as_json: bool) -> None:
    """Prints the result of `compress`, and writes it unless `compress` has written the file."""
    if output.suffix == ".tfc":
        archives.save(made.model, output, half=True)
    elif output.suffix == ".keras":
        save_model(made.model, output)
    if as_json:
        size = output.stat().st_size
        facts = {"path": str(output), "bytes": size, "before": made.before, "after": made.after}
        if made.plan.milliseconds is not None:
            facts["milliseconds"] = made.plan.milliseconds
        print(json.dumps(facts | {"report": json.loads(made.report.to_json())}))
    else:
        print(made)
        print_file(output, as_json)


def print_file(path: Path, as_json: bool) -> None:
    """Prints the path and the size of a file that was written."""
    size = path.stat().st_size
    print(
        json.dumps({"path": str(path), "bytes": size})
        if as_json
        else f"{plain(path)}: {size:,} bytes"
    )
