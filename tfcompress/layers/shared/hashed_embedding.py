"""Embeddings whose rows share few real weights."""

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.embedding import CompressedEmbedding, CompressedReversibleEmbedding
from tfcompress.layers.shared.hashed import HashedKernel
from tfcompress.layers.shared.lookup import gather
from tfcompress.utils.types import Tensor


class HashedTable(HashedKernel):
    """Only the rows that a batch asks for are looked up in the bank."""

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        # In the order of `codes`. The place of a weight may be beyond int32: its run is not.
        starts = np.divmod(np.arange(self.output_dim, dtype="int64") * self.input_dim, self.blocks)
        runs, offsets = (start.astype("int32") for start in starts)
        ids = ops.expand_dims(ops.cast(x, "int32"), -1)
        offsets = ids % self.blocks + offsets
        runs = ids // self.blocks + offsets // self.blocks + runs
        codes = ops.take(self._index.read(), runs, axis=0) * self.blocks + offsets % self.blocks
        bank = ops.convert_to_tensor(self.parts["bank"])
        rows = gather(ops.concatenate([bank, -bank]), codes)
        return ops.cast(rows, self.compute_dtype)


@keras.saving.register_keras_serializable("tfcompress")
class HashedEmbedding(HashedTable, CompressedEmbedding):
    __doc__ = "Embedding with hashed weights. " + HashedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class HashedReversibleEmbedding(HashedTable, CompressedReversibleEmbedding):
    __doc__ = "ReversibleEmbedding with hashed weights. " + HashedKernel.__doc__
