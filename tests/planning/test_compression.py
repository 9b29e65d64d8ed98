import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.export import file_bytes, unverified
from tfcompress.measure import held_out_loss
from tfcompress.planning import examples
from tfcompress.planning.attempts import Compressor
from tfcompress.utils.arrays import spread

L = keras.layers
RNG = np.random.default_rng(0)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def problem(count):
    y = RNG.integers(0, 4, count)
    x = RNG.normal(size=(count, 64)) + 2.0 * np.eye(4, 64)[y]
    return x.astype("float32"), y


TRAIN, TEST = problem(1000), problem(400)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    parts = [L.Dense(96, "relu", name="fc1"), L.BatchNormalization(), L.Dense(96, "relu")]
    model = keras.Sequential([keras.Input((64,)), *parts, L.Dense(4, name="out")])
    model.compile(keras.optimizers.Adam(5e-3), LOSS, metrics=["accuracy"], jit_compile=False)
    model.fit(*TRAIN, epochs=8, batch_size=50, verbose=0)
    return model


def test_the_file_holds_the_budget_and_is_what_was_measured(model, tmp_path):
    before = model.get_weights()
    path = tmp_path / "small.tflite"
    made = tfc.compress(model, TRAIN, 0.2, validation_data=TEST, path=path)
    assert made.size == len(made.tflite) <= 0.2 * file_bytes(model)
    assert path.read_bytes() == made.tflite
    assert made.before == pytest.approx(model.evaluate(*TEST, verbose=0)[1])
    assert made.after > made.before - 0.05
    again = keras.Model(made.model.inputs, made.model.outputs)
    assert np.mean(again.predict(TEST[0], verbose=0).argmax(-1) == TEST[1]) == (
        pytest.approx(made.after)
    )
    assert all(map(np.array_equal, before, model.get_weights()))
    *_, asked, reached, trained, tried = str(made).splitlines()
    assert asked == f"asked for: budget=0.2, target='tflite'; it took {made.seconds:.0f} s"
    assert reached.startswith(f"reached: {made.size:,} of ") and ", accuracy 0." in reached
    assert trained == f"training: accuracy {made.training}"
    assert tried.startswith("budget ") and 0 < made.seconds < 1000


def test_a_file_that_grows_in_the_training(model, monkeypatch):
    trained = []

    def size(self, model, cost, *rest):
        return len(self.file(model)) * (1.1 if model in trained else 1.0)

    monkeypatch.setattr(Compressor, "size", size)

    def fine_tune(student, teacher, data):
        trained.append(student)

    made = Compressor(model, TRAIN, None, fine_tune, None, TEST, "tflite", "fast", None)
    budget = made.plan_within(0.5 * made.float_size)[1] / made.float_size
    attempt = made.attempt(budget)  # the second plan aims a tenth lower
    assert attempt.size <= budget * made.float_size and len(trained) == 2
    with pytest.warns(UserWarning, match="above the budget"):
        attempt = made.attempt(1.01 * made.smallest_size / made.float_size)
    assert attempt.size > 1.01 * made.smallest_size


def test_the_batches_of_the_training(model, monkeypatch):
    seen, fit = [], tfc.Distiller.fit

    def watched(self, *args, **kwargs):
        found = fit(self, *args, **kwargs)
        seen.append(int(self.optimizer.iterations))
        return found

    monkeypatch.setattr(tfc.Distiller, "fit", watched)
    given = {"target": "bits", "validation_data": TEST, "fine_tune": 1, "batch_size": 100}
    tfc.compress(model, TRAIN, 0.3, **given)
    tfc.search(model, TRAIN, 0.3, 1, **given)
    assert seen == [10, 10, 10]
    with pytest.raises(ValueError, match="`batch_size`"):
        tfc.compress(model, TRAIN, 0.3, batch_size=0)


