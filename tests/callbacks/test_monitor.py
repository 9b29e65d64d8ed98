import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.callbacks import Monitor


def run(model, epochs=2):
    model.compile("sgd", "mse")
    monitor = Monitor()
    model.fit(np.ones((8, 6)), np.ones((8, 4)), epochs=epochs, callbacks=[monitor], verbose=0)
    return monitor.sparsity


def test_a_binary_model_has_no_record():
    assert run(keras.Sequential([keras.Input((6,)), tfc.layers.BinaryDense(4)])) == {}


def test_a_frozen_model_has_no_record():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.trainable = False
    with pytest.warns(UserWarning, match="not have any trainable weights"):
        assert run(model) == {}


def test_a_layer_beside_binary_ones_is_recorded():
    dense = keras.layers.Dense(4, kernel_initializer="zeros", name="out", trainable=True)
    model = keras.Sequential([keras.Input((6,)), tfc.layers.BinaryDense(6), dense])
    found = run(model, epochs=1)
    assert list(found) == ["out"]
    assert found["out"] == [float(np.mean(np.asarray(dense.kernel) == 0))]


class Unfreeze(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.layers[0].trainable = True


def test_a_layer_that_is_unfrozen_later_is_recorded_from_then_on():
    first = keras.layers.Dense(6, name="first", trainable=False)
    model = keras.Sequential([keras.Input((6,)), first, keras.layers.Dense(4, name="out")])
    model.compile("sgd", "mse")
    monitor, data = Monitor(), (np.ones((8, 6)), np.ones((8, 4)))
    model.fit(*data, epochs=3, callbacks=[Unfreeze(), monitor], verbose=0)
    assert len(monitor.sparsity["out"]) == len(monitor.sparsity["first"]) == 3
    assert np.isnan(monitor.sparsity["first"][0])
