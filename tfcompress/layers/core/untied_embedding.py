"""An embedding with a way back of its own, as a table and a Dense layer."""

from typing import Any

import keras
from keras import ops

from tfcompress.layers.core.opened import OpenedLayer
from tfcompress.utils.arrays import copy_into
from tfcompress.utils.types import InputShape, Tensor


@keras.saving.register_keras_serializable("tfcompress")
class OpenedReversibleEmbedding(OpenedLayer, keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` with `tie_weights=False`, whose two kernels are layers.

    Its parts are `"embeddings"`, an Embedding, and `"reverse_embeddings"`, a Dense layer.
    """

    closed_class = keras.layers.ReversibleEmbedding
    part_names = ("embeddings", "reverse_embeddings")
    variable_names = ("embeddings", "reverse_embeddings")

    @classmethod
    def opens(cls, layer: keras.layers.Layer) -> bool:
        return not layer.tie_weights

    @classmethod
    def ordinary_parts(cls, layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
        table = keras.layers.Embedding(
            layer.input_dim,
            layer.output_dim,
            embeddings_regularizer=layer.embeddings_regularizer,
            embeddings_constraint=layer.embeddings_constraint,
            mask_zero=layer.mask_zero,
            dtype=layer.dtype_policy,
            name="embeddings",
        )
        table.build((None,))
        copy_into(table.embeddings, layer.embeddings)
        back = keras.layers.Dense(
            layer.input_dim,
            use_bias=False,
            dtype=layer.reverse_dtype or layer.dtype_policy,
            name="reverse_embeddings",
        )
        back.build((None, layer.output_dim))
        copy_into(back.kernel, layer.reverse_embeddings)
        return {"embeddings": table, "reverse_embeddings": back}

    @property
    def embeddings(self) -> Any:
        return self.embeddings_layer.embeddings

    @property
    def reverse_embeddings(self) -> Any:
        return self.reverse_embeddings_layer.kernel

    def build(self, input_shape: InputShape | None = None) -> None:
        shapes = (None,), (None, self.output_dim)
        for part, shape in zip(self.parts_by_name.values(), shapes, strict=True):
            if not part.built:
                part.build(shape)
        self.built = True

    def save_own_variables(self, store: dict) -> None:
        """Saves nothing: the parts save their own."""

    def load_own_variables(self, store: dict) -> None:
        """Reads nothing."""

    def call(self, inputs: Tensor, reverse: bool = False) -> Tensor:
        if not reverse:
            return self.embeddings_layer(inputs)
        logits, cap = self.reverse_embeddings_layer(inputs), self.logit_soft_cap
        return logits if cap is None else ops.tanh(logits / cap) * cap
