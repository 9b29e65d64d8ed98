"""Weight sharing by the hashing trick."""

import math

import keras
import numpy as np
from keras import ops

from ..hashing import signed_codes
from .base import CompressedLayer
from .forms import CompressedDense, positive_int
from .ordinary import glorot_variance, to_numpy
from .sharing import fit_shared


class HashedKernel(CompressedLayer):
    """Weights that share few real ones, chosen by a hash of their position.

        V[i, j] = xi(i, j) * w[h(i, j)],   dL/dw[k] = sum over h(i, j) = k of xi(i, j) dL/dV[i, j]

    `h` and the sign `xi` come from `tfcompress.hashing.signed_codes` over the position in `(o, i)`
    order and the seed. The index is made again from the seed and is in no saved file; in memory
    it takes 4 bytes per virtual weight, up to 2^28 of them.

    Cost: `32 K` bits, `K = ceil(i * o / ratio)`; the MACs of the ordinary layer. Hashing saves
    memory, not time.

    Args:
        ratio: virtual weights per real weight, at least 1.
        buckets: the number K of real weights, instead of `ratio`.
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

    Reference: W. Chen, J. T. Wilson, S. Tyree, K. Q. Weinberger, Y. Chen, "Compressing Neural
    Networks with the Hashing Trick", 2015. There the hash is xxHash; here it is one that LiteRT's
    builtin int32 operators can compute.
    """

    options = ("ratio", "buckets", "seed")

    def __init__(self, *args, ratio=16, buckets=None, seed=0, **kwargs):
        super().__init__(*args, **kwargs)
        if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not ratio >= 1:
            raise ValueError(f"`ratio` must be a number of at least 1. Received: ratio={ratio!r}")
        self.ratio = ratio
        self.buckets = None if buckets is None else positive_int(buckets, "buckets")
        self.seed = int(seed)

    def build_kernel(self, shape):
        count = math.prod(shape)
        self.buckets = self.buckets or math.ceil(count / self.ratio)
        codes = signed_codes(count, self.buckets, self.seed)
        codes = np.moveaxis(codes.reshape(shape[-1], *shape[:-1]), 0, -1)
        # Held outside Keras' tracking: neither a weight of the layer nor saved with it.
        index = keras.Variable(
            lambda shape, dtype: ops.convert_to_tensor(codes), shape, "int32", trainable=False
        )
        object.__setattr__(self, "_index", index)
        limit = math.sqrt(3 * glorot_variance(shape))
        self.add_part("bank", (self.buckets,), keras.initializers.RandomUniform(-limit, limit))

    @property
    def kernel(self):
        bank = ops.convert_to_tensor(self.parts["bank"])
        return gather(ops.concatenate([bank, -bank]), self._index.value)

    def fit_kernel(self, w, metric=None):
        codes = to_numpy(self._index)
        signs = np.where(codes < self.buckets, 1.0, -1.0)
        bank = fit_shared(w, codes % self.buckets, signs, self.buckets, metric)
        self.parts["bank"].assign(bank)

    @property
    def prunable(self):
        return [self.parts["bank"]]


def gather(table, index):
    """`table[index]`, with a segment sum as its gradient instead of a scatter."""

    @ops.custom_gradient
    def take(table):
        def gradient(*args, upstream=None):
            upstream = ops.reshape(args[0] if upstream is None else upstream, [-1])
            return ops.segment_sum(upstream, ops.reshape(index, [-1]), table.shape[0])

        return ops.take(table, index), gradient

    return take(table)


@keras.saving.register_keras_serializable("tfcompress")
class HashedDense(HashedKernel, CompressedDense):
    __doc__ = "Dense with hashed weights. " + HashedKernel.__doc__
