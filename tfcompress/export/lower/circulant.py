"""Lowers circulant layers to operators on activations, without the full kernel in the file."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.export.lower.fourier import Blocks, Dft, OneByRfft, Rfft, TwoStage
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Config, Store, Tensor

# Measured (AMD Zen 5, one thread, batch 1; the whole kernel in float32 under XNNPACK is 1), with
# the rules below off; docs/export-structured-benchmark.md has the forms that they choose:
#
# | i, o, block     | products | RFFT2D |   | i, o, block     | products | RFFT2D |
# |---|---|---|---|---|---|---|
# | 128, 128, one   | 0.51 | 0.25 |         | 256, 256, 16    | 1.2  | 0.36 |
# | 256, 256, one   | 1.1  | 0.45 |         | 256, 256, 64    | 0.65 | 0.31 |
# | 512, 512, one   | 3.0  | 1.1  |         | 512, 512, 16    | 3.4  | 0.89 |
# | 1024, 1024, one | 10   | 2.9  |         | 512, 512, 64    | 2.2  | 0.87 |
# | 2048, 2048, one | 22   | 7.2  |         | 1024, 1024, 64  | 7.9  | 2.5  |
# | 4096, 4096, one | 86   | 27   |         | 1024, 1024, 256 | 2.8  | 2.0  |
# | 8192, 8192, one | 340  | 180  |         | 1024, 1024, 512 | 0.9  | 1.3  |
# | 600, 300, one   | 2.3  | 0.68 |         | 2048, 2048, 128 | 23   | 6.2  |
# | 2048, 512, one  | 3.6  | 1.2  |         | 2048, 2048, 512 | 3.9  | 4.8  |
LEAST_KERNEL_SIZE = 65_000  # of the whole kernel; below, the operators cost more than they save
LEAST_KERNEL_SIZE_OF_BLOCKS = 130_000
WEIGHTS_PER_PLACE = 150  # of one circulant
WEIGHTS_PER_MAC = 1.3  # of blocks
LEAST_RFFT_BLOCK, LEAST_RFFT_SIZE = (
    512,
    16384,
)  # from here on RFFT2D is as fast as products, or nearly
OPERATOR_BYTES = 5500  # of the operators that compute one layer


class CirculantOperations(keras.layers.Layer):
    """Computes a `CirculantDense` in operators that LiteRT has.

    LiteRT has RFFT2D and no inverse of it. `store="small"` uses RFFT2D for both directions: the
    Hartley transform `cas(z) = re z - im z` is its own inverse, so the way back is one more RFFT2D.
    `store="fast"` multiplies with matrices of cosines and sines, in two stages of size sqrt(n) for
    a single circulant; these products run in the delegate.

    Args:
        layer: a built `CirculantDense`.
        store: `"fast"` or `"small"`.
    """

    def __init__(self, layer: keras.layers.Layer, store: Store, **kwargs: Any) -> None:
        super().__init__(name=layer.name, dtype="float32", **kwargs)
        object.__setattr__(self, "layer", layer)  # not tracked: `walk` must find no kernel
        self.store = store
        self.form = _transform_form(layer, store)
        self.constants = dict(self.form.constants)
        if layer.signs:
            self.constants["signs"] = layer._signs.astype(np.float32)
        if layer.bias is not None:
            self.constants["bias"] = to_numpy(layer.bias)

    def get_config(self) -> Config:
        return {"layer": self.layer, "store": self.store}

    def call(self, x: Tensor) -> Tensor:
        layer, lead = self.layer, ops.shape(x)[:-1]
        if layer.signs:
            x = x * self.constants["signs"]
        x = ops.reshape(x, (-1, layer.inputs))
        if self.form.inputs > layer.inputs:
            x = ops.pad(x, [[0, 0], [0, self.form.inputs - layer.inputs]])
        y = self.form(x)
        y = y[:, : layer.units] if y.shape[-1] > layer.units else y
        if layer.bias is not None:
            y = y + self.constants["bias"]
        return ops.reshape(layer.activation(y), (*lead, layer.units))

    def pays(self) -> bool:
        """Whether this is smaller than the whole kernel and, for `"fast"`, faster."""
        layer, n = self.layer, self.layer.size
        weights, p, q = layer.inputs * layer.units, layer.blocks_in, layer.blocks_out
        if OPERATOR_BYTES + sum(array.nbytes for array in self.constants.values()) >= 4 * weights:
            return False
        if self.store == "small":
            return True
        if p * q == 1:
            return weights >= max(LEAST_KERNEL_SIZE, WEIGHTS_PER_PLACE * self.form.inputs)
        f = n // 2 + 1
        macs = (0 if n >= LEAST_RFFT_BLOCK else 2 * f * n * (p + q)) + 4 * f * p * q
        return weights >= max(LEAST_KERNEL_SIZE_OF_BLOCKS, WEIGHTS_PER_MAC * macs)


def _transform_form(layer, store):
    r = to_numpy(layer.parts["circulants"]).astype(np.float64)  # q p n
    if r.shape[0] * r.shape[1] == 1:
        wide, least = _power_of_two(layer, r[0, 0]), LEAST_RFFT_SIZE
        return OneByRfft(wide) if store == "small" or len(wide) >= least else TwoStage(wide)
    n = r.shape[-1]
    power_of_two = n & (n - 1) == 0 and n > 2
    small = power_of_two and (store == "small" or n >= LEAST_RFFT_BLOCK)
    return Blocks(r, Rfft(n) if small else Dft(n))


def _power_of_two(layer, r):
    """The first column of a circulant of size 2^m that holds the layer's matrix in its corner."""
    n = len(r)
    if n & (n - 1) == 0:
        return r
    i, o = layer.inputs, layer.units
    wide = np.zeros(1 << (i + o - 2).bit_length())
    wide[:o] = r[:o]
    if i > 1:
        wide[1 - i :] = r[np.arange(1 - i, 0) % n]
    return wide
