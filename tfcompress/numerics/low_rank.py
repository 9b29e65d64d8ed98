"""Low-rank forms of an array, plain and in a metric. NumPy in and out. CP is in cp.py.

Legend of the index letters: i in, o out, r p q ranks, h w space.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfcompress.utils.types import Metric

SINGLE_PRECISION_FROM = 2**18  # weights; products with a larger kernel are in single precision
TUCKER_SWEEPS = 10
SETTLED = 1e-3  # share of the squared error that a sweep must take away to go on
LEAST_GAIN = 0.002  # share of the form that a sweep over a large kernel must take away to go on
FULL_SVD_UP_TO = 1024  # shorter side of a matrix: the way over the Gram matrix is no faster


def svd(w: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Best rank-r factors of a matrix in the Frobenius norm: `w ~ u @ v`.

    The singular values are split evenly between both factors. The factors of a matrix with both
    sides above 1024 come from the eigenvectors of its smaller Gram matrix: that takes
    `min(i, o)^2` float64 numbers of memory, and the singular values are exact to about 1e-8 of the
    largest one.

    Args:
        w: `(i, o)`.
        rank: from 1 to `min(i, o)`.

    Returns:
        `u` of shape `(i, r)` and `v` of shape `(r, o)`, float64.
    """
    w = np.asarray(w, np.float32 if min(w.shape) > FULL_SVD_UP_TO else np.float64)
    if not 1 <= rank <= min(w.shape):
        raise ValueError(
            f"`rank` must be from 1 to {min(w.shape)}, the full rank of a {w.shape[0]} x "
            f"{w.shape[1]} matrix. Received: rank={rank}"
        )
    if w.shape[0] < w.shape[1]:
        u, v = svd(w.T, rank)
        return v.T, u.T
    if w.shape[1] <= FULL_SVD_UP_TO:
        u, s, v = np.linalg.svd(w, full_matrices=False)
        root = np.sqrt(s[:rank])
        return u[:, :rank] * root, root[:, None] * v[:rank]
    return _leading_svd(w, rank)


def _leading_svd(w, rank):
    """`svd` of a large matrix that is not wider than high, with products in single precision.

    The rounding of the Gram matrix turns its eigenvectors a little; one step of subspace iteration
    on the matrix itself turns them back.
    """
    import scipy.linalg

    n = w.shape[1]
    _, vectors = scipy.linalg.eigh(
        w.T @ w, subset_by_index=[n - rank, n - 1], overwrite_a=True, check_finite=False
    )
    vectors, _ = np.linalg.qr(w.T @ (w @ vectors))
    left = (w @ vectors).astype(np.float64)
    values, turn = np.linalg.eigh(left.T @ left)
    root = np.maximum(values, 1e-300) ** 0.25  # square root of the singular values
    return left @ (turn / root), root[:, None] * (vectors.astype(np.float64) @ turn).T


def singular_values(w: np.ndarray) -> np.ndarray:
    """Singular values of a matrix, largest first."""
    w = np.asarray(w, np.float64)
    if min(w.shape) <= FULL_SVD_UP_TO:
        return np.linalg.svd(w, compute_uv=False)
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))


def spatial(w: np.ndarray, rank: int) -> list[np.ndarray]:
    """Best column and row filters of a kernel: `w[h,w,i,o] ~ sum_r a[h,i,r] b[w,r,o]`, by SVD.

    Args:
        w: `(h, w, i, o)`.
        rank: from 1 to `min(h * i, w * o)`.

    Returns:
        float64 arrays `(h, i, r)` and `(w, r, o)`.

    Reference: Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank
    Expansions", 2014.
    """
    h, width, i, o = w.shape
    u, v = svd(w.transpose(0, 2, 1, 3).reshape(h * i, width * o), rank)
    return [u.reshape(h, i, -1), v.reshape(-1, width, o).transpose(1, 0, 2)]


