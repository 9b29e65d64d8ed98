"""Decompositions of a kernel made by other packages."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.factorized.conv_chain import ConvChain
from tfcompress.numerics.cp import balance
from tfcompress.utils.types import Config, Metric, Shape

Decomposition = Callable[..., Any]  # called with an array and a rank


class DecomposedChain(ConvChain):
    """A chain whose kernel may be decomposed by a function of another package.

    Args:
        fit: called with the kernel, a float64 array, and the rank; None for the layer's own
            decomposition. It is not saved: only `fit_kernel` uses it. What it finds is kept as it
            is, whatever the metric, so that its signs and zeros stay.
    """

    def __init__(self, *args: Any, fit: Decomposition | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if fit is not None and not callable(fit):
            raise TypeError(
                "`fit` must be a function of an array and a rank, such as "
                f"`tensorly.decomposition.parafac`. Received: fit={fit!r}"
            )
        self.fit = fit

    @classmethod
    def from_layer(
        cls,
        layer: Any,
        metric: Metric = None,
        kernel: np.ndarray | None = None,
        **options: Any,
    ) -> CompressedLayer:
        if options.get("fit") is not None and getattr(layer, "kernel_size", None) == (1, 1):
            raise ValueError(
                f"{cls.__name__} cannot take layer {layer.name!r} with `fit`: its 1x1 kernel is a "
                "matrix. Use LowRankConv2D."
            )
        return super().from_layer(layer, metric, kernel, **options)

    @classmethod
    def resolve(
        cls, shape: Shape, *args: Any, fit: Decomposition | None = None, **options: Any
    ) -> Config:
        return super().resolve(shape, *args, **options) | ({} if fit is None else {"fit": fit})

    @property
    def form(self) -> dict:
        return {name: value for name, value in super().form.items() if name != "fit"}

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        super().fit_kernel(w, metric if self.fit is None else None)


def cp_factors(found: Any, shape: Shape, rank: int) -> list[np.ndarray]:
    """The factors of a CP decomposition `(weights, factors)`, the weights in the last of them.

    Args:
        found: as the functions of tensorly return it, with its errors or without.
        shape: of the array that was decomposed.
        rank: the number of components.

    Raises:
        ValueError: the decomposition is of another kind or size, or has values that are not finite.

    >>> ones = [np.ones((2, 1)), np.ones((3, 1))]
    >>> [factor.tolist() for factor in cp_factors((np.array([2.0]), ones), (2, 3), 1)]
    [[[1.0], [1.0]], [[2.0], [2.0], [2.0]]]
    """
    weights, factors = _pair(found, "CP")
    arrays = [np.array(factor, np.float64) for factor in factors]
    if [a.shape for a in arrays] != [(n, rank) for n in shape]:
        raise ValueError(
            f"Expected a CP decomposition of rank {rank} of an array of shape {tuple(shape)}. "
            f"Received: factors of shapes {[a.shape for a in arrays]}"
        )
    if weights is not None:
        arrays[-1] = arrays[-1] * np.asarray(weights, np.float64)
    return _finite(arrays)


def balanced_cp_factors(found: Any, shape: Shape, rank: int) -> list[np.ndarray]:
    """The same with the norm of each component spread evenly over its factors."""
    return balance(cp_factors(found, shape, rank))


def tucker_parts(found: Any, shape: Shape, ranks: Sequence[int]) -> list[np.ndarray]:
    """The parts `(i, p), (h, w, p, q), (o, q)` of a Tucker decomposition `(core, factors)`.

    Args:
        found: as the functions of tensorly return it, with its errors or without; of all four axes
            of a kernel `(h, w, i, o)`, whose factors of height and width are multiplied into the
            core, or of its last two.
        shape: of the kernel.
        ranks: p and q.

    Raises:
        ValueError: as for `cp_factors`.
    """
    core, factors = _pair(found, "Tucker")
    core, *arrays = (np.array(array, np.float64) for array in (core, *factors))
    *space, inputs, outputs = arrays if len(arrays) in (2, 4) else [core] * 2
    for axis, factor in enumerate(space):
        if factor.ndim == 2 and factor.shape[1] == core.shape[axis]:
            core = np.moveaxis(np.tensordot(factor, core, (1, axis)), 0, axis)
    expected = [(n, r) for n, r in zip(shape[2:], ranks, strict=True)] + [(*shape[:2], *ranks)]
    if [a.shape for a in (inputs, outputs, core)] != expected:
        raise ValueError(
            f"Expected a Tucker decomposition of ranks {tuple(ranks)} of the channels of a kernel "
            f"of shape {tuple(shape)}: of its last two axes, or of all four. Received: a core of "
            f"shape {np.shape(core)} and factors of shapes {[a.shape for a in arrays]}"
        )
    return _finite([inputs, core, outputs])


def _pair(found, kind):
    """The two parts of a decomposition, without the list of errors that may follow it."""
    if not _has_factors(found) and isinstance(found, tuple) and len(found) == 2:
        found, errors = found
        found = found if isinstance(errors, list) and not any(map(np.ndim, errors)) else None
    if not _has_factors(found):
        raise ValueError(
            f"`fit` must return a {kind} decomposition: a pair with a list of factors, which may "
            "be followed by a list of errors, and by nothing else that the kernel is made of."
        )
    return found


def _has_factors(found):
    try:
        _, factors = found
        return not hasattr(factors, "shape") and {np.ndim(factor) for factor in factors} == {2}
    except (TypeError, ValueError):
        return False


def _finite(arrays):
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("The decomposition of the kernel has values that are not finite.")
    return arrays
