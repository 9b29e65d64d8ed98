"""Whatever stands before `Prune` in the list of callbacks sees a pruned model at batch ends."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.callbacks import Anneal, Prune
from tfcompress.callbacks.places import AtTheBatchEnd
from tfcompress.schedules import Constant, Linear

R = np.random.default_rng(0)
X = R.normal(size=(96, 16)).astype("float32")
Y = X[:, :1] * 2
STEPS = 12


def net(**options):
    keras.utils.set_random_seed(1)
    parts = layers.Dense(16, "relu", name="fc"), layers.Dense(1, name="out")
    model = keras.Sequential([keras.Input((16,)), *parts])
    model.compile("adam", "mse", **options)
    return model


def kernels(model):
    return np.concatenate([np.ravel(layer.kernel) for layer in model.layers])


def zeros(model):
    return float(np.mean(kernels(model) == 0))


def fit(model, callbacks, epochs=1):
    model.fit(X, Y, 8, epochs, 0, shuffle=False, callbacks=callbacks)
    return model


def steep(**options):
    return Prune(Linear(0.1, 0.6, STEPS - 1), every=1, **options)


class Look(keras.callbacks.Callback):
    """The kernels at the end of each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(kernels(self.model))


class Break(keras.callbacks.Callback):
    def __init__(self, at):
        super().__init__()
        self.left = at

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_callbacks_see_the_same_wherever_prune_stands(at_once, score):
    before, after = Look(), Look()
    fit(net(steps_per_execution=at_once), [before, steep(score=score), after])
    first = Look()
    fit(net(steps_per_execution=at_once), [steep(score=score), first])
    for looks in zip(before.seen, after.seen, first.seen, strict=True):
        for other in looks[1:]:
            np.testing.assert_array_equal(looks[0], other)
    assert np.mean(before.seen[-1] == 0) == pytest.approx(0.6, abs=0.01)


def test_a_function_at_batch_ends_sees_zeros_too():
    model, seen = net(), []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(zeros(model))
    )
    fit(model, [look, Prune(Constant(0.5), every=1)])
    assert np.allclose(seen, 0.5, atol=0.01) and len(seen) == STEPS


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_of_a_batch_is_pruned(first, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "at.keras", save_freq=7)
    callbacks = [checkpoint, Prune(Constant(0.5), "random", every=2)]
    fit(net(), callbacks if first else callbacks[::-1])
    saved = keras.models.load_model(tmp_path / "at.keras")
    assert zeros(saved) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("first", [True, False])
def test_a_backup_of_a_batch_brings_no_weight_back(first, tmp_path):
    def callbacks(*others):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=4)
        both = [backup, Prune(Constant(0.5), "random", every=2)]
        return [*(both if first else both[::-1]), *others]

    with pytest.raises(KeyboardInterrupt):
        fit(interrupted := net(), callbacks(Break(STEPS + 1)), epochs=3)
    gone = kernels(interrupted) == 0
    model = net()
    np.random.seed(99)
    fit(model, callbacks(), epochs=3)
    assert not kernels(model)[gone].any()
    assert zeros(model) == pytest.approx(0.5, abs=0.01)


def test_weights_that_a_callback_moves_are_zeroed_after_it():
    class Move(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = self.model.get_layer("fc").kernel
            kernel.assign(kernel + 1.0)

    look = Look()
    fit(net(), [Move(), Prune(Constant(0.5), every=1), look])
    assert all(np.mean(seen == 0) >= 0.49 for seen in look.seen)


def test_two_of_them_act_in_their_order():
    def both(look):
        halves = [
            Prune(Constant(0.5), "random", layers="fc", every=1),
            Prune(Constant(0.5), "random", layers="out", every=1),
        ]
        return [look, *halves], [halves[0], look, halves[1]], [*halves, look]

    seen = []
    for place in range(3):
        look = Look()
        fit(net(), both(look)[place])
        seen.append(look.seen)
    for looks in zip(*seen, strict=True):
        np.testing.assert_array_equal(looks[0], looks[1])
        np.testing.assert_array_equal(looks[0], looks[2])


def test_only_what_acts_at_batch_ends_costs_another_pass():
    inserted = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            now = self.owner.callbacks
            inserted.append(sum(isinstance(one, AtTheBatchEnd) for one in now))

    stopping = keras.callbacks.EarlyStopping("loss")
    for before in (stopping, Look()):
        spy, model = Spy(), net()
        listed = [before, steep(), spy]
        spy.owner = keras.callbacks.CallbackList(listed, add_history=True, model=model)
        fit(model, spy.owner)
    assert inserted == [0, 1]


@pytest.mark.parametrize("breaks", [True, False])
def test_a_list_of_ones_own_is_as_it_was_and_serves_again(breaks):
    model, prune, look = net(), steep(), Look()
    given = [look, prune]
    if breaks:
        given.append(Break(5))
    listed = keras.callbacks.CallbackList(given, add_history=True, model=model)
    listed.set_params({"epochs": 1, "steps": STEPS, "verbose": 0})
    if breaks:
        with pytest.raises(KeyboardInterrupt):
            fit(model, listed)
        look.seen.clear()
    before = [one for one in listed.callbacks if type(one).__module__ != AtTheBatchEnd.__module__]
    before = [one for one in before if type(one).__name__ != "AtTheEnd"]
    assert given == before[: len(given)]
    for fits in (1, 2):
        fit(model, listed)
        assert listed.callbacks == before
        assert len(look.seen) == STEPS * fits
        assert zeros(model) == pytest.approx(0.6, abs=0.01)


def test_a_callback_that_is_listed_twice_is_refused():
    prune = steep()
    for callbacks in ([prune, prune], [Look(), prune, prune]):
        with pytest.raises(ValueError, match=r"List a callback once.* 2 times"):
            fit(net(), callbacks)


def test_it_counts_a_resumed_fit_behind_another_callback():
    """Of unknown length, in a model that `fit` builds."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).filter(lambda x, y: True)
    model = keras.Sequential([layers.Dense(16), layers.Dense(1)])
    model.compile("adam", "mse")
    for begin in range(2):
        prune = Prune(Linear(0.0, 0.6, 2 * STEPS), every=1)
        anneal = Anneal(model.optimizer, "learning_rate", Constant(0.01))
        options = {"epochs": begin + 1, "initial_epoch": begin, "verbose": 0}
        model.fit(data, callbacks=[anneal, prune], **options)
        # on TensorFlow the optimizer also counts the step that finds the end of the data
        assert prune.steps_done - STEPS * (begin + 1) in (0, begin)
        assert zeros(model) == pytest.approx(0.3 * (begin + 1), abs=0.03)