def tucker(w: np.ndarray, ranks: tuple[int, int]) -> list[np.ndarray]:
    """Tucker-2: `w[h,w,i,o] ~ sum_pq a[i,p] core[h,w,p,q] b[o,q]`, by higher-order iteration.

    Args:
        w: `(h, w, i, o)`.
        ranks: p from 1 to i, q from 1 to o.

    Returns:
        float64 arrays `(i, p)`, `(h, w, p, q)` and `(o, q)`.

    Reference: Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power
    Mobile Applications", 2016.
    """
    p, q = ranks
    if not (1 <= p <= w.shape[2] and 1 <= q <= w.shape[3]):
        raise ValueError(
            f"`ranks` must be from 1 to the channels, {w.shape[2:]}. Received: ranks={ranks}"
        )
    w = np.asarray(w, np.float32 if np.size(w) >= SINGLE_PRECISION_FROM else np.float64)
    b, last, total = _leading(w, 3, q)[0], 0.0, float(np.sum(np.square(w), dtype=np.float64))
    for _ in range(TUCKER_SWEEPS):
        a, _ = _leading(w @ b.astype(w.dtype), 2, p)
        seen = np.tensordot(w, a.astype(w.dtype), (2, 0)).transpose(0, 1, 3, 2)  # h w p o
        b, held = _leading(seen, 3, q)
        if held - last <= SETTLED * (total - held):
            break
        last = held
    core = np.einsum("hwpo,oq->hwpq", seen, b, optimize=True)
    return [a, core.astype(np.float64), b]


def _leading(w, axis, rank):
    """Orthonormal directions along an axis that hold the most of the sum of squares, and that."""
    flat = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
    values, vectors = np.linalg.eigh((flat @ flat.T).astype(np.float64))
    return vectors[:, -rank:], values[-rank:].sum()


