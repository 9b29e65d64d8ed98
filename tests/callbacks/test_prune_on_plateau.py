import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.callbacks import Monitor, PruneOnPlateau, RecalibrateBatchNorm
from tfcompress.measure import objective

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 6)).astype("float32")
Y = X[:, :2] @ np.array([[1.0], [2.0]], "float32")


def net(**options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, name="out", **options)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def run(prune, epochs=60, model=None, **kwargs):
    model = model or net()
    model.fit(X, Y, epochs=epochs, callbacks=[prune], verbose=0, **kwargs)
    return model


def zeros(model):
    return int(np.sum(model.get_layer("out").kernel.numpy() == 0))


def test_rounds_delete_a_share_of_what_is_left():
    prune = PruneOnPlateau(4 / 6, data=(X, Y), share=0.34, monitor="loss", patience=1)
    model = run(prune)
    assert [round(6 * one["sparsity"]) for one in prune.rounds] == [2, 3, 4]  # 6 .66 .66 .66
    assert zeros(model) == 4 and model.stop_training
    np.testing.assert_allclose(model.get_layer("out").kernel[:2, 0], [1, 2], atol=1e-3)


@pytest.mark.parametrize("goal, share, counts", [(0.6, 0.34, [2, 3, 4]), (0.34, 0.05, [1, 2])])
def test_it_ends_where_weights_do_not_make_up_its_shares(goal, share, counts):
    prune = PruneOnPlateau(goal, "magnitude", share=share, monitor="loss", patience=1, tolerance=9)
    model = run(prune)
    assert [round(6 * one["sparsity"]) for one in prune.rounds] == counts
    assert zeros(model) == counts[-1] and model.stop_training


def test_it_ends_at_the_tolerance_with_the_best_model():
    prune = PruneOnPlateau(
        5 / 6, data=(X, Y), share=0.34, monitor="loss", patience=1, tolerance=0.1
    )
    model = run(prune)
    assert prune.rounds[-1]["sparsity"] == pytest.approx(5 / 6)
    assert prune.rounds[-1]["after"] > 0.1  # one weight cannot do it
    assert zeros(model) == 4 and prune.sparsity == pytest.approx(4 / 6)
    assert model.evaluate(X, Y, verbose=0) < 0.1


def test_the_last_epoch_ends_a_round_too():
    prune = PruneOnPlateau(
        5 / 6, data=(X, Y), share=0.5, monitor="loss", patience=3, tolerance=1e-3
    )
    model = run(prune, epochs=4)  # never settles
    assert zeros(model) == 0 and prune.rounds == []


def test_predicted_and_measured_rise():
    """Inputs one at a time: the loss is a sum over the weights, which is what is predicted."""
    x = np.tile(np.sqrt(6) * np.eye(6, dtype="float32"), (16, 1))
    y = x[:, :2] @ np.array([[1.0], [2.0]], "float32")
    examples = tf.data.Dataset.from_tensor_slices((x, y)).batch(1)
    prune = PruneOnPlateau(
        5 / 6, data=examples, share=0.34, monitor="loss", patience=1, tolerance=9
    )
    net(use_bias=False).fit(x, y, epochs=60, callbacks=[prune], verbose=0)
    last = prune.rounds[-1]
    assert last["predicted"] == pytest.approx(1, rel=1e-3)  # E x^2 w^2 with w = 1
    assert last["measured"] == pytest.approx(1, rel=1e-3)


def test_other_scores_predict_nothing(capsys):
    prune = PruneOnPlateau(0.5, "magnitude", monitor="loss", patience=1, verbose=1)
    run(prune)
    assert prune.rounds[0]["predicted"] is None
    assert "sparsity 0.1667: loss" in capsys.readouterr().out


def test_validation_loss_and_a_second_fit():
    prune = PruneOnPlateau(0.5, "magnitude", patience=1, share=0.5)
    model = run(prune, validation_data=(X, Y))
    assert zeros(model) == 3
    prune = PruneOnPlateau(4 / 6, "magnitude", patience=1, share=0.5)
    assert zeros(run(prune, model=model, validation_data=(X, Y))) == 4


def test_epochs_without_validation_are_passed_over():
    prune = PruneOnPlateau(0.5, "magnitude", patience=1, share=0.5)
    assert zeros(run(prune, validation_data=(X, Y), validation_freq=2)) == 3


