"""Saliencies: how much each weight of a kernel matters. The lowest scores are pruned first.

A score is any callable `(w, d) -> array like w`, where `d` is the curvature of the loss, like `w`,
or None. Pruners take equal scores in the order of their index, so that pruning is deterministic.
"""

import zlib
from collections.abc import Callable
from typing import Any, Self

import keras
import numpy as np

from tfcompress.utils.checks import is_whole
from tfcompress.utils.types import Config, Score, Tensor


@keras.saving.register_keras_serializable("tfcompress")
def magnitude(w: Tensor, d: Tensor = None) -> Tensor:
    """`|w|`: small weights go first.

    >>> magnitude(np.array([1.0, -2.0])).tolist()
    [1.0, 2.0]
    """
    return np.abs(w)


@keras.saving.register_keras_serializable("tfcompress")
def obd(w: Tensor, d: Tensor) -> Tensor:
    """`d w^2 / 2`, by how much the loss rises when this weight alone is removed.

    >>> obd(np.array([1.0, -2.0]), np.array([4.0, 0.5])).tolist()
    [2.0, 1.0]

    Reference: LeCun et al., "Optimal Brain Damage", 1990.
    """
    if d is None:
        raise ValueError('The score "obd" needs the curvature of the loss: give `data`.')
    return np.asarray(d) * np.square(w) / 2


@keras.saving.register_keras_serializable("tfcompress")
def random(w: Tensor, d: Tensor = None) -> Tensor:
    """Uniform in [0, 1), the same each time for the same weights: what other scores must beat."""
    w = np.ascontiguousarray(w)
    drawn = np.random.default_rng(zlib.crc32(w.tobytes())).random(w.shape)
    return np.where(w == 0, 0.0, drawn)  # a weight that is pruned stays pruned


def block(score: Score, shape: tuple[int, int]) -> Callable[..., Any]:
    """A score that prunes whole blocks: each weight gets the mean score of its block.

    The kernel is seen as a matrix `(fan_in, out)`, as by `m_by_n`, and cut into blocks from its
    first entry on; those at the far edges may be smaller. At most one block is pruned in part: the
    one in which the sparsity is reached.

    Args:
        score: `"magnitude"`, `"obd"`, `"random"` or a callable `(w, d)`.
        shape: `(rows, columns)` of a block.

    >>> block("magnitude", (1, 2))(np.array([[1.0, 3.0, 5.0]])).tolist()
    [[2.0, 2.0, 5.0]]
    """
    return Block(score, shape)


def m_by_n(score: Score, m: int, n: int) -> Callable[..., Any]:
    """A score for the m : n pattern: of `n` consecutive weights, the best `m` cannot be pruned.

    Consecutive means along the fan-in of one output, as sparse hardware needs it. The last axis of
    an array counts the outputs; pruners turn kernels that have them elsewhere, as those of
    transposed convolutions and attention. At a sparsity of `1 - m / n` exactly `m` of each `n` are
    left. If `n` does not divide the fan-in, the last weights keep their best `m` as well.

    Args:
        score: `"magnitude"`, `"obd"`, `"random"` or a callable `(w, d)`.
        m: how many of each `n` weights stay.
        n: how many consecutive weights make one group.

    >>> m_by_n("magnitude", 1, 2)(np.array([[1.0], [3.0], [5.0], [2.0]])).ravel().tolist()
    [1.0, inf, inf, 2.0]

    Reference: Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021.
    """
    return MByN(score, m, n)


@keras.saving.register_keras_serializable("tfcompress")
class Block:
    """What `block` returns."""

    def __init__(self, score: Score, shape: tuple[int, int]) -> None:
        self.score = get(score)
        self.shape = tuple(shape) if np.iterable(shape) else (shape,)
        if len(self.shape) != 2 or not all(is_whole(size) for size in self.shape):
            raise ValueError(
                f"`shape` must be a pair of positive whole numbers. Received: shape={shape!r}"
            )

    def __call__(self, w: Tensor, d: Tensor = None) -> Tensor:
        scores = np.asarray(self.score(w, d), "float64")
        matrix = scores.reshape(-1, scores.shape[-1])
        rows, columns = (np.arange(0, s, b) for s, b in zip(matrix.shape, self.shape, strict=True))
        sizes = [np.diff([*at, s]) for at, s in zip((rows, columns), matrix.shape, strict=True)]
        # Sums over the rows of each block, then over its columns; blocks at the edges are smaller.
        sums = np.add.reduceat(np.add.reduceat(matrix, rows, 0), columns, 1)
        means = sums / np.multiply.outer(*sizes)
        return means.repeat(sizes[0], 0).repeat(sizes[1], 1).reshape(scores.shape)

    def get_config(self) -> Config:
        score = keras.saving.serialize_keras_object(self.score)
        return {"score": score, "shape": list(self.shape)}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(keras.saving.deserialize_keras_object(config["score"]), config["shape"])


@keras.saving.register_keras_serializable("tfcompress")
class MByN:
    """What `m_by_n` returns."""

    def __init__(self, score: Score, m: int, n: int) -> None:
        self.score, self.m, self.n = get(score), m, n
        if not (is_whole(m) and is_whole(n) and m < n):
            raise ValueError(f"Expected whole numbers 0 < m < n. Received: m={m!r}, n={n!r}")

    def __call__(self, w: Tensor, d: Tensor = None) -> Tensor:
        scores = np.asarray(self.score(w, d), "float64")
        matrix = scores.reshape(-1, scores.shape[-1])
        # The last group is filled up with what never is among the best.
        padded = np.pad(matrix, ((0, -len(matrix) % self.n), (0, 0)), constant_values=-np.inf)
        rows = padded.reshape(-1, self.n, matrix.shape[1])
        best = np.argsort(rows, axis=1, kind="stable")[:, self.n - self.m :]
        np.put_along_axis(rows, best, np.inf, axis=1)
        return padded[: len(matrix)].reshape(scores.shape)

    def get_config(self) -> Config:
        score = keras.saving.serialize_keras_object(self.score)
        return {"score": score, "m": self.m, "n": self.n}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(keras.saving.deserialize_keras_object(config["score"]), config["m"], config["n"])


def get(score: Score) -> Callable[..., Any]:
    """The callable of a name, or the callable itself."""
    named = {"magnitude": magnitude, "obd": obd, "random": random}
    if isinstance(score, str) and score in named:
        return named[score]
    if not callable(score):
        raise ValueError(
            f"A score is one of {list(named)} or a callable `(w, d)`. Received: {score!r}"
        )
    return score