def least_squares(
    apply: Callable[..., Any],
    expand: Callable[..., Any],
    collect: Callable[..., Any],
    w: np.ndarray,
    start: np.ndarray,
    steps: int = 50,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Parameters p for which `expand(p)` is nearest to `w` in a second-order form.

    Solves `E^T H E p = E^T H w` by conjugate gradients, without forming any matrix.

    Args:
        apply: `H e` for an array like `w`, as `tfcompress.metric.Kronecker.apply`.
        expand: the linear map E from parameters to an array like `w`.
        collect: its transpose.
        w: the target.
        start: the parameters to begin with, of any shape.
        steps: of conjugate gradients, at most.
        dtype: in which they are made.

    Returns:
        Parameters like `start`, at least as good as it.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    def matvec(p):
        return collect(apply(expand(p.reshape(start.shape)))).ravel()

    operator = LinearOperator((start.size, start.size), matvec=matvec, dtype=dtype)
    right = collect(apply(np.asarray(w, dtype))).ravel()
    # To a relative residual of 1e-5, the default under the two names that SciPy has had for it.
    found, _ = cg(operator, right, x0=np.ravel(start).astype(dtype), atol=0.0, maxiter=steps)
    return found.reshape(start.shape)


def svd_in_metric(w: np.ndarray, rank: int, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Best rank-r factors of a matrix in a second-order form, in closed form.

    In the whitened coordinates `L^T w g^(1/2)`, with `A = L L^T`, the form is a sum of squares. The
    right singular vectors there are the eigenvectors of `g^(1/2) w^T A w g^(1/2)`, and `u` is `w`
    times these: a kernel that is not wider than high needs no factor of `A`. That of a wider one
    gives the left singular vectors. The split of the singular values is that of `svd`.

    Args:
        w: `(i, o)`.
        rank: from 1 to `min(i, o)`.
        metric: a `tfcompress.metric.Kronecker`, whose form is exact; or a `Diagonal` or array `d`
            like `w`, which has no closed form: `d` is then replaced by the product of its row and
            column means.

    Returns:
        `u` of shape `(i, r)` and `v` of shape `(r, o)`, float64.
    """
    w = np.asarray(w, np.float64)
    if hasattr(metric, "whiten"):
        g = np.ones(w.shape[1]) if metric.g is None else metric.g
        columns = np.sqrt(np.maximum(g, 1e-6 * max(g.max(), 1e-30)))
        if metric.groups > 1 or w.shape[0] < w.shape[1]:
            u, v = _leading_factors(metric.whiten(w) * columns, rank)
            return metric.unwhiten(u), v / columns
        scaled = w * columns
        values, vectors = np.linalg.eigh(scaled.T @ metric.damped(scaled))
        v = vectors[:, : -rank - 1 : -1]
        root = np.maximum(values[: -rank - 1 : -1], 0) ** 0.25
        u = scaled @ v / np.where(root > 0, root, 1)
        return u, root[:, None] * v.T / columns
    d = np.asarray(getattr(metric, "d", metric), np.float64)
    mean = max(d.mean(), 1e-30)
    # Rows or columns without curvature keep a little weight, since it is divided by.
    rows = np.sqrt(np.maximum(d.mean(1), 1e-6 * mean))
    columns = np.sqrt(np.maximum(d.mean(0), 1e-6 * mean) / mean)
    u, v = svd(rows[:, None] * w * columns, rank)
    return u / rows[:, None], v / columns


def _leading_factors(w, rank):
    """`svd` by the eigenvectors of the smaller Gram matrix, in double precision."""
    if w.shape[0] > w.shape[1]:
        u, v = _leading_factors(w.T, rank)
        return v.T, u.T
    values, vectors = np.linalg.eigh(w @ w.T)
    u, root = vectors[:, : -rank - 1 : -1], np.maximum(values[: -rank - 1 : -1], 0) ** 0.25
    return u * root, u.T @ w / np.where(root > 0, root, 1)[:, None]


def refine(
    w: np.ndarray, parts: list[np.ndarray], expression: str, metric: Metric, sweeps: int = 10
) -> list[np.ndarray]:
    """Refines the parts of a multilinear form of a kernel in a second-order form.

    Alternating least squares: `einsum(expression, *parts)` is linear in each part while the others
    are held fixed. The factor of the outputs is solved for directly where a metric of the inputs
    allows it, each other part by a few steps of conjugate gradients, so that the form never rises.

    Args:
        w: kernel.
        parts: arrays of the letters before the arrow.
        expression: einsum expression of the kernel, such as `"hwr,ir,or->hwio"` for CP.
        metric: a `tfcompress.metric.Kronecker` or `Diagonal` for `w`.
        sweeps: over all parts.

    Returns:
        float64 arrays like `parts`.
    """
    dtype = np.float32 if np.size(w) >= SINGLE_PRECISION_FROM else np.float64
    w, parts, damage = np.asarray(w, dtype), [np.asarray(p, dtype) for p in parts], np.inf
    inputs, output = expression.split("->")
    terms = inputs.split(",")
    by_inputs = _by_inputs(metric)
    for _ in range(sweeps):
        for k in reversed(range(len(parts))):
            others = [part for m, part in enumerate(parts) if m != k]
            rest = ",".join(term for m, term in enumerate(terms) if m != k)
            if by_inputs is not None and _is_of_outputs(terms[k], rest, output):
                rows = f"{rest}->{output[:-1]}{terms[k][1]}"
                basis = np.einsum(rows, *others, optimize=True)
                parts[k] = _output_factor(w, basis, by_inputs).astype(dtype)
                continue
            parts[k] = least_squares(
                metric.apply,
                lambda p, o=others, e=f"{terms[k]},{rest}->{output}": np.einsum(
                    e, p, *o, optimize=True
                ),
                lambda v, o=others, e=f"{output},{rest}->{terms[k]}": np.einsum(
                    e, v, *o, optimize=True
                ),
                w,
                parts[k],
                steps=6 if dtype == np.float32 else 10,
                dtype=dtype,
            ).astype(dtype)
        if dtype == np.float32:
            last = damage
            damage = metric.quadratic(w - np.einsum(expression, *parts, optimize=True))
            if last - damage < LEAST_GAIN * damage:
                break
    return [part.astype(np.float64) for part in parts]


def _by_inputs(metric):
    """`A e` for any number of columns, of a metric that is the same for all outputs; or None.

    Scales of the outputs do not change what is best for each of them.
    """
    if getattr(metric, "groups", 0) != 1:
        return None
    return type(metric)(metric.blocks).apply


def _is_of_outputs(term, rest, output) -> bool:
    """Whether a part has the letter of the outputs, one of ranks, and no other part the first."""
    return len(term) == 2 and term[0] == output[-1] and term[0] not in rest and term[1] in rest


def _output_factor(w, basis, apply) -> np.ndarray:
    """`(o, r)` for which `basis @ factor.T` is nearest to `w`: by the normal equations."""
    weighed = apply(basis).reshape(-1, basis.shape[-1])
    gram = weighed.T @ basis.reshape(weighed.shape)
    right = weighed.T @ w.reshape(len(weighed), -1)
    return np.linalg.lstsq(gram.astype("float64"), right.astype("float64"))[0].T
