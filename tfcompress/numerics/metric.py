"""The metric, by which kernels are near or far: the curvature form `1/2 e^T H e` in two sizes.

It is used offline, once per layer, in NumPy. A kernel is seen as a matrix `(fan_in, out)`, in C
order. Letters: i, j fan-in; o outputs; G groups, each of m = o / G outputs; e = w - w_hat.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfcompress.utils.arrays import transposed
from tfcompress.utils.one_thread import one_thread
from tfcompress.utils.types import Metric, Shape, Tensor

DAMPING = 0.01  # of the mean diagonal of A, as in GPTQ
SINGLE_PRECISION_FROM = 1024  # inputs of a block, in work that repeats over many steps


class Diagonal:
    """A curvature for each weight of a kernel: `1/2 sum d e^2`.

    Args:
        d: an array like the kernel. An exact Hessian can have negative entries; they count as 0.

    Raises:
        ValueError: an entry is NaN or infinite.

    >>> Diagonal([[2.0], [4.0]]).quadratic([[1.0], [1.0]])
    3.0

    Reference: LeCun et al., "Optimal Brain Damage", 1990.
    """

    def __init__(self, d: np.ndarray) -> None:
        self.d = np.maximum(np.asarray(d), 0)
        if not np.isfinite(self.d).all():
            raise ValueError("The curvature has entries that are NaN or infinite.")

    def diagonal(self, shape: Shape | None = None) -> np.ndarray:
        """`d` itself. `shape`, if given, is the kernel's and is checked."""
        if shape is not None and tuple(shape) != self.d.shape:
            raise ValueError(
                f"The curvature must be like the kernel, of shape {tuple(shape)}. "
                f"Received: an array of shape {self.d.shape}"
            )
        return self.d

    def importance(self, shape: Shape) -> np.ndarray:
        """How much a weight counts within its output: `d`."""
        return self.diagonal(shape)

    def apply(self, e: Tensor) -> np.ndarray:
        """`H e = d e`."""
        return self.diagonal(np.shape(e)) * np.asarray(e)

    def quadratic(self, e: Tensor) -> float:
        """`1/2 sum d e^2`, the predicted increase of the loss."""
        return 0.5 * float(np.sum(self.diagonal(np.shape(e)) * np.square(e), dtype="float64"))

    def __repr__(self):
        return f"Diagonal(shape={self.d.shape})"


