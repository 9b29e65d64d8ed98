"""What `Prune` reaches beside callbacks that go back to the best epoch, and in one's own loops."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import Prune
from tfcompress.schedules import Constant, Linear, Piecewise, Polynomial

R = np.random.default_rng(0)
X = R.normal(size=(256, 16)).astype("float32")
Y = (X @ R.normal(size=(16, 4))).astype("float32")


def net(**options):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(32, "relu", name="fc"), layers.Dense(4, name="out")]
    model = keras.Sequential([keras.Input((16,)), *parts])
    model.compile(keras.optimizers.Adam(0.02), "mse", **options)
    return model


def zeros(model):
    kernels = [np.ravel(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]
    return float(np.mean(np.concatenate(kernels) == 0))


def fit(callbacks, model=None, epochs=10):
    """The fitted model, and the text of each warning of `Prune`."""
    model = model or net()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        given = {"validation_data": (X, Y), "callbacks": callbacks, "verbose": 0}
        model.fit(X, Y, epochs=epochs, **given)
    said = [str(one.message) for one in found]
    return model, [text for text in said if "prune" in text.lower()]


def stopping(**options):
    return keras.callbacks.EarlyStopping(patience=50, restore_best_weights=True, **options)


def steep():
    return Prune(Linear(0.0, 0.9, 40), every=4)


@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_keeps_no_dense_epoch(first):
    callbacks = [stopping(), steep()]
    model, said = fit(callbacks if first else callbacks[::-1])
    assert zeros(model) == pytest.approx(0.9, abs=0.002)
    (text,) = said
    assert "reached a sparsity of 0.9 and was asked for 0.9" in text
    assert "EarlyStopping restored the weights of epoch 3, when the sparsity was 0.54" in text


@pytest.mark.parametrize("first", [True, False])
def test_a_best_epoch_after_the_schedule_is_fine(first):
    callbacks = [stopping(start_from_epoch=6), steep()]
    model, said = fit(callbacks if first else callbacks[::-1])
    assert zeros(model) == pytest.approx(0.9, abs=0.002) and not said


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_a_checkpoint_of_a_dense_epoch_is_named(first, weights, tmp_path):
    path = tmp_path / ("best.weights.h5" if weights else "best.keras")
    best = keras.callbacks.ModelCheckpoint(path, save_best_only=True, save_weights_only=weights)
    model, said = fit([best, steep()] if first else [steep(), best])
    assert zeros(model) == pytest.approx(0.9, abs=0.002)
    (text,) = said
    assert f"The best model in {str(path)!r} is of epoch 3, when the sparsity was 0.54" in text
    if weights:
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    assert zeros(model) == pytest.approx(0.54, abs=0.002)


@pytest.mark.parametrize(
    ("schedule", "reached", "asked"),
    [
        (Polynomial(0.0, 0.8, 1000), "0.17", "0.8"),
        (Piecewise({0: 0.25, 100: 0.5}), "0.25", "0.5"),
        (lambda step: min(0.8, step / 160), "0.5", "0.8"),
        (Polynomial(0.0, 0.8, 80), None, None),
        (Constant(0.5), None, None),
        (lambda step: ([0.5] * 90)[step], None, None),
    ],
)
def test_a_schedule_longer_than_the_training_is_said_once(schedule, reached, asked):
    _, said = fit([Prune(schedule, every=4)])
    if reached is None:
        assert not said
        return
    (text,) = said
    assert f"reached a sparsity of {reached}" in text and f"asked for {asked}" in text
    assert "after the 80 steps of this training" in text


def test_layers_that_are_left_out_are_named_once():
    start = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 8, name="words")(start)
    x = layers.GlobalAveragePooling1D()(layers.LSTM(6, return_sequences=True, name="lstm")(x))
    frozen = layers.Dense(8, name="frozen", trainable=False)
    lora = layers.Dense(8, name="lora")
    model = keras.Model(start, layers.Dense(4, name="out")(lora(frozen(x))))
    lora.enable_lora(2)
    model.compile("sgd", "mse")
    words = R.integers(0, 9, (16, 5))
    with pytest.warns(UserWarning, match="These layers are not pruned") as found:
        model.fit(words, np.zeros((16, 4)), 8, 2, 0, callbacks=[Prune(Constant(0.5), every=1)])
    (text,) = [str(one.message) for one in found if "not pruned" in str(one.message)]
    lines = text.splitlines()[1:]
    assert [line.partition(":")[0] for line in lines] == ["- words", "- frozen", "- lora"]
    with pytest.raises(ValueError, match=r"'lora' cannot be pruned: .*LoRA"):
        tfc.prune(model, 0.5, layers="lora")
    with pytest.warns(UserWarning, match="- lora: "):
        pruned = tfc.prune(model, 0.5)
    recurrent = pruned.get_layer("lstm").cell.recurrent_kernel
    assert np.mean(keras.ops.convert_to_numpy(recurrent) == 0) >= 0.5


def test_a_model_that_fit_builds():
    model = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(4)])
    with pytest.raises(ValueError, match="is not built, so it has no weights to prune"):
        tfc.prune(model, 0.5)
    model.compile("adam", "mse")
    fit([Prune(Constant(0.5), every=1)], model, epochs=2)
    assert zeros(model) == pytest.approx(0.5, abs=0.002)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a loop in TensorFlow")
@pytest.mark.parametrize("with_list", [True, False])
def test_a_training_loop_of_ones_own(with_list):
    import tensorflow as tf

    model, optimizer = net(), keras.optimizers.Adam(0.01)
    prune = Prune(Linear(0.0, 0.5, 20), every=2)
    if with_list:
        prune = keras.callbacks.CallbackList([prune], model=model)
    else:
        prune.set_model(model)
    prune.on_train_begin()
    for epoch in range(4):
        prune.on_epoch_begin(epoch)
        for step in range(8):
            prune.on_train_batch_begin(step)
            x, y = X[32 * step : 32 * step + 32], Y[32 * step : 32 * step + 32]
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
            gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
            optimizer.apply(gradients, model.trainable_variables)
            prune.on_train_batch_end(step)
        prune.on_epoch_end(epoch, {})
    prune.on_train_end()
    assert zeros(model) == pytest.approx(0.5, abs=0.002)


def test_a_loop_that_leaves_calls_out_is_refused():
    prune = Prune(Constant(0.5))
    with pytest.raises(ValueError, match=r"call `set_model\(model\)` first"):
        prune.on_train_batch_begin(0)
    prune.set_model(net())
    prune.on_train_begin()
    for _ in range(2):
        prune.on_train_batch_begin(0)
        if prune.steps_done:
            with pytest.raises(ValueError, match="call `on_epoch_begin` for each epoch"):
                prune.on_train_batch_end(0)
        else:
            prune.on_train_batch_end(0)