def test_a_model_compiled_without_xla_is_trained_without(model, monkeypatch):
    seen, fit = [], tfc.Distiller.fit

    def watched(self, *args, **kwargs):
        seen.append(self.jit_compile)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(tfc.Distiller, "fit", watched)
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    plain.compile("adam", LOSS, jit_compile=False)
    tfc.compress(plain, TRAIN, 0.3, target="bits", fine_tune=1)
    assert seen == [False]


def test_a_budget_in_bytes_of_an_archive(model):
    made = tfc.compress(model, TRAIN, 9000, validation_data=TEST, target="archive", fine_tune=1)
    assert made.size <= 9000


def test_the_smallest_budget_that_keeps_the_metric(model):
    made = tfc.compress(model, TRAIN, None, 0.03, validation_data=TEST, fine_tune=1)
    assert made.before - made.after <= 0.03
    assert made.size == min(size for _, size, value in made.tried if made.before - value <= 0.03)
    from_there = tfc.compress(model, TRAIN, 0.4, 0.5, validation_data=TEST, fine_tune=0)
    assert len(from_there.tried) == 1 and from_there.tried[0][0] <= 0.4


def test_training_recovers_what_the_swap_costs(model):
    arguments = {"budget": 0.15, "validation_data": TEST, "teacher": None}
    rough = tfc.compress(model, TRAIN, **arguments, fine_tune=0)
    tuned = tfc.compress(model, TRAIN, **arguments, fine_tune=3)
    assert tuned.after > rough.after - 0.02


def test_own_training_and_own_metric(model):
    seen = []

    def train(student, teacher, data):
        seen.append((student, teacher, len(data[0])))

    made = tfc.compress(model, TRAIN, 0.3, fine_tune=train, metric=lambda m: float(m is model))
    assert seen == [(made.model, model, 900)]
    assert (made.before, made.after) == (1.0, 0.0)


def test_inputs_alone(model):
    made = tfc.compress(model, TRAIN[0], 0.3, fine_tune=1)
    assert made.before == 1.0  # against its own classes
    assert made.after > 0.8


def test_nothing_keeps_an_impossible_metric(model):
    falls = iter([1.0] + [0.0] * 20)
    with pytest.raises(ValueError, match="No budget up to"):
        tfc.compress(model, TRAIN, None, 0.1, metric=lambda m: next(falls), fine_tune=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give a `budget`"),
        ({"budget": -1}, "`budget` > 0"),
        ({"budget": 0.1, "max_drop": -0.5}, "`max_drop` >= 0"),
        ({"budget": 0.1, "fine_tune": -1}, "fine_tune"),
        ({"budget": 0.1, "teacher": "me"}, "`teacher`"),
        ({"budget": 0.1, "target": "bytes"}, "`target`"),
        ({"budget": 0.001}, r'smallest forms exceed .* `store="small"` needs less'),
        ({"budget": 0.3, "metric": "not a metric"}, "not a metric"),
    ],
)
def test_bad_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tfc.compress(model, TRAIN, **arguments)


def test_a_full_integer_file_gets_no_advice_that_it_cannot_take():
    files = {"target": "tflite", "store": "fast", "smallest_size": 2000, "float_size": 9000}
    for static, end in (
        (False, "and its files run slower. Received: 9"),
        (True, "9,000. Received: 9"),
    ):
        with pytest.raises(ValueError, match=f"{end}$"):
            Compressor.plan_within(SimpleNamespace(**files, static=static), 9)


def test_the_smallest_file_of_a_convolution_is_counted_as_it_is_written():
    keras.utils.set_random_seed(0)
    parts = [L.Conv2D(32, 5, name="conv"), L.GlobalAveragePooling2D()]
    net = keras.Sequential([keras.Input((6, 6, 64)), *parts])
    net = tfc.swap(net, {"conv": tfc.layers.QuantizedConv2D.using(bits=4)})
    x = RNG.normal(size=(8, 6, 6, 64)).astype("float32")
    terms = {"store": "small", "activations": "int8"}
    counted = Compressor.file(SimpleNamespace(**terms, check=x, static=False), net)
    assert counted == tfc.to_tflite(net, **terms, rest="int8", check=x)
    assert len(counted) > len(unverified(net, "small", "int8"))  # which has no ranges


