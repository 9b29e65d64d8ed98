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


def spread(count: int, size: int) -> np.ndarray:
    """The numbers of `size` of `count` examples, or of all: one drawn from each of equal stretches.

    At equal distances they could all be of one class, where classes come in turn. The same ones are
    drawn each time.

    >>> spread(3, 5).tolist(), len(set(spread(1000, 100) // 10))
    ([0, 1, 2], 100)
    """
    ends = np.linspace(0, count, min(size, count) + 1).astype(int)
    return np.random.default_rng(0).integers(ends[:-1], ends[1:])


def concatenated(batches: Iterable[tuple[Any, ...]]) -> list:
    """The parts of all batches, each joined along the examples; a part that is None stays None.

    Steps are padded with zeros, as by `padded_batch`, where batches differ in their number.

    Args:
        batches: tuples of equally many parts, each a nested structure of arrays and Nones.

    Raises:
        ValueError: batches hold pictures of different sizes, or labels of different numbers of
            steps without weights, by which those that are added do not count.

    >>> concatenated([(np.array([1, 2]), None), (np.array([3]), None)])
    [array([1, 2, 3]), None]
    """

    def joined(*leaves):
        return None if leaves[0] is None else np.concatenate(_as_long(leaves))

    batches = list(batches)
    if len(batches[0]) == 3 and batches[0][2] is None:
        labels = zip(*(keras.tree.flatten(y) for _, y, _ in batches), strict=True)
        if any(len({a.shape[1:2] for a in leaves if a is not None}) > 1 for leaves in labels):
            raise ValueError(
                "Expected labels of one number of steps, as 0 is a class where others are padded. "
                "Pad the data to one length, or give `sample_weight` of 0 for what is added."
            )
    return [keras.tree.map_structure(joined, *parts) for parts in zip(*batches, strict=True)]


def _as_long(arrays):
    """Arrays `(b, t, ...)` with as many steps `t` as the longest."""
    steps = {array.shape[1] for array in arrays if array.ndim > 1}
    if len(steps) <= 1:
        return arrays
    if arrays[0].ndim > 3:
        raise ValueError(
            "Expected pictures of one size, and batches of `data` differ: give "
            f"`data.map(resize)`. Received: {sorted({array.shape[1:] for array in arrays})[:4]}"
        )
    rest = [(0, 0)] * (arrays[0].ndim - 2)
    return [np.pad(a, [(0, 0), (0, max(steps) - a.shape[1]), *rest]) for a in arrays]
