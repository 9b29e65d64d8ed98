"""Embeddings whose rows share few real weights."""

import keras
from keras import ops

from tfcompress.layers.core.embedding import CompressedEmbedding, CompressedReversibleEmbedding
from tfcompress.layers.shared.hashed import HashedKernel
from tfcompress.layers.shared.lookup import gather
from tfcompress.utils.types import Tensor


class HashedTable(HashedKernel):
    """Only the rows that a batch asks for are looked up in the bank."""

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        columns = ops.arange(self.output_dim, dtype="int32") * self.input_dim
        places = ops.expand_dims(ops.cast(x, "int32"), -1) + columns  # in the order of `codes`
        codes = ops.take(self._index.read(), places // self.blocks, axis=0)
        bank = ops.convert_to_tensor(self.parts["bank"])
        rows = gather(ops.concatenate([bank, -bank]), codes * self.blocks + places % self.blocks)
        return ops.cast(rows, self.compute_dtype)


@keras.saving.register_keras_serializable("tfcompress")
class HashedEmbedding(HashedTable, CompressedEmbedding):
    __doc__ = "Embedding with hashed weights. " + HashedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class HashedReversibleEmbedding(HashedTable, CompressedReversibleEmbedding):
    __doc__ = "ReversibleEmbedding with hashed weights. " + HashedKernel.__doc__
