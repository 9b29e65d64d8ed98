"""Rounding of a kernel in a metric, so that the errors of its weights cancel.

Letters as in metric.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfcompress.numerics.metric import SINGLE_PRECISION_FROM, Kronecker
from tfcompress.utils.arrays import transposed
from tfcompress.utils.one_thread import one_thread
from tfcompress.utils.types import SecondOrder

HELD_BYTES = 2**27  # of `A`, up to which its factors are held for the next kernel
ROWS_AT_A_TIME = 64  # rounded one by one between two matrix products


def compensate(
    w: np.ndarray,
    round_row: Callable[..., Any],
    metric: SecondOrder,
    no_worse: bool = True,
) -> np.ndarray:
    """Rounds a kernel so that the errors of the weights of an output cancel.

    With `A = R D R^T`, `R` unit upper triangular, the form is a sum of squares,
    `1/2 sum_i D_i (e_i + sum_{j<i} R_ji e_j)^2`: going down the rows, each is rounded from
    `w_i + sum_{j<i} R_ji e_j`, which absorbs the errors made so far. This is the step of OBC and
    GPTQ written with one triangular factor and no inverse. The rows are taken in decreasing order
    of `A_ii`, so that the last ones, which nothing makes up for, matter least. Each output whose
    form plain rounding makes smaller keeps that: no form is ever above plain rounding's.

    Cost: `fan_in^2 (fan_in / 3 + 1.5 out)` multiply-adds, with blocks of `n` inputs
    `fan_in n (...)`; double precision, and single for a kernel in it or from 1024 inputs on (the
    factor still double).

    Args:
        w: kernel.
        round_row: called as `round_row(row, place)` with one entry per output, `(out,)`, and the
            row's place in the fan-in, or with several rows, `(k, out)`, and their k places; returns
            the allowed values nearest to them, of the same shape.
        metric: `Kronecker`, or anything else for plain rounding, which a diagonal cannot better.
        no_worse: whether to compare with plain rounding, which takes a third of the time.

    Returns:
        The rounded kernel, like `w`.

    >>> metric = Kronecker([[1.0, 0.9], [0.9, 1.0]])
    >>> compensate(np.array([[0.4], [0.4]]), lambda row, i: np.round(row), metric).ravel()
    array([0., 1.])

    Reference: Frantar, Alistarh, "Optimal Brain Compression: A Framework for Accurate Post-Training
    Quantization and Pruning", 2022; Frantar et al., "GPTQ: Accurate Post-Training Quantization for
    Generative Pre-trained Transformers", 2022; Chee et al., "QuIP: 2-Bit Quantization of Large
    Language Models With Guarantees", 2023, for the same steps without the inverse.
    """
    w = np.asarray(w)
    if not isinstance(metric, Kronecker):
        rows = w.reshape(-1, w.shape[-1])
        return round_row(rows, np.arange(len(rows))).reshape(w.shape)
    parts = metric.split(w)
    out = np.empty(parts.shape, w.dtype if w.dtype.kind == "f" else "float64")
    for rows, rounded in by_blocks(w, round_row, metric, no_worse):
        out[:, rows] = rounded
    return metric.join(out, w.shape)


def by_blocks(
    w: np.ndarray, round_row: Callable[..., Any], metric: Kronecker, no_worse: bool = True
) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields each block's slice of the fan-in and its rows, `(G, n, m)`, as `compensate` rounds."""
    parts = metric.split(w)
    for rows, places, A, R in _factors(metric, w.dtype):
        part = parts[:, rows][:, places].astype(R.dtype)

        def round_at(values, i, first=rows.start, places=places):  # values (G, m)
            return np.reshape(round_row(values.reshape(-1), first + places[i]), values.shape)

        plain = None
        if no_worse or not part.all():
            flat = part.swapaxes(0, 1).reshape(len(places), -1)
            plain = round_row(flat, rows.start + places).reshape(part.swapaxes(0, 1).shape)
            plain = plain.swapaxes(0, 1).astype(R.dtype, copy=False)
        # zeros of a pruned kernel, where the form has a zero
        kept = None if plain is None else (part == 0) & (plain == 0)
        with one_thread():
            q = _feed_back(part, round_at, R, kept)
        if no_worse:
            # q^T A q - 2 q^T A w against the same of plain, in one product
            worse = np.sum((q - plain) * (A @ (q + plain - 2 * part)), 1, keepdims=True) > 0
            q = np.where(worse, plain, q)
        found = np.empty_like(q)
        found[:, places] = q
        yield rows, found


def _factors(metric, dtype):
    """`(rows, places in order, A, R)` of each block, so ordered; held by a small metric."""
    single = dtype == "float32"
    if single in metric.factors:
        return metric.factors[single]
    found = (_ordered(*part, single) for part in metric.parts())
    if sum(block.size for block in metric.blocks) * (4 if single else 8) > HELD_BYTES:
        return found
    metric.factors[single] = list(found)
    return metric.factors[single]


def _ordered(rows, A, H, single):
    importance = np.diagonal(A, axis1=1, axis2=2).mean(0)
    places = np.argsort(-importance, kind="stable")
    R = _upper(H[:, places[:, None], places])
    if single or len(places) >= SINGLE_PRECISION_FROM:
        A, R = A.astype("float32"), R.astype("float32")
    return rows, places, A[:, places[:, None], places], R


def _upper(H):
    """The unit upper triangular `R` of `H = R D R^T`."""
    with one_thread():
        R = np.linalg.cholesky(H[:, ::-1, ::-1])[:, ::-1, ::-1]
    return R / np.diagonal(R, axis1=1, axis2=2)[:, None, :]


def _feed_back(w, round_at, R, kept):
    """Rounds `w (G, n, m)` down the rows, each absorbing the errors of those before it.

    What is `kept` stays zero.
    """
    q, e = np.empty_like(w), np.zeros_like(w)
    pruned = np.zeros(w.shape[1], bool) if kept is None else kept.any(2).any(0)  # rows
    for start in range(0, w.shape[1], ROWS_AT_A_TIME):
        stop = min(start + ROWS_AT_A_TIME, w.shape[1])
        target = w[:, start:stop] + transposed(R[:, :start, start:stop]) @ e[:, :start]
        earlier = np.ascontiguousarray(transposed(R[:, start:stop, start:stop]))[:, :, None]
        for i in range(start, stop):
            k = i - start
            row = target[:, k]
            if k:
                row += (earlier[:, k, :, :k] @ e[:, start:i])[:, 0]
            rounded = round_at(row, i)
            q[:, i] = np.where(kept[:, i], 0, rounded) if pruned[i] else rounded
            np.subtract(w[:, i], q[:, i], out=e[:, i])
    return q
