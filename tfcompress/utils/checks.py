"""Checks of arguments: each raises with what was expected and what was received."""

import numbers
from typing import Any


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
