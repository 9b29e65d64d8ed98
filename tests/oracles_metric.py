"""Slow and obvious versions of the second-order tools."""

import itertools

import numpy as np


def hessian_diagonal(loss, array, step=1e-3):
    """The Hessian's diagonal of `loss()` by an array of doubles, by central differences."""
    found = np.zeros(array.shape)
    for place in np.ndindex(array.shape):
        kept, values = array[place], []
        for move in (step, 0.0, -step):
            array[place] = kept + move
            values.append(loss())
        array[place] = kept
        found[place] = (values[0] - 2 * values[1] + values[2]) / step**2
    return found


def quadratic(e, A, g=None):
    """`1/2 sum_o g_o e_o^T A e_o` of a matrix `(fan_in, out)`, output by output."""
    g = np.ones(e.shape[1]) if g is None else g
    return sum(g[o] * e[:, o] @ A @ e[:, o] / 2 for o in range(e.shape[1]))


def best_rounding(w, A, levels):
    """The best `(fan_in, out)` kernel with entries in `levels`, of all that there are."""
    best = np.empty_like(w)
    for o in range(w.shape[1]):
        tried = np.array(list(itertools.product(levels, repeat=len(w))))
        e = tried - w[:, o]
        best[:, o] = tried[np.argmin(np.einsum("ti,ij,tj->t", e, A, e))]
    return best


def refit(w, A, keep):
    """The best kernel that is zero where `keep` is False: least squares for each output."""
    best = np.zeros_like(w)
    for o in range(w.shape[1]):
        on = np.flatnonzero(keep[:, o])
        best[on, o] = np.linalg.solve(A[np.ix_(on, on)], A[on] @ w[:, o])
    return best


def best_sparse(w, A, count):
    """The best kernel with `count` zeros in all, of all that there are."""
    best, lowest = None, np.inf
    for gone in itertools.combinations(range(w.size), count):
        keep = np.ones(w.size, bool)
        keep[list(gone)] = False
        tried = refit(w, A, keep.reshape(w.shape))
        value = quadratic(w - tried, A)
        if value < lowest:
            best, lowest = tried, value
    return best


def brain_surgeon(w, A, count):
    """Hassibi's own loop: the weight with the lowest `w^2 / (2 [A^-1]_ii)` goes, the rest move."""
    w, keep = w.copy(), np.ones(w.shape, bool)
    for _ in range(count):
        scores = np.full(w.shape, np.inf)
        inverses = {}
        for o in range(w.shape[1]):
            on = np.flatnonzero(keep[:, o])
            inverses[o] = (on, np.linalg.inv(A[np.ix_(on, on)]))
            scores[on, o] = w[on, o] ** 2 / 2 / np.diag(inverses[o][1])
        i, o = np.unravel_index(np.argmin(scores), w.shape)
        on, inverse = inverses[o]
        at = int(np.flatnonzero(on == i)[0])
        w[on, o] -= w[i, o] / inverse[at, at] * inverse[:, at]
        w[i, o] = 0.0
        keep[i, o] = False
    return w
