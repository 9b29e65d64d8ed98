"""Codebooks by k-means, weighted by a curvature. The first entry is always 0."""

import numpy as np

LLOYD_STEPS = 100  # from each start, at most; each costs a few binary searches
HISTOGRAM_BINS = 1024  # of the weights, from which the starts are drawn


def nearest(codebook: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The index of the entry of a codebook that is nearest to each weight."""
    order = np.argsort(codebook, kind="stable")
    inner = codebook[order]
    return order[np.searchsorted((inner[1:] + inner[:-1]) / 2, w)]


def k_means(w: np.ndarray, d: np.ndarray, size: int) -> np.ndarray:
    """A codebook `c`, its first entry 0, for which `sum d (w - c[nearest])^2` is small.

    Lloyd's steps on the sorted weights, from nine starts: entries spread evenly, by the weights'
    mass, and by its cube root, which is the best spread of a fine codebook, each at three offsets.

    Args:
        w: weights, any shape.
        d: their curvature, like `w`; if all of it is 0 it counts as 1.
        size: entries, the zero included.

    Returns:
        float64 array `(size,)`.
    """
    if w.size == 0:
        return np.zeros(size)
    order = np.argsort(w, axis=None)
    w, d = w.ravel()[order], d.ravel()[order]
    if not np.any(d):
        d = np.ones(w.shape)
    # Mass, first and second moment of the weights below each place.
    sums = [np.concatenate([[0], np.cumsum(d * w**power)]) for power in range(3)]
    mass, edges = np.histogram(w, HISTOGRAM_BINS, weights=d)
    found = [
        _lloyd(w, sums, _spread(mass**power, edges, size, offset))
        for power in (0, 1 / 3, 1)
        for offset in (0.2, 0.5, 0.8)
    ]
    return min(found, key=lambda pair: pair[1])[0]


def _spread(mass, edges, size, offset):
    total = np.concatenate([[0], np.cumsum(mass)])
    places = (np.arange(size - 1) + offset) / (size - 1) * total[-1]
    return np.concatenate([[0], np.interp(places, total, edges)])


def _lloyd(w, sums, codebook):
    """The codebook after Lloyd's steps, and its squared error."""
    for _ in range(LLOYD_STEPS):
        order = np.argsort(codebook, kind="stable")
        inner = codebook[order]
        cuts = np.searchsorted(w, (inner[1:] + inner[:-1]) / 2)
        mass, first, second = (np.diff(s[[0, *cuts, len(w)]]) for s in sums)
        error = np.sum(second - 2 * inner * first + inner**2 * mass)
        moved = codebook.copy()
        moved[order] = np.where(mass > 0, first / np.where(mass > 0, mass, 1), inner)
        moved[0] = 0
        if np.array_equal(moved, codebook):
            break
        codebook = moved
    return codebook, error
