"""Plans and sensitivities of kernels inside layers: recurrent cells, separable convolutions."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.measure.macs import macs
from tfcompress.planning.planner import Planner

L = keras.layers
RNG = np.random.default_rng(0)
SOUND = RNG.normal(size=(80, 6, 10)).astype("float32")


def recurrent():
    keras.utils.set_random_seed(0)
    layers = [L.GRU(16, return_sequences=True, name="gru"), L.LSTM(16, name="lstm"), L.Dense(3)]
    return keras.Sequential([keras.Input((6, 10)), *layers])


@pytest.mark.parametrize("target", ["bits", "macs"])
def test_the_kernels_of_recurrent_cells_are_planned_one_by_one(target):
    model = recurrent()
    found = tfc.plan(model, SOUND, 0.5, target)
    assert {
        "gru/gru_cell/kernel",
        "gru/gru_cell/recurrent_kernel",
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
    } <= set(found.options)
    assert found.cost <= 0.5 * found.float_cost
    if target == "macs":
        assert found.float_cost == sum(macs(model).values())
        assert sum(macs(found.model).values()) == found.cost
    small = tfc.swap(model, found.rules, data=SOUND)
    assert small(SOUND[:2]).shape == (2, 3)


def test_cells_that_keep_their_kernels_stay_those_of_keras():
    model = recurrent()
    four = {"4 bits": tfc.layers.QuantizedDense.using(bits=4)}
    planner, path = Planner(model, SOUND, candidates=four), "lstm/lstm_cell/kernel"
    chosen = {one: row[-1] for one, row in planner.options.items()}
    chosen[path] = planner.options[path][0]
    assert chosen[path].maker is not None
    carried = planner.carried_out(10**9, chosen)
    assert type(carried.model.get_layer("gru").cell) is L.GRUCell
    assert type(carried.model.get_layer("lstm").cell) is not L.LSTMCell


def test_sensitivity_of_the_kernels_of_a_cell():
    model = recurrent()
    model.compile("sgd", "mse", jit_compile=False)
    data = SOUND, np.zeros((80, 3))
    makers = {"ternary": tfc.layers.TernaryDense.using()}
    rows = tfc.sensitivity(model, data, "lstm", makers).rows
    assert [row.layer for row in rows] == [
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
    ]
    assert all(row.predicted > 0 for row in rows)


def test_separable_convolutions():
    keras.utils.set_random_seed(0)
    conv = L.SeparableConv2D(8, 3, name="conv")
    model = keras.Sequential([keras.Input((6, 5, 4)), conv, L.Flatten(), L.Dense(2, name="out")])
    x = RNG.normal(size=(80, 6, 5, 4)).astype("float32")
    found = tfc.plan(model, x, 0.3)
    assert {"conv/depthwise_kernel", "conv/pointwise_kernel"} <= set(found.options)
    assert found.cost <= 0.3 * found.float_cost
