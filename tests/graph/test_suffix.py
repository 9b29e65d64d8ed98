"""The rest of a network, some nodes at a time as one function."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.graph import suffix
from tfcompress.graph.suffix import Suffix

IDS = np.random.default_rng(0).integers(0, 9, (7, 6))  # 0 is padding


def net():
    """Masks, two outputs, a value that is taken again far behind, and operations without layers."""
    ids = keras.Input((6,), dtype="int64")
    x = first = layers.Embedding(9, 8, mask_zero=True)(ids)
    for number in range(5):
        x = layers.Dense(8, "relu", name=f"dense_{number}")(x)
        x = layers.LayerNormalization(name=f"norm_{number}")(x + 0.1 * first)
    pooled = layers.GlobalAveragePooling1D(name="pooled")(x)
    seen = layers.LSTM(4, name="lstm")(x)
    return keras.Model(ids, [layers.Dense(3, name="out")(pooled), ops.tanh(seen)])


@pytest.mark.parametrize("together", [1, 3, 8, 100])
def test_functions_give_what_the_nodes_give_one_by_one(together, monkeypatch):
    monkeypatch.setattr(suffix, "TOGETHER", together)
    keras.utils.set_random_seed(0)
    model, batches = net(), [IDS[:4], IDS[4:]]
    one_by_one, many = Suffix(model, batches), Suffix(model, batches, many=True)
    for name in ("dense_0", "norm_1", "dense_4", "lstm", "out"):
        layer = model.get_layer(name)
        for one in (one_by_one, many):
            one.advance(layer)

        def twice(call, x, *args, **kwargs):
            return 2 * call(x, *args, **kwargs)

        for arounds in ({}, {layer: twice}, {}):
            found, expected = many.outputs(arounds), one_by_one.outputs(arounds)
            for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert many.stretches and not one_by_one.stretches
    for one in (one_by_one, many):
        while one.position < len(one.nodes):
            one.step()
    for a, b in zip(many.outputs()[0], one_by_one.outputs()[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_that_change_are_seen():
    keras.utils.set_random_seed(0)
    model = net()
    many = Suffix(model, [IDS], many=True)
    before = many.outputs()[0][0]
    out = model.get_layer("out")
    out.set_weights([2 * w for w in out.get_weights()])
    np.testing.assert_allclose(many.outputs()[0][0], 2 * before, rtol=1e-6)


def test_a_model_that_runs_eagerly_runs_node_by_node():
    class Own(layers.Layer):
        def call(self, x):
            return ops.convert_to_tensor(np.asarray(ops.convert_to_numpy(x)) + 1)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Own()(inputs))
    model.compile(run_eagerly=True)
    x = np.zeros((2, 3), "float32")
    np.testing.assert_array_equal(Suffix(model, [x], many=True).outputs()[0][0], x + 1)
