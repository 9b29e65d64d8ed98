"""An embedding whose rows share few real weights."""

import keras

from tfcompress.layers.core.embedding import CompressedEmbedding
from tfcompress.layers.shared.hashed import HashedKernel


@keras.saving.register_keras_serializable("tfcompress")
class HashedEmbedding(HashedKernel, CompressedEmbedding):
    __doc__ = "Embedding with hashed weights. " + HashedKernel.__doc__
