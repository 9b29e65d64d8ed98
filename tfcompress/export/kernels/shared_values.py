"""Kernels whose entries copy a few stored numbers: of hashed, circulant and codebook layers."""

from dataclasses import dataclass, field

import keras
import numpy as np

from tfcompress.export.kernels.integer_grid import Grid
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.embedding import CompressedEmbedding
from tfcompress.layers.shared.circulant import CirculantConv2D
from tfcompress.layers.shared.codebook import CodebookKernel
from tfcompress.layers.shared.hashed import HashedKernel

TOLERANCE = 1e-6  # relative to the largest entry of a row, for the rounding of its factor
LARGEST_INTEGER = 127


@dataclass(frozen=True)
class Shared:
    """The kernel `factor[o] * table[codes[o, i]]` of a layer.

    Attributes:
        layer: a `HashedKernel`, a `CirculantConv2D` or a `CodebookKernel`.
        table: the numbers of a codebook; or the stored numbers and then the same negated.
        codes: the places in the table, an int array [o, i].
        factor: the factors of a batch normalization that was folded in, float32 [o].
    """

    layer: CompressedLayer
    table: np.ndarray = field(repr=False)
    codes: np.ndarray = field(repr=False)
    factor: np.ndarray = field(repr=False)

    @property
    def hashed(self) -> bool:
        return isinstance(self.layer, HashedKernel)

    @property
    def computed(self) -> bool:
        """Whether a formula gives the codes, so that no file has to hold them."""
        return not isinstance(self.layer, CodebookKernel)

    @property
    def step(self) -> np.float32:
        """The scale of the table in int8."""
        return np.float32(max(np.abs(self.table).max(initial=0.0) / LARGEST_INTEGER, 1e-30))

    @property
    def by_columns(self) -> bool:
        """Whether the codes of the layer come column after column: those of a table do."""
        return isinstance(self.layer, CompressedEmbedding)

    @property
    def plain(self) -> bool:
        """Whether the kernel is that of the layer, without factors."""
        return bool(np.all(self.factor == 1))

    def integers(self) -> np.ndarray:
        """The table in int8."""
        return np.rint(self.table / self.step).astype(np.int8)

    def rounded(self) -> Grid:
        """The kernel with the table rounded to int8."""
        # Scales must be positive, so that the sign of a factor goes into the integers.
        sign = np.where(self.factor < 0, -1, 1).astype(np.int8)
        values = self.integers()[self.codes] * sign[:, None]
        return Grid(values, np.abs(self.factor) * self.step, 8)


def find_shared(rows: np.ndarray, layer: keras.layers.Layer | None) -> Shared | None:
    """The stored numbers behind a constant of the file, if it is the kernel of this layer.

    Args:
        rows: float32 matrix [o, i].
        layer: the layer that the constant belongs to by its name.
    """
    if isinstance(layer, HashedKernel):
        bank, codes = layer.stored()["bank"], layer.codes()
        table = np.concatenate([bank, -bank])
    elif isinstance(layer, CirculantConv2D):
        circulants, codes = layer.stored()["circulants"].ravel(), layer.codes()
        table = np.concatenate([circulants, -circulants])
    elif isinstance(layer, CodebookKernel):
        stored = layer.stored()
        table = stored["codebook"]
        codes = np.moveaxis(stored["indices"].astype(np.int32), -1, 0)
    else:
        return None
    codes = codes.reshape(len(codes), -1)
    if isinstance(layer, CompressedEmbedding):
        codes = codes.T  # see `by_columns`; the ids, its outputs, come first in the constant
    table = table.astype(np.float32)
    if codes.shape != rows.shape:
        return None
    # One entry per row, the largest, gives the factor; all others must agree with it.
    reference = table[codes]
    place = np.abs(reference).argmax(axis=1)[:, None]
    peak = np.take_along_axis(reference, place, axis=1)
    factor = np.take_along_axis(rows, place, axis=1) / np.where(peak == 0, 1, peak)
    factor = np.where((peak == 0) | (factor == 0), 1, factor).astype(np.float32)
    matches = np.abs(factor * reference - rows) <= TOLERANCE * np.abs(factor * peak)
    return Shared(layer, table, codes, factor[:, 0]) if matches.all() else None
