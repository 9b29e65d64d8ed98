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


def untied(**options):
    keras.utils.set_random_seed(0)
    words = keras.layers.ReversibleEmbedding(11, 8, tie_weights=False, name="words", **options)
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Dense(8, name="fc")(words(inputs))
    return keras.Model(inputs, words(x, reverse=True)), np.arange(10).reshape(2, 5)


@pytest.mark.parametrize("options", [{}, {"logit_soft_cap": 0.1}, {"mask_zero": True}])
def test_an_untied_table_and_its_way_back_are_two_layers(options, tmp_path):
    model, x = untied(**options)
    opened = tfc.opened(model)
    parts = ["words/embeddings", "words/reverse_embeddings"]
    assert [path for path in tfc.walk(opened) if path.startswith("words/")] == parts
    np.testing.assert_allclose(opened(x), model(x), atol=1e-6)
    closed = tfc.to_ordinary(opened)
    np.testing.assert_array_equal(closed(x), model(x))
    assert type(tfc.walk(closed)["words"][0]) is keras.layers.ReversibleEmbedding
    rules = {"words/embeddings": tfc.layers.HashedEmbedding.using(ratio=2), "words": None}
    assert tfc.swap(model, rules, data=x)(x).shape == (2, 5, 11)
    small = tfc.swap(model, tfc.layers.rounding(8), data=x)
    kinds = {path: type(layer) for path, (layer, _) in tfc.walk(small).items()}
    assert kinds[parts[0]] is tfc.layers.Float16Embedding  # small tables
    assert kinds[parts[1]] is tfc.layers.Float16Dense
    scale = np.abs(model(x)).max()
    np.testing.assert_allclose(small(x), model(x), atol=0.05 * scale)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(x), small(x))
