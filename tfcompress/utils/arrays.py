"""Arrays of NumPy, of a backend, and nested lists and dicts of them."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfcompress.utils.types import Tensor


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The values of a variable or tensor of any backend."""
    return keras.ops.convert_to_numpy(tensor)


def copy_into(variable: keras.Variable, value: Tensor) -> None:
    """Sets a variable to a copy of a value.

    `assign` alone may share the value's array, which the JAX backend gives away when it trains.
    """
    variable.assign(np.array(to_numpy(value)))


def transposed(matrices: np.ndarray) -> np.ndarray:
    """Each matrix of a stack `(..., n, m)` transposed; a view."""
    return np.swapaxes(matrices, -1, -2)


def rows(arrays: Any, chosen: Any) -> Any:
    """The chosen rows of each array of a nested structure; None stays None.

    >>> rows({"x": np.array([1, 2, 3]), "y": None}, [0, 2])
    {'x': array([1, 3]), 'y': None}
    """
    return keras.tree.map_structure(lambda a: a if a is None else a[chosen], arrays)


def concatenated(batches: Iterable[tuple[Any, ...]]) -> list:
    """The parts of all batches, each joined along the examples; a part that is None stays None.

    Args:
        batches: tuples of equally many parts, each a nested structure of arrays and Nones.

    >>> concatenated([(np.array([1, 2]), None), (np.array([3]), None)])
    [array([1, 2, 3]), None]
    """

    def joined(*leaves):
        return None if leaves[0] is None else np.concatenate(leaves)

    return [keras.tree.map_structure(joined, *parts) for parts in zip(*batches, strict=True)]
