"""Opened recurrent cells: the same function as Keras' own, each kernel a layer."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.suffix import watching

kinds = keras.layers
small = tfc.layers

CELLS = {
    "lstm": lambda **options: kinds.LSTM(7, name="r", **options),
    "gru": lambda **options: kinds.GRU(7, name="r", **options),
    "gru, reset before": lambda **options: kinds.GRU(7, reset_after=False, name="r", **options),
    "simple": lambda **options: kinds.SimpleRNN(7, name="r", **options),
}
OPTIONS = {
    "sequences and states": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True},
    "unrolled": {"unroll": True},
    "without bias": {"use_bias": False},
    "dropout": {"dropout": 0.3, "seed": 1},
    "both dropouts": {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 2},
}
WRAPPED = {
    "bidirectional": lambda: kinds.Bidirectional(kinds.LSTM(7), name="r"),
    "two ways": lambda: kinds.Bidirectional(
        kinds.GRU(4, return_sequences=True),
        backward_layer=kinds.GRU(4, return_sequences=True, go_backwards=True),
        merge_mode="sum",
        name="r",
    ),
    "of cells": lambda: kinds.RNN(
        [kinds.LSTMCell(4), kinds.GRUCell(6), kinds.SimpleRNNCell(3)], name="r"
    ),
    "of one cell": lambda: kinds.RNN(kinds.GRUCell(6), return_sequences=True, name="r"),
}


def sequences():
    x = np.random.default_rng(0).standard_normal((6, 9, 5)).astype("float32")
    x[:3, 6:] = 0  # which `Masking` masks
    return x


def around(layer):
    """A model around a recurrent layer, whose biases are not zero."""
    inputs = keras.Input((9, 5))
    model = keras.Model(inputs, layer(kinds.Masking()(inputs)))
    random = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if "bias" in variable.path:
            variable.assign(variable + 0.3 * random.standard_normal(variable.shape))
    return model


def classes(model):
    return [type(layer) for layer, _ in tfc.walk(model).values()]


def assert_same(model, other, x, exact=False, **options):
    pairs = (keras.tree.flatten(one(x, **options)) for one in (model, other))
    for expected, received in zip(*pairs, strict=True):
        tolerance = 0 if exact else 1e-6
        np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_an_opened_cell_computes_the_same(cell, options):
    model, x = around(CELLS[cell](**OPTIONS[options])), sequences()
    opened = tfc.opened(model)
    kernels = [path for path in tfc.walk(opened) if path.endswith("kernel")]
    names = ["kernel", "recurrent_kernel", "candidate_kernel"]
    assert [path.rpartition("/")[2] for path in kernels] == names[: 3 if "before" in cell else 2]
    assert_same(model, opened, x)
    assert_same(model, opened, x, training=True)  # the same masks of dropout
    closed = tfc.to_ordinary(opened)
    assert classes(closed) == classes(model)
    assert_same(model, closed, x)
    for old, new in zip(model.get_weights(), closed.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("name", WRAPPED)
def test_products_of_wrapped_cells(name, tmp_path):
    model, x = around(WRAPPED[name]()), sequences()
    assert_same(model, tfc.opened(model), x)
    rules = {"r": small.TernaryDense.using()}
    if name.startswith("of"):
        rules = {"*/kernel": small.TernaryDense.using(), "*/recurrent_kernel": low_rank()}
    swapped = tfc.swap(model, rules)
    found = classes(swapped)
    assert kinds.Dense not in found and small.TernaryDense in found
    swapped.compile("adam", "mse")
    target = 0.1 * np.ones(swapped(x).shape)
    losses = swapped.fit(x, target, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    swapped.save(tmp_path / "swapped.keras")
    assert_same(swapped, keras.saving.load_model(tmp_path / "swapped.keras"), x, exact=True)
    assert_same(swapped, tfc.to_ordinary(swapped), x)


def low_rank():
    return small.LowRankDense.using(rank=1)


def test_an_ordinary_layer_with_the_kernels_computes_the_same():
    model, x = around(CELLS["lstm"](return_sequences=True, return_state=True)), sequences()
    rules = {
        "kernel": small.QuantizedDense.using(bits=3),
        "recurrent_kernel": small.HashedDense.using(ratio=4),
    }
    swapped = tfc.swap(model, rules)
    cell = tfc.walk(swapped)["r/lstm_cell"][0]
    plain = around(CELLS["lstm"](return_sequences=True, return_state=True))
    plain.set_weights([np.array(v) for v in (cell.kernel, cell.recurrent_kernel, cell.bias)])
    assert_same(plain, swapped, x)


def test_rules_name_parts_layers_and_all():
    def model():
        return around(CELLS["gru"]())

    one = tfc.swap(model(), {"r/gru_cell/kernel": small.BinaryDense.using()})
    assert classes(one)[-2:] == [small.BinaryDense, kinds.Dense]
    for key in ("r", "gru_cell", kinds.GRU, kinds.GRUCell):
        both = tfc.swap(model(), {key: small.TernaryDense.using()})
        assert classes(both)[-2:] == [small.TernaryDense] * 2
    assert classes(tfc.swap(model(), small.rounding(4)))[-2:] == [small.QuantizedDense] * 2
    kept = tfc.swap(model(), {"r": None, **small.rounding(4)})
    assert classes(kept)[-1] is kinds.GRUCell  # Keras' own


def test_swap_in_place_leaves_the_model_as_it_was_where_it_fails():
    model, x = around(CELLS["lstm"]()), sequences()
    expected = np.array(model(x))
    rules = {"kernel": small.BinaryConv1D.using()}
    with pytest.raises(ValueError, match="cannot be swapped"):
        tfc.swap(model, rules, inplace=True)
    assert classes(model)[-1] is kinds.LSTMCell
    np.testing.assert_array_equal(model(x), expected)
    assert tfc.swap(model, {"r": small.BinaryDense.using()}, inplace=True) is model
    assert classes(model)[-2:] == [small.BinaryDense] * 2


@pytest.mark.parametrize("rank, kind", enumerate(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), 1))
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "return_sequences": True},
        {"strides": 2, "dropout": 0.3, "recurrent_dropout": 0.2, "seed": 3},
    ],
    ids=["same", "strided"],
)
def test_convolutional_cells(rank, kind, options, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 4, *(6,) * rank, 3)).astype("float32")
    layer = getattr(kinds, kind)(4, 3, name="r", **options)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    opened = tfc.opened(model)
    assert list(tfc.walk(opened))[2:] == [f"r/conv_lstm_cell/{p}kernel" for p in ("", "recurrent_")]
    assert_same(model, opened, x)
    assert_same(model, opened, x, training=True)
    opened.save(tmp_path / "opened.keras")
    assert_same(opened, keras.saving.load_model(tmp_path / "opened.keras"), x, exact=True)
    closed = tfc.to_ordinary(opened)
    assert type(closed.layers[0]) is type(layer)
    assert_same(model, closed, x)


def test_a_state_is_kept():
    inputs = keras.Input(batch_shape=(6, 9, 5))
    model = keras.Model(inputs, kinds.LSTM(7, stateful=True)(inputs))
    opened, x = tfc.opened(model), sequences()
    first = np.array(model(x))
    np.testing.assert_allclose(opened(x), first, atol=1e-6)
    assert_same(model, opened, x)  # the second call, from other states
    assert np.abs(np.array(opened(x)) - first).max() > 1e-3


def test_a_product_that_is_no_kernel_runs_step_by_step():
    model = around(CELLS["lstm"]())
    cell = tfc.walk(tfc.swap(model, {"r": small.BinaryDense.using(stochastic=True)}))["r/lstm_cell"]
    assert not hasattr(cell[0], "kernel")
    with pytest.raises(NotImplementedError, match="step by step"):  # as Keras' layers expect it
        _ = cell[0].kernel


def test_a_penalty_on_a_kernel_leaves_the_loop():
    model, x = around(CELLS["lstm"](kernel_regularizer="l2")), sequences()
    swapped = tfc.swap(model, {"r": small.TernaryDense.using()})
    kernel = np.array(tfc.walk(swapped)["r/lstm_cell/kernel"][0].kernel)
    swapped.compile(keras.optimizers.SGD(0.0), "mse")
    loss = swapped.fit(x, np.array(swapped(x)), verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, 0.01 * np.sum(kernel**2), rtol=1e-4)


def test_each_step_of_a_product_is_seen():
    model = tfc.opened(around(CELLS["lstm"]()))
    products = [tfc.walk(model)[f"r/lstm_cell/{name}kernel"][0] for name in ("", "recurrent_")]
    seen = {id(product): [] for product in products}
    watching(model, products, lambda layer, x: seen[id(layer)].append(x))(sequences())
    fed, kept = seen.values()
    np.testing.assert_array_equal(np.stack(fed, 1), sequences())
    assert len(kept) == 9 and not kept[0].any() and kept[1].any()
    assert not tfc.walk(model)["r"][0].unroll
    metrics = tfc.curvature.kronecker(model, sequences())
    expected = np.einsum("btn,btm->nm", sequences(), sequences()) / (6 * 9)
    np.testing.assert_allclose(metrics["r/lstm_cell/kernel"].blocks[0][0], expected, rtol=1e-4)


def test_mixed_precision():
    model, x = around(CELLS["gru"](dtype="mixed_float16")), sequences()
    assert_same(model, tfc.opened(model), x, exact=True)
    swapped = tfc.swap(model, {"r": small.QuantizedDense.using()})
    np.testing.assert_allclose(swapped(x), model(x), atol=0.03)


def test_both_products_are_fitted_to_what_they_see_at_all_steps():
    model, x = around(CELLS["lstm"](return_sequences=True)), sequences()
    x = np.repeat(x, 8, 0) @ np.random.default_rng(3).standard_normal((5, 5)).astype("float32")
    x[:, :, 0] = 3 * x[:, :, 1]  # inputs that are much alike, so that errors can cancel
    rules = {"r": small.QuantizedDense.using(bits=3)}
    plain, fitted = tfc.swap(model, rules), tfc.swap(model, rules, data=x)
    assert classes(fitted)[-2:] == [small.QuantizedDense] * 2
    errors = [np.mean(np.square(np.array(one(x)) - model(x))) for one in (plain, fitted)]
    assert errors[1] < 0.8 * errors[0]
    recurrent = {"recurrent_kernel": small.QuantizedDense.using(bits=2)}
    plain, fitted = tfc.swap(model, recurrent), tfc.swap(model, recurrent, data=x)
    errors = [np.mean(np.square(np.array(one(x)) - model(x))) for one in (plain, fitted)]
    assert errors[1] < 0.8 * errors[0]
