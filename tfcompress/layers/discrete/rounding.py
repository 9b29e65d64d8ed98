"""The swap rules that round a whole network to fewer bits."""

import math

import keras
import numpy as np

from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.discrete import float16 as half
from tfcompress.layers.discrete import other_forms as others
from tfcompress.layers.discrete import quantized
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.checks import is_whole
from tfcompress.utils.types import Metric

FAMILIES = {
    half.Float16Kernel: (
        half.Float16Dense,
        half.Float16Conv1D,
        half.Float16Conv2D,
        others.Float16Conv3D,
        others.Float16Conv1DTranspose,
        others.Float16Conv2DTranspose,
        others.Float16Conv3DTranspose,
        others.Float16DepthwiseConv1D,
        half.Float16DepthwiseConv2D,
        half.Float16EinsumDense,
        half.Float16Embedding,
        others.Float16ReversibleEmbedding,
    ),
    quantized.QuantizedKernel: (
        quantized.QuantizedDense,
        quantized.QuantizedConv1D,
        quantized.QuantizedConv2D,
        others.QuantizedConv3D,
        others.QuantizedConv1DTranspose,
        others.QuantizedConv2DTranspose,
        others.QuantizedConv3DTranspose,
        others.QuantizedDepthwiseConv1D,
        quantized.QuantizedDepthwiseConv2D,
        quantized.QuantizedEinsumDense,
        quantized.QuantizedEmbedding,
        others.QuantizedReversibleEmbedding,
    ),
}


TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
SMALL_KERNEL = 512  # entries: 4 bits instead of 8 save a file 256 bytes of these at most
STOCK_FLOAT32 = 1024  # entries: the stock converter's dynamic range leaves fewer in float32


class FamilyMaker(Maker):
    """A maker that chooses, from a family of classes, the one for the layer that it is given."""

    def __call__(
        self, layer: keras.layers.Layer, metric: Metric = None, kernel: np.ndarray | None = None
    ) -> CompressedLayer:
        new = self.chosen_for(layer)(layer, metric, kernel)
        table = isinstance(new, quantized.QuantizedEmbedding) and layer.built
        if table and new.level_bits == 8:
            # Files then take no more bytes than those of the stock converter.
            _share_scale(new, to_numpy(layer.embeddings) if kernel is None else kernel)
        return new

    def chosen_for(self, layer: keras.layers.Layer) -> Maker:
        return Maker(self.member(layer), self._options_for(layer))

    def _options_for(self, layer) -> dict:
        """The options, but 8 bits where fewer cost accuracy and save a file no bytes."""
        if self.options.get("bits", 8) >= 8 or not layer.built:
            return self.options
        transposed = isinstance(layer, TRANSPOSED)
        small = _entries(layer) <= SMALL_KERNEL
        return self.options | {"bits": 8} if transposed or small else self.options

    def takes(self, layer: keras.layers.Layer) -> bool:
        return self.member(layer) is not None

    def member(self, layer: keras.layers.Layer) -> type[CompressedLayer] | None:
        """The class for a layer, or None."""
        family = FAMILIES[self.layer_class]
        if isinstance(layer, CompressedLayer):
            return None
        return next((cls for cls in family if cls.takes(layer)), None)


class EightBits(FamilyMaker):
    """The maker that rounds to 8 bits, and small kernels to float16."""

    def chosen_for(self, layer: keras.layers.Layer) -> Maker:
        if layer.built and _entries(layer) < STOCK_FLOAT32:
            return FamilyMaker(half.Float16Kernel, {}).chosen_for(layer)
        return super().chosen_for(layer)


def _entries(layer) -> int:
    """The number of entries of the kernel of a built layer."""
    return max(math.prod(weight.shape) for weight in layer.weights)


def _share_scale(layer, table) -> None:
    """Rounds a table anew, with one scale for all its rows."""
    one = np.abs(table).max(initial=0.0) / layer.largest
    if one > 0:
        scale = np.full(layer.scale.shape, one, "float32")
        layer.scale.assign(scale)
        layer.set_latent(table, to_numpy(layer.grid(table, scale)), scale)


def rounding(bits: int = 8) -> dict:
    """The rules for `tfcompress.swap` that round each kernel of a network to 16, 8 or fewer bits.

    They apply to Dense, EinsumDense, Embedding and tied ReversibleEmbedding layers, to convolutions
    (also transposed, depthwise and separable ones), and to the products of recurrent cells. The
    first rule that matches a layer wins, so put rules for single layers before them:
    `{"stem": None, **rounding(4)}`. In 8 bits all rows of an Embedding get one scale, as in files
    of the stock converter; `QuantizedEmbedding.using(bits=8)` has one for each row.

    Some kernels get more bits than asked for, since fewer would cost accuracy and save a file next
    to nothing. With 8 bits, kernels of fewer than 1,024 weights become float16: the stock converter
    leaves them in float32, and 8-bit heads would make our files less accurate than its own. With
    fewer bits, kernels of up to 512 weights get 8, and so do those of transposed convolutions, with
    which LiteRT does not compute in fewer. A rule before these decides otherwise:
    `{"head": QuantizedDense.using(bits=8), **rounding(8)}`.

    Args:
        bits: 16 for float16 (`Float16Dense`, ...), or from 2 to 8 (`QuantizedDense`, ...).

    Raises:
        ValueError: another number of bits.

    Example:

    >>> import keras, tfcompress as tfc
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, name="fc")])
    >>> small = tfc.swap(model, tfc.layers.rounding(bits=8))
    >>> small.get_layer("fc").bits  # 8 * 64 * 32 and 32 scales
    17408
    """
    if not is_whole(bits) or bits not in (*range(2, 9), 16):
        raise ValueError(f"`bits` must be 16, or an integer from 2 to 8. Received: bits={bits!r}")
    if bits == 16:
        maker = FamilyMaker(half.Float16Kernel, {})
    else:
        family = EightBits if bits == 8 else FamilyMaker
        maker = family(quantized.QuantizedKernel, {"bits": int(bits)})
    # A predicate as key: other layers match no rule, and nothing is said about them.
    return {maker.takes: maker}


def rounded_to(bits: int) -> FamilyMaker:
    """The maker that rounds the kernel of any layer to so many bits, from 2 to 8."""
    return FamilyMaker(quantized.QuantizedKernel, {"bits": bits})
