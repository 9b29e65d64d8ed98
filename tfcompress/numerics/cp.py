"""CP decomposition of an array (canonical polyadic: a sum of rank-one arrays). NumPy in and out.

Letters: s, i, o axes of the array (s joins height and width), r rank.
"""

import contextlib
import math

import numpy as np

from tfcompress.utils.one_thread import one_thread

SWEEPS_OF_STARTS = (5, 2), (15, 1)  # of each random start, and how many of the best then go on
SINGLE_PRECISION_FROM = 2**18  # weights; what is summed from the products stays in double
CONVERGED = 1e-6  # share of the error that a sweep must take away to go on


def max_cp_rank(shape: tuple[int, ...]) -> int:
    """A rank at which every array of that shape is represented exactly."""
    return int(np.prod(shape) // max(shape))


def cp(
    w: np.ndarray, rank: int, seed: int = 0, starts: int = 5, sweeps: int = 300, ridge: float = 1e-9
) -> list[np.ndarray]:
    """CP factors of an array, by accelerated alternating least squares: `w[s,i,o] ~ sum_r a b c`.

    Each of several random starts gets 5 sweeps, the best two 15, and the best up to `sweeps`. The
    norms are then spread evenly over the factors, which keeps fine-tuning stable. Components that
    diverge and cancel each other need `correct`.

    Cost: `2 size r` multiply-adds a sweep; `(9, 512, 512)` at rank 256 takes about 10 seconds.

    Args:
        w: 3- or 4-way; for a convolution kernel `(h * w, i, o)` or `(h, w, i, o)`.
        rank: from 1 to `max_cp_rank(w.shape)`.
        seed: of the random starts.
        starts: how many.
        sweeps: of the best start.
        ridge: a penalty on the factors' squares, as a share of the mean diagonal of their Gram
            matrix. 0.01 keeps diverging components down for a slightly larger error.

    Returns:
        A float64 array `(n, r)` for each axis.

    Raises:
        ValueError: the rank is out of range.

    >>> a, b, c = cp(np.ones((9, 4, 6)), rank=1)
    >>> float(np.round(np.einsum("sr,ir,or->sio", a, b, c)[0, 0, 0], 6))
    1.0

    Reference: Lebedev et al., "Speeding-up Convolutional Neural Networks Using Fine-tuned
    CP-Decomposition", 2015. There the kernel has four axes; with height and width joined the fit is
    better at the same rank and runs as one depthwise layer.
    """
    w = np.asarray(w, np.float64)
    if not 1 <= rank <= max_cp_rank(w.shape):
        raise ValueError(
            f"`rank` must be from 1 to {max_cp_rank(w.shape)} for an array of shape {w.shape}. "
            f"Received: rank={rank}"
        )
    norm = np.linalg.norm(w)
    if norm == 0:
        return [np.zeros((side, rank)) for side in w.shape]
    w = _for_products(w / norm)
    runs = []
    for start in range(starts):
        random = np.random.default_rng((seed, start))
        runs.append((np.inf, [random.standard_normal((side, rank)) for side in w.shape]))
    with _threads_for(w):
        for count, left in SWEEPS_OF_STARTS:
            runs = [_descend(w, factors, count, ridge) for _, factors in runs]
            runs = sorted(runs, key=lambda run: run[0])[:left]
        _, factors = _descend(w, runs[0][1], sweeps, ridge)
    factors[0] = factors[0] * norm
    return balance(factors)


def balance(factors: list[np.ndarray]) -> list[np.ndarray]:
    """Gives the factors of each component the same norm; their product does not change."""
    norms = np.array([np.linalg.norm(factor, axis=0) for factor in factors])
    target = np.prod(norms, axis=0) ** (1 / len(factors))
    return [f * (target / np.where(n == 0, 1, n)) for f, n in zip(factors, norms, strict=True)]


def correct(
    w: np.ndarray, factors: list[np.ndarray], slack: float = 0.01, sweeps: int = 20
) -> list[np.ndarray]:
    """Error-preserving correction: the least sensitive CP factors with about the same error.

    Minimises `E ||change of the product||^2` for equal noise in all entries of the factors
    (`cp_noise_sensitivity`) under `||w - product|| <= (1 + slack) * the error now`, one
    factor at a time: a ridge regression whose ridge is the Lagrange multiplier at which the error
    meets the bound.

    Args:
        w: the array.
        factors: as from `cp`.
        slack: how much the error may rise, as a share of it.
        sweeps: over all factors.

    Returns:
        Factors like the given ones, balanced.

    Reference: Phan et al., "Stable Low-rank Tensor Decomposition for Compression of Convolutional
    Neural Network", 2020.
    """
    w = np.asarray(w, np.float64)
    factors = balance([np.asarray(factor, np.float64) for factor in factors])
    total = np.vdot(w, w)
    product, grams = _product(w, factors, len(factors) - 1), [f.T @ f for f in factors]
    w = _for_products(w)
    bound = (1 + slack) ** 2 * (
        total - 2 * np.vdot(product, factors[-1]) + np.sum(np.prod(grams, axis=0))
    )
    with _threads_for(w):
        for _ in range(sweeps):
            for k in range(len(factors)):
                factors[k] = _least_sensitive(_product(w, factors, k), factors, k, total, bound)
    return balance(factors)


def _least_sensitive(product, factors, k, total, bound):
    """The factor k of the smallest weighted norm whose error is within the bound."""
    from scipy.optimize import brentq

    others = [f for m, f in enumerate(factors) if m != k]
    squares = [np.sum(f * f, axis=0) for f in others]
    # Each component's share of the sensitivity for a unit column of factor k.
    weights = sum(
        len(f) * np.prod([s for m, s in enumerate(squares) if m != j], axis=0)
        for j, f in enumerate(others)
    )
    if not weights.max():  # all other factors are zero
        return factors[k]
    root = np.sqrt(np.maximum(weights, 1e-30 * weights.max()))
    gram = np.prod([f.T @ f for f in others], axis=0) / np.outer(root, root)
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0)
    seen = (product / root) @ vectors
    energy = np.sum(seen**2, axis=0)

    def excess(log_ridge):
        d = values + np.exp(log_ridge)
        return total - np.sum(energy * (2 * d - values) / d**2) - bound

    low, high = np.log(values[-1] * 1e-13), np.log(values[-1] * 1e3)
    if excess(low) > 0 or excess(high) < 0:
        return factors[k]  # no room to move
    ridge = np.exp(brentq(excess, low, high, xtol=1e-3) - 1e-3)
    return (seen / (values + ridge)) @ vectors.T / root


