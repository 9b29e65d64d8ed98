"""Kernels whose entries are indices into a short list of numbers: weight clustering."""

import math
from typing import Any, TypedDict, Unpack

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.arguments import ConvArguments, LayerArguments
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.dense_and_conv import (
    CompressedConv1D,
    CompressedConv2D,
    CompressedDense,
)
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.ordinary import from_rows, to_rows
from tfcompress.layers.shared.lookup import gather
from tfcompress.numerics.compensated_rounding import compensate
from tfcompress.numerics.k_means import k_means, nearest
from tfcompress.numerics.low_rank import least_squares
from tfcompress.numerics.metric import Diagonal, as_metric
from tfcompress.numerics.optimal_brain_surgeon import sparsify
from tfcompress.numerics.selection import lowest
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.checks import check_sparsity, whole_number
from tfcompress.utils.types import Metric, SecondOrder, Shape, Size, Tensor

ROUNDS = 8  # of compensated rounding and least-squares centroids


class CodebookOptions(TypedDict, total=False):
    """The options that `using` takes."""

    size: int
    sparsity: float


class CodebookKernel(CompressedLayer):
    """Weights that are entries of a codebook.

        V[i, j] = c[z(i, j)],   c[0] = 0,   dL/dc[k] = sum over z(i, j) = k of dL/dV[i, j]

    The indices `z` are fixed once the layer is made; the centroids `c` are trained, all but the
    first, so that zeros (pruned weights) stay zeros.

    Cost: `ceil(log2 size)` bits per weight and `32 size` bits; the MACs of the ordinary layer.

    Args:
        size: entries of the codebook, the zero included, from 2 to 256.
        sparsity: share of the weights that `from_layer` prunes before it clusters, in [0, 1), as
            Deep Compression does. `bits` counts all indices alike; an archive spends few bits on
            zeros.
        Others: as in the ordinary layer.

    `from_layer` clusters the weights by k-means, weighted by a diagonal metric. With a Kronecker
    metric, rounds of compensated rounding and of least-squares centroids follow. `sparsity` removes
    the weights with the least `d w^2`, or in a Kronecker metric those that Optimal Brain Surgeon
    chooses, which also moves the others. A layer that is not made from a trained one draws its
    indices at random.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.CodebookDense(64, size=16)
    >>> layer.build((None, 128))
    >>> layer.bits  # 128 * 64 indices of 4 bits and 16 numbers
    33280

    Reference: Han et al., "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
    Quantization and Huffman Coding", 2016. There k-means counts all weights the same.
    """

    options = ("size", "sparsity")

    def __init__(self, *args: Any, size: int = 16, sparsity: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_sparsity(sparsity)
        self.sparsity = float(sparsity)
        self.size = whole_number(size, "size", 2, 256)

    @classmethod
    def using(cls, **options: Unpack[CodebookOptions]) -> Maker:
        return super().using(**options)

    def build_kernel(self, shape: Shape) -> None:
        limit = math.sqrt(3 * self.variance(shape))
        spread = np.linspace(-limit, limit, self.size - 1, dtype="float32")
        self.add_part("centroids", spread.shape, lambda shape, dtype: ops.cast(spread, dtype))
        self.add_part("indices", shape, self._random_indices, dtype="uint8", trainable=False)

    def _random_indices(self, shape, dtype):
        return ops.cast(keras.random.randint(shape, 0, self.size), dtype)

    @property
    def codebook(self) -> Tensor:
        """The entries of the codebook, the zero first."""
        return ops.pad(ops.convert_to_tensor(self.parts["centroids"]), [[1, 0]])

    @property
    def kernel(self) -> Tensor:
        return gather(self.codebook, ops.cast(self.parts["indices"], "int32"))

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        metric, shape = as_metric(metric, w.shape, self.scale_axes), w.shape
        w = to_rows(np.asarray(w, "float64"), self.scale_axes)
        if isinstance(metric, Diagonal):
            metric = Diagonal(to_rows(metric.d, self.scale_axes))
        d = metric.diagonal(w.shape)
        if self.sparsity and isinstance(metric, Diagonal):
            gone = lowest((d * w**2).ravel(), round(self.sparsity * w.size))
            w = np.where(gone.reshape(w.shape), 0, w)
        elif self.sparsity:
            w = sparsify(w, metric, self.sparsity)
        # Zeros take no part: entry 0 holds them exactly.
        codebook = k_means(w[w != 0], d[w != 0], self.size)
        indices = np.where(w == 0, 0, nearest(codebook, w))
        if not isinstance(metric, Diagonal):
            indices, codebook = fit_compensated(w, indices, codebook, metric)
        indices = from_rows(indices.astype("uint8"), shape, self.scale_axes)
        self.restore({"indices": indices, "codebook": codebook})

    def stored(self) -> dict[str, np.ndarray]:
        return {
            "indices": to_numpy(self.parts["indices"]),
            "codebook": to_numpy(self.codebook),
        }

    def restore(self, stored: dict[str, np.ndarray]) -> None:
        self._check_stored(stored, ["codebook", "indices"])
        self.parts["indices"].assign(stored["indices"])
        self.parts["centroids"].assign(stored["codebook"][1:])


@keras.saving.register_keras_serializable("tfcompress")
class CodebookDense(CodebookKernel, CompressedDense):
    __doc__ = "Dense with clustered weights. " + CodebookKernel.__doc__

    def __init__(
        self, units: int, *, size: int = 16, sparsity: float = 0.0, **kwargs: Unpack[LayerArguments]
    ) -> None:
        super().__init__(units, size=size, sparsity=sparsity, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class CodebookConv1D(CodebookKernel, CompressedConv1D):
    __doc__ = "Conv1D with clustered weights. " + CodebookKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        size: int = 16,
        sparsity: float = 0.0,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(
            filters, kernel_size, strides, padding, size=size, sparsity=sparsity, **kwargs
        )


@keras.saving.register_keras_serializable("tfcompress")
class CodebookConv2D(CodebookKernel, CompressedConv2D):
    __doc__ = "Conv2D with clustered weights. " + CodebookKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        size: int = 16,
        sparsity: float = 0.0,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(
            filters, kernel_size, strides, padding, size=size, sparsity=sparsity, **kwargs
        )


def fit_compensated(
    w: np.ndarray, indices: np.ndarray, codebook: np.ndarray, metric: SecondOrder
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and codebook after rounds of compensated rounding and least-squares centroids."""
    zeros = (w == 0).reshape(metric.fan_in, -1)

    def round_row(row, place):
        return np.where(zeros[place], 0, codebook[nearest(codebook, row)])

    # A round can raise the form, so the best one is kept.
    best = metric.quadratic(w - codebook[indices]), indices, codebook
    for _ in range(ROUNDS):
        rounded = compensate(w, round_row, metric)
        indices = np.where(w == 0, 0, nearest(codebook, rounded))
        codebook = _centroids(w, indices, codebook, metric)
        best = min(best, (metric.quadratic(w - codebook[indices]), indices, codebook), key=_first)
    return best[1:]


def _centroids(w, indices, codebook, metric):
    def collect(values):
        return np.bincount(indices.ravel(), values.ravel(), len(codebook))[1:]

    def expand(centroids):
        return np.concatenate([[0], centroids])[indices]

    found = least_squares(metric.apply, expand, collect, w, codebook[1:])
    return np.concatenate([[0], found])


def _first(pair):
    return pair[0]
