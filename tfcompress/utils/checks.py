"""Checks of arguments: each raises with what was expected and what was received."""

import math
import numbers
import os
from typing import Any

INTEGER_ACTIVATIONS = ("int8", "static_int8")  # of files that `compress` makes
STORES = ("fast", "small")  # what a .tflite file is written for
FORMATS = {".csv", ".gguf", ".h5", ".hdf5", ".html", ".jpg", ".json", ".keras", ".mlmodel", ".npy"}
FORMATS |= {".npz", ".onnx", ".pb", ".pdf", ".png", ".pt", ".pth", ".safetensors", ".svg", ".tfc"}
FORMATS |= {".tflite", ".txt", ".zip"}


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether a value is an integer, of Python or NumPy, of at least `least`; `True` is none."""
    # `bool` is a subclass of `int`: without this, `True` would pass for 1.
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether a value is a real number, of Python or NumPy; `True` is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_share(value: Any) -> bool:
    """Whether a value is a float in (0, 1); an int, such as a rank of 1, is no share."""
    return isinstance(value, float) and 0 < value < 1


def whole_number(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """The value as an `int`.

    Raises:
        ValueError: it is not a whole number from `least` to `most`.

    >>> whole_number(3.5, "bits", 2, 8)
    Traceback (most recent call last):
    ...
    ValueError: Expected `bits` to be a whole number from 2 to 8. Received: 3.5
    """
    if is_whole(value, least) and (most is None or value <= most):
        return int(value)
    allowed = f", at least {least}" if most is None else f" from {least} to {most}"
    raise ValueError(f"Expected `{name}` to be a whole number{allowed}. Received: {value!r}")


def positive_int(value: Any, name: str) -> int:
    """The value as an `int` of at least 1; raises `ValueError` otherwise."""
    return whole_number(value, name, least=1)


def positive_tuple(value: Any, length: int, name: str) -> tuple[int, ...]:
    """The value as a tuple of positive integers; one integer stands for all of them.

    >>> positive_tuple(3, 2, "kernel_size")
    (3, 3)
    """
    values = value if isinstance(value, (tuple, list)) else (value,) * length
    if len(values) != length:
        raise ValueError(f"`{name}` must be an integer or {length} of them. Received: {value!r}")
    return tuple(positive_int(v, name) for v in values)


def check_number(value: Any, name: str) -> None:
    """Raises `TypeError` unless the value is a real number."""
    if not is_number(value):
        raise TypeError(f"Expected `{name}` to be a number. Received: {value!r}")


def check_sparsity(sparsity: float, name: str = "sparsity") -> None:
    """Raises unless the value is a number in [0, 1)."""
    check_number(sparsity, name)
    if not 0 <= sparsity < 1:
        raise ValueError(f"Expected `{name}` in [0, 1). Received: {name}={sparsity!r}")


def check_above_zero(value: float, name: str) -> None:
    """Raises unless the value is a finite number above 0."""
    check_number(value, name)
    if not 0 < value < math.inf:
        raise ValueError(f"Expected `{name}` above 0. Received: {value!r}")


def check_share(value: float, name: str) -> None:
    """Raises unless the value is a number in [0, 1].

    >>> check_share(91, "accuracy")
    Traceback (most recent call last):
    ...
    ValueError: Expected `accuracy` in [0, 1]. Did you mean 91%, which is 0.91? Received: 91
    """
    check_number(value, name)
    if not 0 <= value <= 1:
        hint = f" Did you mean {value:g}%, which is {value / 100:g}?" if 1 < value <= 100 else ""
        raise ValueError(f"Expected `{name}` in [0, 1].{hint} Received: {value!r}")


def check_integer(value: Any, name: str) -> int:
    """The value as an `int` of either sign; raises `ValueError` for what is no whole number."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    raise ValueError(f"Expected `{name}` to be a whole number. Received: {value!r}")


def check_seed(seed: Any) -> None:
    """Raises `ValueError` unless `keras.utils.set_random_seed` takes it."""
    if not 0 <= check_integer(seed, "seed") < 2**32:
        raise ValueError(f"Expected `seed` from 0 to {2**32 - 1}. Received: {seed!r}")


def check_budget(budget: Any) -> None:
    """Raises unless a budget is a share in (0, 1] or a number of bytes or MACs.

    >>> check_budget(10)
    Traceback (most recent call last):
    ...
    ValueError: `budget=10` means 10 bytes (or MACs). Did you mean 10%? That is `budget=0.1`
    """
    check_number(budget, "budget")
    if not 0 < budget < math.inf:
        raise ValueError(f"Expected `budget` > 0. Received: {budget!r}")
    if 1 < budget <= 100:
        raise ValueError(
            f"`budget={budget:g}` means {budget:g} bytes (or MACs). Did you mean {budget:g}%? That "
            f"is `budget={budget / 100:g}`"
        )


def check_path(path: Any, name: str) -> None:
    """Raises `TypeError` for what is no path."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"Expected `{name}` to be a path. Received: {path!r:.80}")


def check_ending(path: Any, *endings: str, name: str = "path") -> None:
    """Raises `ValueError` for a path with the ending of some other format."""
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending in FORMATS and ending not in endings:
        raise ValueError(
            f"Expected `{name}` to end in {' or '.join(endings)}. Received: {os.fspath(path)!r}"
        )


def check_store(store: Any) -> None:
    """Raises `ValueError` unless a file is stored for speed or for size."""
    if store not in STORES:
        raise ValueError(f"`store` must be one of {STORES}. Received: {store!r}")


def check_integer_activations(activations: Any) -> None:
    """Raises `ValueError` unless a file computes in int8, with ranges that are fixed or not."""
    if activations not in INTEGER_ACTIVATIONS:
        raise ValueError(
            f"`activations` must be one of {INTEGER_ACTIVATIONS}. Received: {activations!r}"
        )
