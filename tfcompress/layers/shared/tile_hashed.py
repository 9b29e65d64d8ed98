"""Weight sharing by the hashing trick over whole tiles of the matrix: small and fast."""

import functools
import math
from typing import TypedDict, Unpack

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.arguments import LayerArguments
from tfcompress.layers.core.dense_and_conv import CompressedDense
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.ordinary import glorot_variance
from tfcompress.layers.shared.fitting import fit_shared
from tfcompress.numerics.hashing import signed_codes
from tfcompress.utils.checks import check_integer, positive_int
from tfcompress.utils.types import InputShape, Metric, Shape, Tensor


class TileHashedOptions(TypedDict, total=False):
    """The options that `using` takes."""

    tile: int
    tiles: int
    seed: int


@keras.saving.register_keras_serializable("tfcompress")
class TileHashedDense(CompressedDense):
    """Dense whose matrix is made of few small tiles, chosen by a hash of their place.

        tile (a, b) of V = xi(a, b) * C[h(a, b)],   V = sum_u kron(S_u, C_u)

    `C` are `tiles` trained tiles of `tile x tile` weights. `h` and the sign `xi` are
    `tfcompress.numerics.hashing.signed_codes` of the seed and the place of the tile, and `S_u` is
    `xi(a, b)` where `h(a, b) = u` and 0 elsewhere. So the layer is two small products, one with the
    tiles and one with the signs, and saves time as well as memory. Inputs are padded with zeros to
    whole tiles, and outputs are cut.

    Cost: `32 * tiles * tile^2` bits; with T = tile and U = tiles, `i T U + i o U / T` MACs (sides
    rounded up to whole tiles).

    Args:
        units: outputs o.
        tile: T, the side of a tile.
        tiles: U, the number of trained tiles.
        seed: an int; give layers of one size different seeds.
        Others: as in `keras.layers.Dense`.

    Shapes: inputs `(..., i)`, outputs `(..., o)`.

    `from_layer` takes the signed mean of the entries that share a weight, weighted by a diagonal
    metric; with a Kronecker metric, the least-squares solution by conjugate gradients.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.TileHashedDense(128, tile=16, tiles=4)
    >>> layer.build((None, 128))
    >>> layer.bits // 32, 128 * 128 // layer.macs((None, 128))
    (1024, 1)

    Reference: Chen et al., "Compressing Neural Networks with the Hashing Trick", 2015. There the
    hash places single weights; here it places tiles, whose columns are shared together, and that
    makes two products of the layer.
    """

    options = ("tile", "tiles", "seed")

    def __init__(
        self,
        units: int,
        tile: int = 32,
        tiles: int = 4,
        seed: int = 0,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(units, **kwargs)
        self.tile, self.tiles = positive_int(tile, "tile"), positive_int(tiles, "tiles")
        self.seed = check_integer(seed, "seed")

    @classmethod
    def using(cls, **options: Unpack[TileHashedOptions]) -> Maker:
        return super().using(**options)

    def build_kernel(self, shape: Shape) -> None:
        rows, columns = (math.ceil(side / self.tile) for side in shape)
        if self.tiles > rows * columns:
            raise ValueError(
                f"`tiles` must be at most {rows * columns}, the tiles of side {self.tile} that a "
                f"kernel of shape {shape} has. Received: tiles={self.tiles}"
            )
        self.inputs, self._grid = shape[0], (rows, columns)
        limit = math.sqrt(3 * glorot_variance(shape))
        self.add_part(
            "bank",
            (self.tiles, self.tile, self.tile),
            keras.initializers.RandomUniform(-limit, limit),
        )

    @property
    def derived_bytes(self) -> int:
        return 4 * math.prod(self._grid)

    @functools.cached_property
    def _codes(self) -> np.ndarray:
        """The signed tile at each place: made again from the seed, never saved."""
        rows, columns = self._grid
        return signed_codes(rows * columns, self.tiles, self.seed).reshape(columns, rows).T

    @property
    def kernel(self) -> Tensor:
        bank = ops.convert_to_tensor(self.parts["bank"])  # u s t, s in and t out
        tiles = ops.take(ops.concatenate([bank, -bank]), self._codes, axis=0)  # row column s t
        rows, columns = self._codes.shape
        shape = (rows * self.tile, columns * self.tile)
        kernel = ops.reshape(ops.transpose(tiles, (0, 2, 1, 3)), shape)
        return kernel[: self.inputs, : self.units]

    def signs(self) -> np.ndarray:
        """`S` as a matrix `(rows * tiles, columns)` of -1, 0 and 1."""
        rows, columns = self._codes.shape
        signs = np.zeros((rows, self.tiles, columns), np.float32)
        r, c = np.indices(self._codes.shape)
        signs[r, self._codes % self.tiles, c] = np.where(self._codes < self.tiles, 1, -1)
        return signs.reshape(rows * self.tiles, columns)

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        side, lead = self.tile, ops.shape(x)[:-1]
        rows, columns = self._codes.shape
        bank = ops.cast(self.parts["bank"], self.compute_dtype)
        signs = ops.cast(self.signs(), self.compute_dtype)
        if rows * side > self.inputs:
            x = ops.pad(x, [[0, 0]] * (x.ndim - 1) + [[0, rows * side - self.inputs]])
        bank = ops.reshape(ops.transpose(bank, (1, 0, 2)), (side, self.tiles * side))
        y = ops.matmul(ops.reshape(x, (-1, side)), bank)  # b row, u t
        y = ops.transpose(ops.reshape(y, (-1, rows * self.tiles, side)), (0, 2, 1))  # b t, row u
        y = ops.matmul(ops.reshape(y, (-1, rows * self.tiles)), signs)  # b t, column
        y = ops.transpose(ops.reshape(y, (-1, side, columns)), (0, 2, 1))
        y = ops.reshape(y, (*lead, columns * side))
        return y if columns * side == self.units else y[..., : self.units]

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        i, o = np.indices(w.shape)
        codes, side = self._codes[i // self.tile, o // self.tile], self.tile
        index = (codes % self.tiles * side + i % side) * side + o % side
        bank = self.parts["bank"]
        signs = np.where(codes < self.tiles, 1.0, -1.0)
        found = fit_shared(w, index, signs, math.prod(bank.shape), metric)
        bank.assign(found.reshape(bank.shape))

    @property
    def prunable(self) -> list[keras.Variable]:
        return [self.parts["bank"]]

    def macs(self, input_shape: InputShape) -> int:
        """Multiply-accumulates per sample of the two products."""
        (rows, columns), side = self._codes.shape, self.tile
        once = rows * side * self.tiles * side + side * rows * self.tiles * columns
        return self.positions(input_shape) * once
