"""Clustered weights in other forms than Dense, Conv1D and Conv2D."""

import keras
from keras import ops

from tfcompress.layers.core.einsum import CompressedEinsumDense
from tfcompress.layers.core.embedding import CompressedEmbedding, CompressedReversibleEmbedding
from tfcompress.layers.core.other_convolutions import (
    CompressedConv1DTranspose,
    CompressedConv2DTranspose,
    CompressedConv3D,
    CompressedConv3DTranspose,
    CompressedDepthwiseConv1D,
    CompressedDepthwiseConv2D,
)
from tfcompress.layers.shared.codebook import CodebookKernel
from tfcompress.layers.shared.lookup import gather
from tfcompress.utils.types import Tensor


class CodebookTable(CodebookKernel):
    """Only the rows that a batch asks for are looked up in the codebook."""

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        indices = ops.take(self.parts["indices"], ops.cast(x, "int32"), axis=0)
        rows = gather(self.codebook, ops.cast(indices, "int32"))
        return ops.cast(rows, self.compute_dtype)


@keras.saving.register_keras_serializable("tfcompress")
class CodebookConv3D(CodebookKernel, CompressedConv3D):
    __doc__ = "Conv3D with clustered weights. " + CodebookKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class CodebookDepthwiseConv1D(CodebookKernel, CompressedDepthwiseConv1D):
    __doc__ = "DepthwiseConv1D with clustered weights. " + CodebookKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class CodebookDepthwiseConv2D(CodebookKernel, CompressedDepthwiseConv2D):
    __doc__ = "DepthwiseConv2D with clustered weights. " + CodebookKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class CodebookConv1DTranspose(CodebookKernel, CompressedConv1DTranspose):
    __doc__ = "Conv1DTranspose with clustered weights. " + CodebookKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class CodebookConv2DTranspose(CodebookKernel, CompressedConv2DTranspose):
    __doc__ = "Conv2DTranspose with clustered weights. " + CodebookKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class CodebookConv3DTranspose(CodebookKernel, CompressedConv3DTranspose):
    __doc__ = "Conv3DTranspose with clustered weights. " + CodebookKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class CodebookEinsumDense(CodebookKernel, CompressedEinsumDense):
    __doc__ = "EinsumDense with clustered weights. " + CodebookKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class CodebookEmbedding(CodebookTable, CompressedEmbedding):
    __doc__ = "Embedding with clustered weights. " + CodebookKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class CodebookReversibleEmbedding(CodebookTable, CompressedReversibleEmbedding):
    __doc__ = "ReversibleEmbedding with clustered weights. " + CodebookKernel.__doc__
