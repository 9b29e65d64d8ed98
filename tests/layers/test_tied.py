"""Tied tables: the same stored numbers embed ids and give logits."""

import keras
import numpy as np
import pytest

import tfcompress as tfc


def test_a_tied_head_of_keras_hub(tmp_path):
    hub = pytest.importorskip("keras_hub").models
    backbone = hub.GPT2Backbone(
        vocabulary_size=50,
        num_layers=1,
        num_heads=2,
        hidden_dim=32,
        intermediate_dim=64,
        max_sequence_length=16,
    )
    model = hub.GPT2CausalLM(backbone=backbone, preprocessor=None)
    ids = np.random.default_rng(0).integers(0, 50, (4, 16))
    x = {"token_ids": ids, "padding_mask": np.ones((4, 16), bool)}
    swapped = tfc.swap(model, tfc.layers.rounding(8), data=x)
    table = swapped.backbone.token_embedding
    assert type(table) is tfc.layers.QuantizedReversibleEmbedding
    scale = np.sqrt(np.mean(np.square(model(x))))
    np.testing.assert_allclose(swapped(x), model(x), atol=0.1 * scale)
    swapped.save(tmp_path / "swapped.keras")
    loaded = keras.saving.load_model(tmp_path / "swapped.keras")
    np.testing.assert_array_equal(loaded(x), swapped(x))


def test_a_head_that_reads_the_table():
    class TiedHead(keras.layers.Layer):
        def __init__(self, embedding):
            super().__init__()
            self.embedding = embedding

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.embedding.embeddings))

    inputs = keras.Input((5,), dtype="int32")
    words = keras.layers.Embedding(11, 8, name="words")
    model = keras.Model(inputs, TiedHead(words)(words(inputs)))
    swapped = tfc.swap(model, {"words": tfc.layers.QuantizedEmbedding.using(bits=4)})
    x = np.arange(10).reshape(2, 5)
    table = np.array(tfc.walk(swapped)["words"][0].kernel)
    np.testing.assert_allclose(swapped(x), table[x] @ table.T, rtol=1e-5, atol=1e-7)
