"""A masked tagger computes, learns from and judges the same steps after an exact swap."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.private_keras import mask_of
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.layers.discrete.learned_range import LearnedRange

layers = keras.layers


def words(seed=0):
    ids = np.random.default_rng(seed).integers(1, 20, (16, 9))
    ids[:, 5:] = 0  # padding
    return ids, np.where(ids > 0, ids % 3, 2)


def tagger(*middle):
    inputs = keras.Input((9,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True, name="words")(inputs)
    for layer in middle:
        x = layer(x)
    bias = keras.initializers.Constant([2.0, 0.0, -2.0])  # padding, of class 2, is dear
    return keras.Model(inputs, layers.Dense(3, bias_initializer=bias, name="out")(x))


class Written(keras.Model):
    """A tagger whose code calls its layers."""

    def __init__(self):
        super().__init__()
        self.words = layers.Embedding(20, 8, mask_zero=True, name="words")
        self.hidden, self.out = layers.Dense(8, "relu", name="hidden"), layers.Dense(3, name="out")

    def call(self, ids):
        return self.out(self.hidden(self.words(ids)))


def written():
    model = Written()
    model(words()[0])
    model.out.bias.assign([2.0, 0.0, -2.0])
    return model


def loss(model):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model.evaluate(*words(), verbose=0)


def unmasked_loss(model):
    logits = model.predict(words()[0], verbose=0)
    function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return float(function(words()[1], logits))


def exact(layer):
    """The layer with a kernel of full rank."""
    if isinstance(layer, layers.Conv1D):
        return tfc.layers.LowRankConv1D.from_layer(layer, rank=8)
    kind = getattr(tfc.layers, f"LowRank{type(layer).__name__}")
    return kind.from_layer(layer, rank=min(kernel_of(layer).shape))


FULL = {"words": exact, "hidden": exact, "out": exact}
MODELS = {
    "chains": (lambda: tagger(layers.Dense(8, "relu", name="hidden")), FULL),
    "written": (written, FULL),
    "opened LSTM": (
        lambda: tagger(layers.LSTM(8, return_sequences=True, name="lstm")),
        {"lstm/*kernel": exact},
    ),
    "opened GRU, both ways": (
        lambda: tagger(layers.Bidirectional(layers.GRU(8, return_sequences=True), name="gru")),
        {"gru/*kernel": exact},
    ),
    "distributed": (
        lambda: tagger(layers.TimeDistributed(layers.Dense(8, name="one"), name="each")),
        {"one": exact},
    ),
}


@pytest.mark.parametrize("unfold", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_of_a_tagger_counts_the_same_steps(name, unfold):
    make, rules = MODELS[name]
    model = make()
    small = tfc.swap(model, rules)
    if unfold:
        small = tfc.to_ordinary(small)
    expected = loss(model)
    np.testing.assert_allclose(loss(small), expected, rtol=1e-4)
    assert abs(unmasked_loss(small) - expected) > 0.5  # so that a lost mask is seen


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_an_opened_separable_convolution_ends_a_mask_as_the_closed_one_does():
    model = tagger(layers.SeparableConv1D(8, 3, padding="same", name="conv"))
    opened = tfc.opened(model)
    chains = tfc.swap(model, {"conv/pointwise*": exact})
    for one in (model, opened, chains, tfc.to_ordinary(chains)):
        np.testing.assert_allclose(loss(one), loss(model), rtol=1e-4)
        np.testing.assert_allclose(loss(one), unmasked_loss(model), rtol=1e-4)


def test_a_chain_in_the_place_of_a_convolution_ends_a_mask():
    class Convolving(keras.Model):
        def __init__(self):
            super().__init__()
            self.words = layers.Embedding(20, 8, mask_zero=True)
            self.conv = layers.Conv1D(8, 3, padding="same", name="conv")
            self.out = layers.Dense(3)

        def call(self, ids):
            return self.out(self.conv(self.words(ids)))

    model = Convolving()
    with pytest.warns(UserWarning, match="does not support masking"):
        model(words()[0])
    small = tfc.to_ordinary(tfc.swap(model, {"conv": exact}))
    with pytest.warns(UserWarning, match="does not support masking"):
        np.testing.assert_allclose(loss(small), loss(model), rtol=1e-4)
        np.testing.assert_allclose(loss(small), unmasked_loss(model), rtol=1e-4)


def test_a_flag_that_was_set_by_hand_is_kept():
    conv = layers.Conv1D(4, 3, padding="same", name="conv")
    conv.supports_masking = True
    for built in (False, True):
        if built:
            conv.build((None, 9, 8))
        assert tfc.layers.Float16Conv1D.from_layer(conv).supports_masking


def test_layers_made_by_hand_pass_masks_on():
    model = keras.Sequential(
        [layers.Embedding(20, 8, mask_zero=True), tfc.layers.BinaryDense(4), layers.LSTM(3)]
    )
    padded, short = np.array([[4, 7, 0, 0]]), np.array([[4, 7]])
    np.testing.assert_allclose(model(padded), model(short), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("method, options", [("Hashed", {}), ("LowRank", {"rank": 4})])
def test_a_reversible_embedding_masks_ids_and_no_vectors(method, options, dtype):
    inputs = keras.Input((9,), dtype=dtype)
    table = layers.ReversibleEmbedding(20, 8, mask_zero=True, name="words")
    rows = table(inputs)
    model = keras.Model(inputs, [layers.LSTM(4)(rows), table(rows, reverse=True)])
    maker = getattr(tfc.layers, f"{method}ReversibleEmbedding").using(**options)
    small = tfc.swap(model, {"words": maker})
    table.embeddings.assign(small.get_layer("words").embeddings)
    for one, other in zip(small(words()[0]), model(words()[0]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
        assert mask_of(one) is mask_of(other) is None
    mask = mask_of(small.get_layer("words")(words()[0].astype(dtype)))
    np.testing.assert_array_equal(mask, words()[0] > 0)


@pytest.mark.parametrize("kind", [tfc.layers.FakeQuant, LearnedRange])
def test_the_range_of_a_tensor_passes_its_mask_on(kind):
    model = tagger(kind(-0.1, 0.1, dtype="mixed_float16"))
    kept = mask_of(model.layers[2](model.layers[1](words()[0])))
    np.testing.assert_array_equal(kept, words()[0] > 0)


def test_a_learned_range_keeps_its_dtype_policy():
    layer = LearnedRange(-1.0, 1.0, dtype="mixed_float16")
    layer.build((None, 4))
    assert layer.learned().dtype_policy == layer.dtype_policy
