"""A convolution between fewer channels, from a Tucker decomposition of its kernel."""

import math

import keras

from ..factorize import energy_rank, tucker
from .chain import ConvChain, Stage
from .low_rank import check_rank


@keras.saving.register_keras_serializable("tfcompress")
class TuckerConv2D(ConvChain):
    """Conv2D as a 1x1 convolution to p channels, a k x k one to q, and a 1x1 one.

        V[h, w, i, o] = sum_pq a[i, p] core[h, w, p, q] b[q, o]

    Cost: `32 (i p + h w p q + o q)` bits; `i p` MACs per input position and `h w p q + q o` per
    output position.

    Args:
        filters, kernel_size, strides, padding, dilation_rate: as in `keras.layers.Conv2D`. No
            groups.
        rank: a pair (p, q) of ints; an int for both; a float in (0, 1), the share of the ordinary
            kernel's parameters, with `p / i = q / o`; or `"auto"`, the channels that keep 90% of
            the energy of a trained kernel. It is saved as the pair.
        Others: as in `keras.layers.Conv2D`.

    Shapes: inputs `(b, h, w, i)`, outputs `(b, h', w', o)`.

    `from_layer` decomposes the kernel by higher-order orthogonal iteration; with a Kronecker metric
    it is refined in it.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.TuckerConv2D(64, 3, rank=(8, 16))
    >>> layer.build((None, 28, 28, 32))
    >>> layer.bits // 32  # 32 * 8 + 9 * 8 * 16 + 64 * 16
    2432

    Reference: Y.-D. Kim, E. Park, S. Yoo, T. Choi, L. Yang, D. Shin, "Compression of Deep
    Convolutional Neural Networks for Fast and Low Power Mobile Applications", 2016. There the ranks
    come from variational Bayesian matrix factorisation.
    """

    options = ("rank",)
    expression = "ip,hwpq,qo->hwio"

    def __init__(self, filters, kernel_size, *args, rank, **kwargs):
        super().__init__(filters, kernel_size, *args, **kwargs)
        pair = isinstance(rank, (list, tuple)) and len(rank) == 2
        whole = pair and all(isinstance(check_rank(one), int) for one in rank)
        self.rank = tuple(rank) if whole else check_rank(rank)
        if math.prod(self.kernel_size) == 1:
            raise ValueError(
                "A 1x1 convolution has no core; its kernel is a matrix. Use LowRankConv2D. "
                f"Received: kernel_size={self.kernel_size}"
            )

    @classmethod
    def resolve(cls, shape, w=None, metric=None, rank=None):
        i, o = shape[2:]
        if rank == "auto":
            if w is None:
                raise ValueError("rank='auto' needs a trained kernel. Give ints or a share.")
            inputs = w.transpose(0, 1, 3, 2).reshape(-1, i)
            rank = (energy_rank(inputs), energy_rank(w.reshape(-1, o)))
        elif isinstance(rank, float):
            # Solve i p + h w p q + o q = rank h w i o for p = t i, q = t o.
            a, b, c = math.prod(shape), i * i + o * o, rank * math.prod(shape)
            t = (math.sqrt(b * b + 4 * a * c) - b) / (2 * a)
            rank = (max(1, int(t * i)), max(1, int(t * o)))
        p, q = (rank, rank) if isinstance(rank, int) else rank
        if p > i or q > o:
            raise ValueError(
                f"`rank` must be at most ({i}, {o}), the channels. Received: rank={rank}"
            )
        return {"rank": (int(p), int(q))}

    def part_shapes(self, shape):
        self.rank = self.resolve(shape, rank=self.rank)["rank"]
        h, w, i, o = shape
        p, q = self.rank
        return {"inputs": (i, p), "core": (h, w, p, q), "outputs": (q, o)}

    def decompose(self, w):
        inputs, core, outputs = tucker(w, self.rank)
        return [inputs, core, outputs.T]

    def stages(self, parts):
        inputs, core, outputs = parts
        return [
            Stage("in", inputs[None, None]),
            Stage("core", core, strides=self.strides, dilation=self.dilation_rate),
            Stage("out", outputs[None, None]),
        ]
