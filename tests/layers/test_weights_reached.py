"""`rounding` reaches the weights of common networks for sound and text."""

import math
import warnings

import keras
import models_of_all_kinds as kinds
import numpy as np
import pytest
from model_families import FAMILIES

import tfcompress as tfc

L = keras.layers
SEQUENTIAL = ["transformer", "text_blocks", "lstm", "gru", "bidirectional", "text_average"]


def reached(model, small):
    """The share of a model's weights that are in kernels of compressed layers of its copy."""
    of_kernels = sum(
        math.prod(layer.kernel.shape)
        for layer, _ in tfc.walk(small).values()
        if isinstance(layer, tfc.layers.CompressedLayer)
    )
    return of_kernels / sum(math.prod(v.shape) for v in model.trainable_variables)


def matrices(model):
    shapes = [v.shape for v in model.trainable_variables]
    return sum(math.prod(s) for s in shapes if len(s) > 1) / sum(map(math.prod, shapes))


@pytest.mark.parametrize("name", [*SEQUENTIAL, "separable_convolutions", "u_net"])
def test_every_matrix_is_reached(name):
    model, _ = FAMILIES[name]()
    small = tfc.swap(model, tfc.layers.rounding(8))
    # biases of attention are matrices too, one row for each head, and stay float
    heads = sum(
        math.prod(v.shape) for v in model.trainable_variables if "bias" in v.path and v.ndim > 1
    )
    total = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert reached(model, small) == pytest.approx(matrices(model) - heads / total)


def speech():
    """Convolutions, two recurrent layers of each kind, attention: as recognizers of speech."""
    start = keras.Input((20, 40))
    x = L.SeparableConv1D(64, 5, padding="same", activation="relu")(start)
    x = L.Bidirectional(L.LSTM(64, return_sequences=True))(x)
    x = L.GRU(128, return_sequences=True)(x)
    x = x + L.MultiHeadAttention(4, 32)(x, x)
    x = x + L.GroupQueryAttention(32, 4, 2)(x, x)
    return keras.Model(start, L.TimeDistributed(L.Dense(30))(x))


def words():
    start = keras.Input((12,), dtype="int32")
    table = L.ReversibleEmbedding(500, 64, name="table")
    x = L.GRU(64, return_sequences=True, reset_after=False)(table(start))
    return keras.Model(start, table(x, reverse=True))


@pytest.mark.parametrize("build", [speech, words])
def test_nearly_all_weights_are_reached(build):
    model = build()
    small = tfc.swap(model, tfc.layers.rounding(8))
    assert reached(model, small) > 0.98
    x = np.ones((1, *model.inputs[0].shape[1:]), model.inputs[0].dtype)
    scale = np.abs(model(x)).max()
    np.testing.assert_allclose(small(x), model(x), atol=0.1 * scale)


HUB = ("bert", "distil_bert", "roberta", "gpt2", "gemma", "whisper", "vit", "moonshine")
SIZES = dict(vocabulary_size=2000, num_layers=2, num_heads=2, hidden_dim=64, intermediate_dim=256)


def hub_model(name, monkeypatch):
    hub = pytest.importorskip("keras_hub").models
    monkeypatch.setattr(kinds, "SIZES", SIZES)
    model, x = kinds.HUB[name](hub)
    return (
        hub.MoonshineBackbone(500, 64, 1, 1, 64, 256, 2, 2) if name == "moonshine" else model
    ), x


def without(model, skipped):
    """The number of weights, without those for which a function on variables holds."""
    return sum(math.prod(v.shape) for v in model.trainable_variables if not skipped(v))


@pytest.mark.matrix
@pytest.mark.parametrize("name", [*HUB, *SEQUENTIAL])
def test_nearly_all_weights_are_measured(name, monkeypatch):
    """A swap with data leaves those that it cannot measure, with a warning."""
    if name in HUB:  # of tables of positions, real ones have less than half a percent
        model, x = hub_model(name, monkeypatch)
        total = without(model, lambda v: "position" in v.path.split("/")[-2])
    else:  # so small that biases and the like are many
        model, x = FAMILIES[name]()
        total = without(model, lambda v: v.ndim == 1 or "bias" in v.path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*matching layers stay")
        small = tfc.swap(model, tfc.layers.rounding(8), data=x)
    share = reached(model, small) * without(model, lambda v: False) / total
    print(f"{name}: {share:.1%}")
    assert share > 0.98