class Kronecker:
    """A curvature that sees that an output's weights share inputs: `1/2 sum_o g_o e_o^T A e_o`.

    `A` is the second moment of the layer's inputs, and `g` has a scale per output. Within an output
    the scale does not matter: rounding and pruning need `A` alone, and so neither labels nor a
    loss.

    Memory: `G fan_in^2` numbers; `4096 fan_in` in blocks of 4096.

    Args:
        A: symmetric, positive semi-definite. `(fan_in, fan_in)`; or `(G, fan_in, fan_in)` for a
            grouped convolution, whose outputs come in `G` equal runs, each with inputs of its own
            (a depthwise kernel `(h, w, c, m)` is a matrix `(h * w, c * m)` in `c` groups); or a
            list of such arrays: the blocks on the diagonal of a larger `A`, in order.
        g: `(out,)`, or None for ones.
        damping: added to the diagonal of `A` wherever it is factorised, as a share of its mean.
            `quadratic`, `apply` and `diagonal` are not damped.

    Raises:
        ValueError: a block is not square, or not finite, or its groups differ from the others'.

    >>> metric = Kronecker([[2.0, 1.0], [1.0, 2.0]])
    >>> metric.quadratic([[1.0], [-1.0]]), metric.quadratic([[1.0], [1.0]])
    (1.0, 3.0)

    Reference: Martens, Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature", 2015.
    """

    def __init__(
        self,
        A: np.ndarray | Sequence[np.ndarray],
        g: np.ndarray | None = None,
        damping: float = DAMPING,
    ) -> None:
        # A list of lists of numbers is one matrix; a list of matrices is the blocks.
        in_blocks = isinstance(A, (list, tuple)) and np.ndim(A[0]) > 1
        self.blocks = [_block(block) for block in (A if in_blocks else [A])]
        self.groups = len(self.blocks[0])
        if any(len(block) != self.groups for block in self.blocks):
            shapes = [block.shape for block in self.blocks]
            raise ValueError(f"Blocks must have the same number of groups. Received: {shapes}")
        self.fan_in = sum(block.shape[-1] for block in self.blocks)
        self.g = None if g is None else np.asarray(g, "float64").reshape(-1)
        self.damping = damping
        self.factors = {}  # what `compensate` makes of `A` and needs for each kernel, by dtype

    def split(self, w: np.ndarray) -> np.ndarray:
        """The kernel as `(G, fan_in, m)`, a view where possible."""
        w = np.asarray(w)
        self._check_rows(w.shape)
        return w.reshape(self.fan_in, self.groups, -1).transpose(1, 0, 2)

    def join(self, parts: np.ndarray, shape: Shape) -> np.ndarray:
        """The inverse of `split`."""
        return parts.transpose(1, 0, 2).reshape(shape)

    def parts(self) -> list[tuple[Any, ...]]:
        """Yields `(rows, A, H)` of each block: its slice of the fan-in, `A`, and `A` damped."""
        start = 0
        for block in self.blocks:
            A, size = block.astype("float64"), block.shape[-1]
            mean = np.trace(A, axis1=1, axis2=2) / size
            extra = np.where(mean > 0, self.damping * mean, 1.0)  # an input that is always 0
            H = A.copy()
            np.einsum("gii->gi", H)[:] += extra[:, None]
            yield slice(start, start + size), A, H
            start += size

    def scaled(self, w: np.ndarray, power: float = 1.0) -> np.ndarray:
        """`w g^power`, per output."""
        self.check(np.shape(w))
        if self.g is None:
            return np.asarray(w)
        scales = self.g.reshape(self.groups, 1, -1) ** power
        return self.join(self.split(w) * scales, np.shape(w))

    def check(self, shape: Shape) -> None:
        """Raises unless the metric is of kernels of this shape."""
        self._check_rows(shape)
        if self.g is not None and math.prod(shape) != self.fan_in * len(self.g):
            raise ValueError(
                f"The curvature has {len(self.g)} outputs, which does not fit a kernel of shape "
                f"{tuple(shape)}. Measure it on this layer."
            )

    def _check_rows(self, shape):
        size = math.prod(shape)
        rows = [math.prod(shape[: k + 1]) for k in range(len(shape))]
        if size == 0 or size % (self.fan_in * self.groups) or self.fan_in not in rows:
            raise ValueError(
                f"The curvature has {self.fan_in} inputs in {self.groups} group(s), which does "
                f"not fit a kernel of shape {tuple(shape)}. Measure it on this layer."
            )

    def diagonal(self, shape: Shape) -> np.ndarray:
        """`d_io = A_ii g_o`, like a kernel of this shape."""
        A = [np.diagonal(block, axis1=1, axis2=2) for block in self.blocks]
        ones = self.split(np.ones(shape))
        return self.scaled(self.join(ones * np.concatenate(A, 1)[:, :, None], shape))

    def importance(self, shape: Shape) -> np.ndarray:
        """How much a weight counts within its output: `A_ii`, as a column where one suffices."""
        if self.groups > 1:
            return self.diagonal(shape)
        return np.concatenate([np.diagonal(block[0]) for block in self.blocks])[:, None]

    def apply(self, e: Tensor) -> np.ndarray:
        """`H e = A e g`, like the kernel; in single precision if `e` is."""
        e = np.asarray(e)
        parts = self.split(e)
        dtype = e.dtype if e.dtype == "float32" else "float64"
        out, start = np.empty(parts.shape, e.dtype if e.dtype.kind == "f" else dtype), 0
        for block in self.blocks:
            rows = slice(start, start := start + block.shape[-1])
            out[:, rows] = block.astype(dtype, copy=False) @ parts[:, rows].astype(dtype)
        return self.scaled(self.join(out, e.shape))

    def quadratic(self, e: Tensor) -> float:
        """`1/2 sum_o g_o e_o^T A e_o`, the predicted increase of the loss."""
        return 0.5 * float(np.vdot(np.asarray(e, "float64"), self.apply(e)))

    def solve(self, w: np.ndarray) -> np.ndarray:
        """`A^-1 w`, damped, for any number of columns; the output scales are not used."""
        return self._by_rows(lambda A, H, part: inverter(H)(part), w)

    def whiten(self, w: np.ndarray) -> np.ndarray:
        """`L^T w` with `A = L L^T`, damped, for any number of columns.

        In these coordinates the form is a sum of squares (times `g`), so that the best low rank is
        an ordinary truncated SVD: `unwhiten(svd(whiten(w)))`, or `unwhiten` of its left factor.
        """
        return self._by_rows(lambda A, H, part: transposed(np.linalg.cholesky(H)) @ part, w)

    def damped(self, w: np.ndarray) -> np.ndarray:
        """`A w`, damped, for any number of columns; the output scales are not used."""
        return self._by_rows(lambda A, H, part: H @ part, w)

    def unwhiten(self, w: np.ndarray) -> np.ndarray:
        """The inverse of `whiten`."""
        return self._by_rows(
            lambda A, H, part: np.linalg.solve(transposed(np.linalg.cholesky(H)), part), w
        )

    def _by_rows(self, function, w):
        """`function(A, H, rows of w)` for each block, in double precision, like `w`."""
        w = np.asarray(w)
        parts = self.split(w)
        out = np.empty(parts.shape, w.dtype if w.dtype.kind == "f" else "float64")
        for rows, A, H in self.parts():
            out[:, rows] = function(A, H, parts[:, rows].astype("float64"))
        return self.join(out, w.shape)

    def __repr__(self):
        sizes = [block.shape[-1] for block in self.blocks]
        return f"Kronecker(blocks={sizes}, groups={self.groups}, g={self.g is not None})"


