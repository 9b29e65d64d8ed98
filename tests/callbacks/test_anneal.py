import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.callbacks import Anneal
from tfcompress.schedules import Linear, Piecewise

X = np.ones((12, 2), "float32")


def compiled(**options):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", **options)
    return model


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(round(float(self.model.optimizer.learning_rate), 6))


def rates(model, schedule, **options):
    watch = Watch()
    anneal = Anneal(model.optimizer, "learning_rate", schedule)
    model.fit(X, X[:, :1], batch_size=4, verbose=0, callbacks=[anneal, watch], **options)
    return watch.seen


def test_each_batch_gets_the_schedules_value():
    assert rates(compiled(), Linear(0.6, 0.0, 6), epochs=2) == [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def test_a_resumed_fit_goes_on():
    found = rates(compiled(), Linear(0.6, 0.0, 6), epochs=2, initial_epoch=1)
    assert found == [0.3, 0.2, 0.1]


@pytest.mark.parametrize("known", [True, False])
def test_a_resumed_fit_on_data_of_unknown_length_goes_on(known):
    data = tf.data.Dataset.from_tensor_slices((X, X[:, :1])).batch(4)
    data = data if known else data.filter(lambda x, y: True)
    model, found = compiled(), []
    for begin, end in [(0, 2), (2, 4)]:
        anneal = Anneal(model.optimizer, "learning_rate", Linear(1.0, 0.0, 100))
        options = {"epochs": end, "initial_epoch": begin, "verbose": 0}
        found += model.fit(data, callbacks=[anneal], **options).history["learning_rate"]
    # on TensorFlow the optimizer also counts the step that finds the end of the data
    assert found == pytest.approx([0.98, 0.95, 0.92, 0.89], abs=0.035 - 0.034 * known)


def test_several_steps_per_execution():
    found = rates(compiled(steps_per_execution=2), Linear(0.6, 0.0, 6), epochs=2)
    assert found == [0.6, 0.4, 0.3, 0.1]


def test_a_second_fit_begins_anew():
    model = compiled()
    assert rates(model, Piecewise({0: 0.5, 2: 0.1})) == [0.5, 0.5, 0.1]
    assert rates(model, Piecewise({0: 0.5, 2: 0.1})) == [0.5, 0.5, 0.1]


def test_schedules_that_return_a_pair():
    assert rates(compiled(), lambda step: (step != 1, 0.1 * (step + 1))) == [0.1, 0.1, 0.3]


def test_a_plain_attribute_is_refused():
    layer = keras.layers.Dropout(0.5)
    with pytest.raises(TypeError, match=r"keras.Variable.*Received: 0.5"):
        Anneal(layer, "rate", Linear(0, 1, 2))
    with pytest.raises(TypeError, match="Received: None"):
        Anneal(layer, "rat", Linear(0, 1, 2))


def test_a_schedule_must_be_callable():
    with pytest.raises(TypeError, match="schedule"):
        Anneal(compiled().optimizer, "learning_rate", 0.5)