def test_ids_that_are_floats_reach_the_report():
    keras.utils.set_random_seed(0)
    parts = [L.Embedding(200, 32), L.GlobalAveragePooling1D(), L.Dense(32), L.Dense(4)]
    net = keras.Sequential([keras.Input((12,)), *parts])
    ids = RNG.integers(0, 200, (64, 12)).astype("float32")
    made = tfc.compress(net, ids, 0.5, fine_tune=0)
    assert made.report.file.latency_ratio > 0


def test_regression_is_measured_by_its_loss():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), L.Dense(32), L.Dense(2)])
    model.compile("adam", "mse", jit_compile=False)
    for data in (TRAIN[0], (TRAIN[0], TRAIN[0][:, :2])):
        made = tfc.compress(model, data, 0.5, fine_tune=1, target="bits")
        expected = 0.0
        if isinstance(data, tuple):
            held_out = tuple(part[spread(1000, 100)] for part in data)
            expected = model.evaluate(*held_out, verbose=0)
            now = keras.Model(made.model.inputs, made.model.outputs)
            now.compile("adam", "mse", jit_compile=False)
            assert made.after == pytest.approx(now.evaluate(*held_out, verbose=0), rel=1e-4)
        assert made.metric == "loss" and made.before == pytest.approx(expected, rel=1e-5)
        if expected == 0.0:  # no labels: any change is one for the worse
            assert made.after > 0


def test_less_of_an_error_is_better():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), L.Dense(32, "relu"), L.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], jit_compile=False)
    model.fit(TRAIN[0], TRAIN[0][:, :2], epochs=5, verbose=0)
    data = TRAIN[0], TRAIN[0][:, :2]
    made = tfc.compress(model, data, None, 0.02, fine_tune=1, target="bits")
    assert made.metric == "mean_absolute_error" and made.after <= made.before + 0.02
    assert made.size == min(s for _, s, value in made.tried if value <= made.before + 0.02)


def test_sample_weights_count_in_training_and_in_the_metric(model):
    wrong = RNG.random(1000) < 0.5
    y = np.where(wrong, (TRAIN[1] + 1) % 4, TRAIN[1])
    data = TRAIN[0], y, (~wrong).astype("float32")
    arguments = {"fine_tune": 5, "teacher": None, "budget": 0.4}
    made = tfc.compress(model, data, **arguments, validation_data=TEST)
    assert made.after > made.before - 0.05
    held_out = tfc.compress(model, data, **arguments | {"fine_tune": 0})
    drawn = spread(1000, 100)
    ones = ~wrong[drawn]
    right = model.predict(TRAIN[0][drawn], verbose=0).argmax(-1) == y[drawn]
    assert held_out.before == pytest.approx(right[ones].mean())


def test_a_search_goes_on_where_it_was_cut_off(model, tmp_path):
    import optuna

    storage = f"sqlite:///{tmp_path}/search.db"
    arguments = {"validation_data": TEST, "fine_tune": 1, "storage": storage}
    tfc.search(model, TRAIN, 0.2, trials=2, **arguments)
    made = tfc.search(model, TRAIN, 0.2, trials=3, **arguments)
    study = optuna.load_study(study_name="tfcompress", storage=storage)
    assert len(study.trials) == 3
    assert study.trials[0].params["tilt"] == 0.0
    assert made.after == pytest.approx(study.best_value)  # the same model again
    assert made.size <= 0.2 * file_bytes(model)