def inverter(H: np.ndarray, dtype: str | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """A function that gives `H^-1 b` for `b (G, n, m)`, by Cholesky's factors.

    Args:
        H: symmetric and positive definite, `(G, n, n)`. A single matrix may be overwritten.
        dtype: in which it is used, where that is not the one in which it is factorised.
    """
    dtype = dtype or H.dtype
    if len(H) > 1:  # many small ones
        inverse = np.linalg.inv(H).astype(dtype)
        return lambda b: inverse @ b
    import scipy.linalg

    with one_thread():
        factor, lower = scipy.linalg.cho_factor(H[0].T, overwrite_a=True, check_finite=False)
    factor = factor.astype(dtype, copy=False), lower
    return lambda b: scipy.linalg.cho_solve(factor, b[0], check_finite=False)[None]


def as_metric(
    metric: Metric, shape: Shape, output_axes: tuple[int, ...] = (-1,)
) -> Diagonal | Kronecker:
    """A `Diagonal` or `Kronecker` for a kernel of this shape, from what users pass.

    Args:
        metric: `Diagonal`, `Kronecker`, an array like the kernel, or None for plain distance.
        shape: shape of the kernel.
        output_axes: the axes of the kernel along which its outputs lie.

    Raises:
        ValueError: the metric is one of other kernels.
    """
    if metric is None:
        return Diagonal(np.ones(shape, "float32"))
    if not isinstance(metric, (Diagonal, Kronecker)):
        metric = Diagonal(metric)
    if isinstance(metric, Diagonal):
        metric.diagonal(shape)
    else:
        outputs = math.prod(shape[axis] for axis in output_axes)
        metric.check((math.prod(shape) // max(outputs, 1), outputs))
    return metric


def _block(a):
    a = np.asarray(a)
    a = a[None] if a.ndim == 2 else a
    if a.ndim != 3 or a.shape[1] != a.shape[2]:
        raise ValueError(
            "A block of `A` must be square, (n, n) or (groups, n, n). "
            f"Received: an array of shape {a.shape}"
        )
    if not np.isfinite(a).all():
        raise ValueError("`A` has entries that are NaN or infinite.")
    return a
