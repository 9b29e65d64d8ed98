"""Weight sharing by the hashing trick."""

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
from tfcompress.layers.shared.fitting import fit_shared
from tfcompress.layers.shared.lookup import HashIndex, gather
from tfcompress.numerics.hashing import check_codes, signed_codes
from tfcompress.utils.checks import check_integer, is_number, positive_int
from tfcompress.utils.types import Metric, Shape, Size, Tensor


class HashedOptions(TypedDict, total=False):
    """The options that `using` takes."""

    ratio: float
    buckets: int | None
    blocks: int
    seed: int


class HashedKernel(CompressedLayer):
    """Weights that share few real ones, chosen by a hash of their position.

        V[i, j] = xi(i, j) * w[h(i, j)],   dL/dw[k] = sum over h(i, j) = k of xi(i, j) dL/dV[i, j]

    The entries of V are the virtual weights, those of w the real ones. `h` and the sign `xi` are
    `tfcompress.numerics.hashing.signed_codes` of the seed and the position in `(o, *space, i)`
    order. With `blocks=B`, runs of B consecutive weights share one hash and one sign, and the real
    weights come in runs of B too.

    No saved file holds the index, be it `.keras` or SavedModel: the seed makes it again. In memory
    it takes 4 bytes per run of virtual weights, `4 i o / B`, for up to 2^28 runs. A training step
    also holds the whole kernel and its gradient, as that of the ordinary layer does.

    Cost: `32 K` bits, `K = ceil(i * o / ratio)` (whole runs); the MACs of the ordinary layer.
    Hashing saves memory, not time: docs/structured-benchmark.md tells how long a training step is.

    Args:
        ratio: virtual weights per real weight, at least 1.
        buckets: the number K of real weights, instead of `ratio`.
        blocks: B, how many consecutive weights share one hash; a larger B is faster.
        seed: an int; give layers of one size different seeds.
        Others: as in the ordinary layer.

    `from_layer` takes the signed mean of each bucket, weighted by a diagonal metric; with a
    Kronecker metric, the least-squares solution by conjugate gradients.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.HashedDense(64, ratio=16)
    >>> layer.build((None, 128))
    >>> layer.bits // 32  # real weights
    512

    Reference: Chen et al., "Compressing Neural Networks with the Hashing Trick", 2015. There the
    hash is xxHash; here it is one that LiteRT's builtin int32 operators can compute. For the runs
    Desai et al., "Random Offset Block Embedding Array (ROBE) for CriteoTB Benchmark MLPerf DLRM
    Model", 2021. There a run of real weights starts anywhere; here at a multiple of B.
    """

    options = ("ratio", "buckets", "blocks", "seed")

    def __init__(
        self,
        *args: Any,
        ratio: float = 16,
        buckets: int | None = None,
        blocks: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not is_number(ratio) or not ratio >= 1:
            raise ValueError(f"`ratio` must be a number of at least 1. Received: ratio={ratio!r}")
        self.ratio = ratio
        self.buckets = None if buckets is None else positive_int(buckets, "buckets")
        self.blocks = positive_int(blocks, "blocks")
        if self.buckets and self.buckets % self.blocks:
            raise ValueError(
                "`buckets` must be whole runs of `blocks` weights. Received: "
                f"buckets={buckets}, blocks={blocks}"
            )
        self.seed = check_integer(seed, "seed")

    @classmethod
    def using(cls, **options: Unpack[HashedOptions]) -> Maker:
        return super().using(**options)

    def build_kernel(self, shape: Shape) -> None:
        # `buckets` is a multiple of `blocks`: real weights come in whole runs.
        whole_runs = math.ceil(math.prod(shape) / (self.ratio * self.blocks))
        self.buckets = self.buckets or self.blocks * whole_runs
        self._shape = (shape[-1], *shape[:-1])  # outputs first, so that a run stays within one
        self._made_index = None
        check_codes(*self._hashed()[:2])
        limit = math.sqrt(3 * self.variance(shape))
        self.add_part("bank", (self.buckets,), keras.initializers.RandomUniform(-limit, limit))

    @property
    def derived_bytes(self) -> int:
        return 4 * self._hashed()[0]

    @property
    def _index(self):
        """Made at its first use: a layer that is only looked at allocates nothing."""
        if self._made_index is None:
            self._made_index = HashIndex(*self._hashed())
        return self._made_index

    def _hashed(self):
        """How many runs there are, how many of them are real, and the seed."""
        return -(-math.prod(self._shape) // self.blocks), self.buckets // self.blocks, self.seed

    @property
    def kernel(self) -> Tensor:
        return ops.moveaxis(self.rows(), 0, -1)

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        kernel = ops.moveaxis(self.rows(training), 0, -1)
        return self.multiply(x, ops.cast(kernel, self.compute_dtype))

    def rows(self, training: bool | None = None) -> Tensor:
        """The kernel as `(o, *space, i)`, the order of its runs."""
        bank = ops.convert_to_tensor(self.parts["bank"])
        bank = ops.reshape(bank, (-1, self.blocks)) if self.blocks > 1 else bank
        runs = gather(ops.concatenate([bank, -bank]), self._index.read(), training)
        flat, count = ops.reshape(runs, [-1]), math.prod(self._shape)
        return ops.reshape(flat[:count] if count % self.blocks else flat, self._shape)

    def codes(self) -> np.ndarray:
        """The place of each weight in `concatenate([bank, -bank])`, as `(o, *space, i)`."""
        runs = signed_codes(*self._hashed())[:, None]
        codes = runs * np.int32(self.blocks) + np.arange(self.blocks, dtype=np.int32)
        return codes.ravel()[: math.prod(self._shape)].reshape(self._shape)

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        codes = np.moveaxis(self.codes(), 0, -1)
        signs = np.where(codes < self.buckets, 1.0, -1.0)
        bank = fit_shared(w, codes % self.buckets, signs, self.buckets, metric)
        self.parts["bank"].assign(bank)

    @property
    def prunable(self) -> list[keras.Variable]:
        return [self.parts["bank"]]


@keras.saving.register_keras_serializable("tfcompress")
class HashedDense(HashedKernel, CompressedDense):
    __doc__ = "Dense with hashed weights. " + HashedKernel.__doc__

    def __init__(
        self,
        units: int,
        *,
        ratio: float = 16,
        buckets: int | None = None,
        blocks: int = 1,
        seed: int = 0,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(units, ratio=ratio, buckets=buckets, blocks=blocks, seed=seed, **kwargs)

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        # Straight from the rows: `kernel` would transpose them in each step.
        lead, rows = ops.shape(x)[:-1], ops.cast(self.rows(training), self.compute_dtype)
        y = ops.einsum("bi,oi->bo", ops.reshape(x, (-1, x.shape[-1])), rows)
        return ops.reshape(y, (*lead, self.units))


@keras.saving.register_keras_serializable("tfcompress")
class HashedConv1D(HashedKernel, CompressedConv1D):
    __doc__ = "Conv1D with hashed weights. " + HashedKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        ratio: float = 16,
        buckets: int | None = None,
        blocks: int = 1,
        seed: int = 0,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            ratio=ratio,
            buckets=buckets,
            blocks=blocks,
            seed=seed,
            **kwargs,
        )


@keras.saving.register_keras_serializable("tfcompress")
class HashedConv2D(HashedKernel, CompressedConv2D):
    __doc__ = "Conv2D with hashed weights. " + HashedKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        *,
        ratio: float = 16,
        buckets: int | None = None,
        blocks: int = 1,
        seed: int = 0,
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            ratio=ratio,
            buckets=buckets,
            blocks=blocks,
            seed=seed,
            **kwargs,
        )
