"""The lowest scores, the same ones on each machine."""

from typing import Any

import numpy as np


def lowest(scores: Any, count: int) -> np.ndarray:
    """Marks the `count` lowest scores of a flat array, equal ones in the order of their index.

    >>> lowest(np.array([2.0, 1.0, 1.0, 1.0]), 2).tolist()
    [False, True, True, False]
    """
    if count == 0:
        return np.zeros(scores.shape, bool)
    edge = np.partition(scores, count - 1)[count - 1]
    marked = scores < edge
    marked[np.flatnonzero(scores == edge)[: count - marked.sum()]] = True
    return marked