def test_mean_loss_is_that_of_evaluate():
    rng = np.random.default_rng(0)
    model = net()
    weights = rng.uniform(size=len(X))
    data = X, Y, weights
    expected = np.mean(weights * np.square(model(X) - Y)[:, 0])
    assert objective.mean_loss(model, data) == pytest.approx(expected, rel=1e-5)
    assert objective.mean_loss(model, (X, Y)) == pytest.approx(model.evaluate(X, Y, verbose=0))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": 0.9, "floor": 0.2}, "floor"),
        ({"share": 0}, "share"),
        ({"tolerance": -1}, "tolerance"),
        ({"tolerance": np.nan}, "tolerance"),
        ({"patience": 0}, "patience"),
        ({"monitor": "val_accuracy"}, "to be a loss"),
        ({"score": "obd"}, "needs `data`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PruneOnPlateau(**{"sparsity": 0.5, "score": "magnitude", **arguments})


def test_bad_runs():
    for epochs, data in ((2, {}), (60, {"validation_data": (X, Y), "validation_freq": 2})):
        with pytest.raises(ValueError, match="'val_a_loss'"):
            run(PruneOnPlateau(0.5, "magnitude", monitor="val_a_loss"), epochs, **data)
    with pytest.raises(ValueError, match="matches no layer"):
        run(PruneOnPlateau(0.5, "magnitude", layers="fc"))
    model = net()
    model.compile(keras.optimizers.SGD(1e30), "mse")
    with pytest.raises(ValueError, match="not finite"):
        run(PruneOnPlateau(0.5, "magnitude", monitor="loss", patience=1), model=model)


def test_monitor_writes_a_curve_for_each_kernel(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model, monitor = net(), Monitor(tmp_path)
    model.get_layer("out").kernel.assign([[0], [0], [0], [1], [1], [1]])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(X, Y, epochs=2, callbacks=[monitor], verbose=0)
    assert monitor.sparsity == {"out": [0.5, 0.5]}
    events = reader.EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    assert len(events.Tensors("epoch_sparsity/out")) == 2
    assert "epoch_loss" in events.Tags()["tensors"]


def noisy(count):
    x = np.random.default_rng(count).normal(size=(64, 16)).astype("float32")
    noise = np.random.default_rng(count + 1).normal(size=(64, 1))
    return x, (2 * x[:, :1] + noise).astype("float32")


def wide(norm=False):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(1)]
    if norm:
        layers.insert(1, keras.layers.BatchNormalization())
    model = keras.Sequential([keras.Input((16,)), *layers])
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    return model


def best():
    stopping = keras.callbacks.EarlyStopping
    return stopping("val_loss", patience=100, restore_best_weights=True)


def plateau(**options):
    return PruneOnPlateau(0.9, "magnitude", share=0.3, **options)


def fitted(callbacks, epochs=40, **options):
    model = wide(**options)
    given = {"validation_data": noisy(2), "callbacks": callbacks, "verbose": 0}
    history = model.fit(*noisy(0), batch_size=8, epochs=epochs, **given)
    return model, len(history.epoch)


@pytest.mark.parametrize("first, norm", [(True, True), (True, False), (False, False)])
def test_the_chosen_model_stays_whatever_early_stopping_restores(first, norm):
    alone = plateau(tolerance=0.2)
    expected, _ = fitted([alone], norm=norm)
    prune = plateau(tolerance=0.2)
    callbacks = [prune, best()] if first else [best(), prune]
    model, _ = fitted(callbacks, norm=norm)
    assert prune.rounds == alone.rounds and prune.sparsity == alone.sparsity > 0
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    limit = prune.rounds[0]["before"] + prune.tolerance
    promised = [one["after"] for one in prune.rounds if one["after"] <= limit][-1]
    assert model.evaluate(*noisy(2), verbose=0) == pytest.approx(promised, rel=1e-4)


def test_statistics_that_are_measured_anew_stay():
    prune = plateau(tolerance=0.2)
    recalibrate = RecalibrateBatchNorm(noisy(5)[0])
    model, _ = fitted([prune, recalibrate], norm=True)
    found = model.get_weights()
    recalibrate.on_train_end()
    assert prune.sparsity > 0
    for a, b in zip(found, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


class StopAt(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.left = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.left -= 1
        if not self.left:
            self.model.stop_training = True


@pytest.mark.parametrize("epochs, first", [(18, False), (20, False), (20, True)])
def test_who_ends_the_training_makes_no_difference(epochs, first):
    ended, stopped = plateau(tolerance=1.0), plateau(tolerance=1.0)
    expected, _ = fitted([ended], epochs)
    callbacks = [StopAt(epochs), stopped] if first else [stopped, StopAt(epochs)]
    model, trained = fitted(callbacks, 60)
    assert trained == epochs and stopped.rounds == ended.rounds
    assert {"sparsity", "before", "after", "epochs"} <= set(stopped.rounds[-1])
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_round_that_training_ends_before_its_first_epoch():
    prune = PruneOnPlateau(0.9, "magnitude", monitor="loss", patience=1, share=0.5, tolerance=9)
    model = net()

    class StopAfterDeletion(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if prune.rounds:
                self.model.stop_training = True

    model.fit(X, Y, epochs=60, callbacks=[prune, StopAfterDeletion()], verbose=0)
    (last,) = prune.rounds
    assert last["after"] is None and last["epochs"] == 0
    assert zeros(model) == 0 and prune.sparsity == 0  # the model before the deletion