def test_the_values_of_compress_are_tried_again_where_they_were_broken_off(model, tmp_path):
    import optuna

    storage, calls = f"sqlite:///{tmp_path}/search.db", []

    def broken(model):
        calls.append(model)
        if len(calls) == 2:  # the first call is of the model itself
            raise KeyboardInterrupt
        return float("nan") if len(calls) > 4 else 0.5

    arguments = {"target": "bits", "fine_tune": 1, "storage": storage, "metric": broken}
    with pytest.raises(KeyboardInterrupt):
        tfc.search(model, TRAIN, 0.2, trials=1, **arguments)
    tfc.search(model, TRAIN, 0.2, trials=1, **arguments)
    study = optuna.load_study(study_name="tfcompress", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[1].params["rate"] == 1e-3
    others = {"validation_data": TEST, "store": "small", "teacher": None, "batch_size": 64}
    for name, value in others.items():  # another search
        with pytest.raises(ValueError, match=f"'{name.replace('_data', ' data')}'"):
            tfc.search(model, TRAIN, 0.2, trials=2, **arguments | {name: value})
    del arguments["storage"]
    with pytest.raises(ValueError, match="NaN in each trial"):
        tfc.search(model, TRAIN, 0.2, trials=1, **arguments)


@pytest.mark.parametrize("labels", [None, TRAIN[1]], ids=["no labels", "labels"])
def test_weights_without_a_loss_weigh_what_the_teacher_says(labels):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((64,)), L.Dense(32, "relu"), L.Dense(4, "softmax")])
    given = {"metric": "accuracy", "budget": 0.3, "target": "bits", "validation_data": TEST}
    made = [
        tfc.compress(net, (TRAIN[0], labels, weights), fine_tune=1, **given).model.get_weights()
        for weights in (np.ones(1000), np.repeat([1.0, 0.0], 500), None)
    ]
    assert all(map(np.allclose, made[0], made[2])) and not all(map(np.allclose, made[0], made[1]))


def test_damage_factors_move_the_budget(model):
    compressor = Compressor(model, TRAIN, None, 0, None, TEST, "bits", "fast", LOSS)
    paths = list(compressor.planner.options)
    early, late = (
        compressor.planner.plan_for(
            compressor.planner.float_cost // 10, dict(zip(paths, factors, strict=True))
        ).chosen
        for factors in ((9.0, 1.0, 0.1), (0.1, 1.0, 9.0))
    )
    assert early["fc1"].cost > late["fc1"].cost


def test_pruned_codebooks_are_candidates_for_an_archive(model):
    planner = Compressor(model, TRAIN, None, 0, None, TEST, "archive", "fast", LOSS).planner
    names = {one.name for row in planner.options.values() for one in row}
    assert any("zeros" in name for name in names)


def test_a_label_that_is_no_class_is_refused_wherever_it_stands(model):
    y = TRAIN[1].copy()
    y[1] = 4
    with pytest.raises(ValueError, match=r"labels from 0 to 3 .* Received: \[4\]"):
        tfc.compress(model, (TRAIN[0], y), 0.2, validation_data=TEST)


class Counted(keras.utils.PyDataset):
    """Batches of 50 examples, and how often each was read."""

    def __init__(self, x, y, with_labels=True):
        super().__init__()
        self.x, self.y, self.with_labels = x, y, with_labels
        self.read = np.zeros(len(self), int)

    def __len__(self):
        return len(self.x) // 50

    def __getitem__(self, index):
        self.read[index] += 1
        rows = slice(50 * index, 50 * index + 50)
        return (self.x[rows], self.y[rows]) if self.with_labels else (self.x[rows],)


@pytest.fixture
def little_memory(monkeypatch):
    for module in (examples, held_out_loss):
        monkeypatch.setattr(module, "HELD", TRAIN[0][:600].nbytes)