def _descend(w, factors, sweeps, ridge):
    """Alternating least squares with Nesterov's momentum on an array of norm 1.

    The momentum is dropped where the error rises. Without momentum the error hardly falls over
    hundreds of sweeps where components are nearly parallel ("swamps").

    Returns:
        The error and the factors.
    """
    error, old, age = np.inf, factors, 0
    for _ in range(sweeps):
        momentum = age / (age + 3)
        ahead = [f + momentum * (f - g) for f, g in zip(factors, old, strict=True)]
        reached, new = _sweep(w, ahead, ridge)
        if reached > error and age:
            old, age = factors, 0
            continue
        gain, error = error - reached, reached
        old, factors, age = factors, new, age + 1
        if gain < CONVERGED * error:
            break
    return error, factors


def _sweep(w, factors, ridge):
    """Solves for each factor in turn, in place: the error and the factors."""
    grams, last = [f.T @ f for f in factors], len(factors) - 1
    for k in range(last + 1):
        if k in (0, last):  # all modes but the last share one large product
            partial = _contract(w, factors, last if k == 0 else last - 1)
        product = _reduce(partial, factors, k)
        gram = np.prod([g for m, g in enumerate(grams) if m != k], axis=0)
        factors[k] = _solve(gram, product, ridge)
        grams[k] = factors[k].T @ factors[k]
    square = 1 - 2 * np.vdot(product, factors[last]) + np.sum(gram * grams[last])
    return np.sqrt(max(square, 0.0)), factors


def _for_products(w):
    """The array as the large products take it: a large one in single precision."""
    return w.astype(np.float32) if w.size >= SINGLE_PRECISION_FROM else w


def _threads_for(w):
    """One thread where the products are small: two would wait for each other."""
    return one_thread() if w.dtype == np.float64 else contextlib.nullcontext()


def _product(w, factors, k):
    """`w` times all factors but the k-th, by component: `(n_k, r)`."""
    last = len(factors) - 1
    return _reduce(_contract(w, factors, last if k < last else last - 1), factors, k)


def _contract(w, factors, axis):
    """`w` times the factor of one of its last two axes, which becomes the axis r: one product."""
    if axis == w.ndim - 2:
        w = w.swapaxes(-1, -2)
    return w @ factors[axis].astype(w.dtype)


def _reduce(partial, factors, k):
    """What is left of `_product` after `_contract`."""
    axes = "abc"[: partial.ndim - 1]
    last = len(factors) - 1
    places = [*range(last - 1), last if k == last else last - 1]
    others = [
        (axes[n] + "r", factors[m].astype(partial.dtype)) for n, m in enumerate(places) if m != k
    ]
    terms = ",".join([axes + "r", *(term for term, _ in others)])
    own = axes[places.index(k)]
    product = np.einsum(
        f"{terms}->{own}r", partial, *(f for _, f in others), optimize=len(others) > 1
    )
    return product.astype(np.float64)


def _solve(gram, product, ridge):
    import scipy.linalg

    extra = max(ridge * np.trace(gram) / len(gram), 1e-300)
    damped = gram + extra * np.eye(len(gram))
    with one_thread():
        factor = scipy.linalg.cho_factor(damped, overwrite_a=True, check_finite=False)
        return scipy.linalg.cho_solve(factor, product.T, check_finite=False).T


def cp_noise_sensitivity(parts: list[np.ndarray], expression: str) -> float:
    """`E ||change of the product||^2 / s^2` for small noise of variance `s^2` in every entry.

    For CP factors it is `sum_r S |b|^2 |c|^2 + I |a|^2 |c|^2 + O |a|^2 |b|^2`. Where it is large
    against the product's own sum of squares, components nearly cancel, and the factors are hard to
    fine-tune and to quantize.

    Args: see `low_rank.refine`.

    Reference: Phan et al., "Stable Low-rank Tensor Decomposition for Compression of
    Convolutional Neural Network", 2020.
    """
    inputs, output = expression.split("->")
    terms, total = inputs.split(","), 0.0
    for k, own in enumerate(terms):
        others = [part for m, part in enumerate(parts) if m != k]
        rest = [term for m, term in enumerate(terms) if m != k]
        # A sum over letters that neither the part nor the output has is squared as a whole.
        twin = ["".join(c if c in own + output else c.upper() for c in term) for term in rest]
        free = [n for c, n in zip(own, parts[k].shape, strict=True) if c not in "".join(rest)]
        squares = np.einsum(",".join(rest + twin) + "->", *others, *others, optimize=True)
        total += math.prod(free) * float(squares)
    return total
