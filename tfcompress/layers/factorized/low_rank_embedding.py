"""Embeddings as a narrow table and a matrix."""

import keras
from keras import ops

from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.embedding import CompressedEmbedding, CompressedReversibleEmbedding
from tfcompress.layers.core.ordinary import positions
from tfcompress.layers.factorized.low_rank import LowRankKernel
from tfcompress.utils.arrays import copy_into, to_numpy
from tfcompress.utils.types import InputShape, Tensor


class LowRankTable(LowRankKernel):
    """Only the rows of the narrow table that a batch asks for are multiplied."""

    def macs_at(self, input_shape: InputShape, rank: int) -> int:
        """Multiply-accumulates per sample: the row of each id is multiplied by the matrix."""
        return positions(input_shape[1:]) * rank * self.output_dim


@keras.saving.register_keras_serializable("tfcompress")
class LowRankEmbedding(LowRankTable, CompressedEmbedding):
    __doc__ = "Embedding as a table of r columns and a matrix. " + LowRankKernel.__doc__

    def to_ordinary(self) -> list[keras.layers.Layer]:
        u, v = (to_numpy(part) for part in self.parts.values())
        state = {"dtype": self.dtype_policy, "trainable": self.trainable}
        table = keras.layers.Embedding(
            self.input_dim,
            u.shape[1],
            embeddings_regularizer=self.kernel_regularizer,
            mask_zero=self.mask_zero,
            name=f"{self.name}_in",
            **state,
        )
        table.build((None,))
        copy_into(table.embeddings, u)
        last = keras.layers.Dense(
            self.output_dim,
            use_bias=False,
            activity_regularizer=self.activity_regularizer,
            name=self.name,
            **state,
        )
        last.build((None, u.shape[1]))
        copy_into(last.kernel, v)
        return [table, last]


@keras.saving.register_keras_serializable("tfcompress")
class LowRankReversibleEmbedding(LowRankTable, CompressedReversibleEmbedding):
    __doc__ = (
        "ReversibleEmbedding as a table of r columns and a matrix. In reverse, vectors are "
        "multiplied by the matrix first. " + LowRankKernel.__doc__
    )

    to_ordinary = CompressedLayer.to_ordinary  # one layer: it runs in both directions

    def macs_at(self, input_shape: InputShape, rank: int) -> int:
        if not self.comes_back(input_shape):
            return super().macs_at(input_shape, rank)
        return positions(input_shape[1:-1]) * rank * (self.input_dim + self.output_dim)

    def multiply_reversed(self, x: Tensor, dtype: str) -> Tensor:
        u, v = (ops.cast(part, dtype) for part in self.parts.values())
        return ops.matmul(ops.matmul(x, ops.transpose(v)), ops.transpose(u))