@pytest.mark.parametrize("with_labels", [True, False])
def test_what_is_too_much_for_the_memory_is_read_in_each_epoch(model, little_memory, with_labels):
    stream = Counted(*TRAIN, with_labels)
    given = {"validation_data": TEST, "target": "bits", "fine_tune": 2}
    made = tfc.compress(model, stream, 0.3, **given)
    # checked, two epochs; before each `fit` Keras looks at some batches
    assert stream.read.min() >= 3 and stream.read.max() <= 5
    assert made.size <= 0.3 * made.float_size and made.after > made.before - 0.05


def test_a_stream_is_planned_for_on_its_first_examples(model, little_memory):
    seen = []

    def fine_tune(student, teacher, data):
        seen.append(data)

    stream = Counted(*TRAIN)
    made = Compressor(model, stream, None, fine_tune, None, TEST, "bits", "fast", None)
    np.testing.assert_array_equal(made.calibration, TRAIN[0][:600])
    made.attempt(0.3)
    assert seen == [stream]


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data"])
def test_the_first_batches_of_a_stream_are_held_out(model, little_memory, kind):
    stream = Counted(*TRAIN)
    if kind == "tf.data":
        stream = tf.data.Dataset.from_tensor_slices(TRAIN).batch(50)
    made = Compressor(model, stream, None, 1, None, None, "bits", "fast", None)
    ((x, y, _),) = made.quality.batches
    np.testing.assert_array_equal(x, TRAIN[0][:100])  # a tenth
    np.testing.assert_array_equal(y, TRAIN[1][:100])
    np.testing.assert_array_equal(made.calibration, TRAIN[0][100:600])
    rest = [made.train.data[i] for i in range(18)] if kind == "PyDataset" else made.train.data
    np.testing.assert_array_equal(np.concatenate([x for x, _ in rest]), TRAIN[0][100:])
    assert made.train.steps == 18


def test_what_a_stream_needs(model, little_memory):
    with pytest.raises(ValueError, match=r"another order each time.*`validation_data`"):
        shuffled = tf.data.Dataset.from_tensor_slices(TRAIN).shuffle(1000).batch(50)
        tfc.compress(model, shuffled, 0.3)
    with pytest.raises(ValueError, match="`validation_data` are held in memory"):
        tfc.compress(model, TRAIN, 0.3, validation_data=Counted(*TRAIN))
    with pytest.raises(ValueError, match="generator can be used only once"):
        stream = Counted(*TRAIN)
        batches = (stream[i] for i in range(len(stream)))
        tfc.compress(model, batches, 0.3, validation_data=TEST)
    wrong = TRAIN[1].copy()
    wrong[-1] = 4
    with pytest.raises(ValueError, match="4"):
        tfc.compress(model, Counted(TRAIN[0], wrong), 0.3, validation_data=TEST)


def test_a_stream_is_not_sent_to_processes(model, little_memory):
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with pool, pytest.raises(ValueError, match=r"not sent to processes\. .* Received: executor="):
        tfc.search(model, Counted(*TRAIN), 0.3, trials=1, executor=pool)


def test_a_drop_in_percent_is_refused_before_forms_are_measured(model, monkeypatch):
    monkeypatch.setattr("tfcompress.planning.attempts.Planner", None)
    with pytest.raises(ValueError, match="Did you mean 5 points"):
        tfc.compress(model, TRAIN, max_drop=5, metric="accuracy")


def test_a_plan_that_is_a_little_too_large_again_and_again_is_followed_by_much_smaller_ones():
    """And not by the smallest forms, which may take half of what is allowed."""

    def plan_for(allowed, factors):
        return SimpleNamespace(model=None, cost=allowed)

    made = object.__new__(Compressor)
    made.target, made.float_size, made.smallest_size = "tflite", 1000, 100
    made.planner = SimpleNamespace(smallest_cost=100, float_cost=1000, plan_for=plan_for)
    made.size = lambda model, cost: 510 if cost > 450 else 480  # forms come in steps
    assert made.plan_within(500)[1] == 480
