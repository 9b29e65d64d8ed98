"""What was made of a kernel before and no later step may undo: zeros, few distinct values."""

import numpy as np

PRUNED_FROM = 0.01  # share of zeros; training leaves no exact ones, rounding a few
MOST_LEVELS = 256  # distinct values beside zero of a kernel that is discrete
FIRST = 2**16  # weights, which mostly tell that a kernel is not discrete
TOLERANCE = 1e-4  # of the largest weight, up to which a discrete kernel is the same


def is_pruned(w: np.ndarray) -> bool:
    """Whether a share of a kernel was set to zero.

    >>> is_pruned(np.array([0.0, 1.0])), is_pruned(np.ones(200))
    (True, False)
    """
    w = np.asarray(w)
    return bool(w.size and np.mean(w == 0) >= PRUNED_FROM)


def is_discrete(w: np.ndarray) -> bool:
    """Whether a kernel's weights have few distinct values, each of them several times.

    >>> is_discrete(np.tile([-1.0, 0.0, 1.0], 10)), is_discrete(np.arange(30.0))
    (True, False)
    """
    first = np.ravel(w)[:FIRST]
    if len(np.unique(first[first != 0])) > MOST_LEVELS:
        return False
    left = np.asarray(w)[np.asarray(w) != 0]
    return bool(left.size and len(np.unique(left)) <= min(MOST_LEVELS, left.size // 4))


def what_is_lost(w: np.ndarray, new: np.ndarray) -> str | None:
    """What of a kernel another one in its place would lose, or None.

    >>> what_is_lost(np.array([0.0, 1.0]), np.array([0.5, 1.0]))
    'its zeros would be lost'
    """
    w, new = np.asarray(w), np.asarray(new)
    if is_pruned(w) and np.any(new[w == 0]):
        return "its zeros would be lost"
    if is_discrete(w) and np.abs(new - w).max() > TOLERANCE * np.abs(w).max():
        return "its few distinct values would be lost"
    return None
