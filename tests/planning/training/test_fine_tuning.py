"""The training in `compress`: its steps, its data, its length, and what it is told to give."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress as tfc
from tfcompress.planning import planner
from tfcompress.planning.attempts import Compressor
from tfcompress.planning.training.fine_tuner import RATES, FineTuner
from tfcompress.planning.training.trainer import AdamInProportion, Trainer, Training, scales

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RANDOM = np.random.default_rng(0)


def problem(count):
    y = RANDOM.integers(0, 3, count)
    return (RANDOM.normal(size=(count, 24)) + 2 * np.eye(3, 24)[y]).astype("float32"), y


TRAIN, TEST = problem(400), problem(200)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(64, "relu", name="fc")
    model = keras.Sequential([keras.Input((24,)), hidden, layers.Dense(3, name="out")])
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"], jit_compile=False)
    model.fit(*TRAIN, epochs=4, verbose=0)
    return model


@pytest.fixture
def few_forms(monkeypatch):
    forms = {f"{bits} bits": list(tfc.layers.rounding(bits).values()) for bits in (4, 8)}
    monkeypatch.setattr(planner, "default_candidates", lambda target: forms)


def test_a_step_on_a_scale_is_in_proportion_to_it():
    """The first step of Adam is the rate, whatever the gradient."""
    scale, other = (keras.Variable([0.002, -0.5, 0.0]) for _ in range(2))
    optimizer = AdamInProportion(0.1, [scale])
    optimizer.apply([tf.constant([3.0, 0.1, 1.0])] * 2, [scale, other])
    np.testing.assert_allclose(scale, [0.002 * 0.9, -0.5 * 1.1, 0.0], rtol=1e-4)
    np.testing.assert_allclose(other, [0.002 - 0.1, -0.5 - 0.1, -0.1], rtol=1e-4)


def test_training_leaves_the_order_of_size_of_scales(model):
    small = tfc.swap(model, {keras.layers.Dense: tfc.layers.QuantizedDense.using(bits=8)})
    before = [keras.ops.convert_to_numpy(scale) for scale in scales(small)]
    assert [scale.shape for scale in before] == [(64,), (3,)]
    new = Trainer(model, model, LOSS, None, (*TRAIN, None), TRAIN[0])(small, 2, 0.01, 0.5, 2.0)
    for old, now in zip(before, scales(new), strict=True):
        ratio = keras.ops.convert_to_numpy(now) / old
        assert ratio.min() > 0.7 and ratio.max() < 1.4 and np.ptp(ratio) > 1e-3


class Table:
    """A trainer whose models are names, and a score by epochs and rate."""

    original = teacher = train = None

    def __init__(self, scores):
        self.scores, self.runs = scores, []

    def check_teaches(self):
        pass

    def __call__(self, model, epochs, rate, alpha, temperature):
        self.runs.append((epochs, rate))
        return epochs, rate

    def score(self, model):
        return self.scores.get(model, 0.1)


def tuner(scores, fine_tune, sign=1):
    table = Table(scores)
    made = FineTuner(table, fine_tune, 0, table.score, lambda a, b: sign * (a - b))
    return table, made


def test_rates_are_tried_first_and_then_longer_trainings_while_they_help():
    first, second, third = RATES
    scores = {(1, second): 0.5, (1, first): 0.4, (3, second): 0.6, (9, second): 0.7, "start": 0.2}
    table, tune = tuner(scores, "auto")
    kept, training = tune("start", 0.1, 0.5, 2.0)
    assert kept == (9, second) and (training.epochs, training.rate) == (9, second)
    assert (training.before, training.after, len(training.tried)) == (0.2, 0.7, 5)
    assert table.runs == [(1, first), (1, second), (1, third), (3, second), (9, second)]
    tune("start", 0.1, 0.5, 2.0)  # that of another budget
    assert table.runs[5:] == [(9, second)]
    table, tune = tuner(scores | {(3, second): 0.45}, "auto")
    assert tune("start", 0.1, 0.5, 2.0)[0] == (1, second) and len(table.runs) == 4


@pytest.mark.parametrize("fine_tune", [3, "auto"])
def test_what_training_makes_worse_is_not_kept(fine_tune):
    for scores, sign in (({"start": 0.3}, 1), ({"start": -0.3}, -1)):
        _, tune = tuner(scores, fine_tune, sign)
        kept, training = tune("start", 0.001, 0.5, 2.0)
        assert kept == "start" and training.epochs == 0
        assert training.before == training.after == scores["start"]
        assert "(none was better" in str(training)
    assert tuner({"start": 0.1}, fine_tune)[1]("start", 0.001, 0.5, 2.0)[1].epochs  # no worse


def test_what_the_training_gave_is_told(model, few_forms):
    made = tfc.compress(model, TRAIN, 0.5, validation_data=TEST, fine_tune=2)
    assert made.training.after == made.after >= made.training.before
    assert made.training.tried[0][:2] == (2, 1e-3) and made.training.seconds > 0
    assert f"training: accuracy {made.training}" in str(made)
    assert tfc.compress(model, TRAIN, 0.5, validation_data=TEST, fine_tune=0).training is None
    told = str(Training(0.5, 0.75, 9, 1e-3, [(1, 1e-3, 0.6), (9, 1e-3, 0.75)], 12.0))
    assert told == "0.5000 -> 0.7500 (9 epochs from a rate of 0.001; 2 tried; 12 s)"
    assert str(Training(0.5, 0.75, None, None, [], 12.0)) == (
        "0.5000 -> 0.7500 (by your function; 12 s)"
    )


def dataset(read):
    """Training data with noise that is new in each epoch."""

    def examples():
        read.append(0)
        for i in range(0, 400, 50):
            read[-1] += 1
            x = TRAIN[0][i : i + 50]
            yield x + RANDOM.normal(0, 0.1, x.shape).astype("float32"), TRAIN[1][i : i + 50]

    of = tf.TensorSpec((None, 24), "float32"), tf.TensorSpec((None,), "int64")
    return tf.data.Dataset.from_generator(examples, output_signature=of)


@pytest.mark.parametrize("teacher", ["self", None])
def test_an_own_dataset_is_trained_on_and_not_held(model, few_forms, teacher):
    read = []
    given = {"validation_data": TEST, "train": dataset(read), "teacher": teacher}
    made = tfc.compress(model, TRAIN, 0.5, fine_tune=2, **given)
    assert read.count(8) >= 3  # to check it, and in each epoch
    assert made.after > made.before - 0.05


def test_an_own_function_gets_the_own_dataset(model, few_forms):
    seen, data = [], dataset([])

    def fine_tune(student, teacher, given):
        seen.append(given)

    given = None, fine_tune, "self", TEST, "tflite", "fast", None
    compressor = Compressor(model, TRAIN, *given, train=data)
    assert compressor.attempt(0.5).training.epochs is None and seen == [data]


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (lambda: dataset([]), {"validation_data": None}, "Give `validation_data` with it"),
        (lambda: TRAIN, {}, "`train` yields batches.*Received: tuple"),
        (lambda: iter([TRAIN]), {}, "can be used only once"),
        (lambda: dataset([]).repeat(), {}, "never ends"),
        (lambda: dataset([]).map(lambda x, y: (x[:, :5], y)), {}, "24"),
        (lambda: dataset([]).map(lambda x, y: (x, y + 1)), {}, "labels from 0 to 2"),
        (lambda: dataset([]), {"class_weight": {0: 2.0}}, "`class_weight` weighs data"),
        (lambda: None, {"fine_tune": "long"}, "'auto' or a function. Received: 'long'"),
    ],
)
def test_datasets_that_cannot_be_trained_on(model, train, options, message):
    with pytest.raises(ValueError, match=message):
        tfc.compress(model, TRAIN, 0.5, **{"validation_data": TEST, "train": train()} | options)
