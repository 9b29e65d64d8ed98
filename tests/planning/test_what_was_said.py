"""What `plan`, `compress`, `search` and the Distiller are told counts, in each form it may have."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.measure.held_out_loss import change
from tfcompress.planning.compression import _smallest_within
from tfcompress.planning.examples import hold_out
from tfcompress.utils.errors import WriteError

L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(120, 32)).astype("float32")
Y = np.arange(120) % 4
QUICK = {"budget": 0.6, "target": "bits", "fine_tune": 0, "verbose": 0}


def net(hidden=32, loss=LOSS):
    keras.utils.set_random_seed(0)
    parts = [L.Dense(hidden, "relu", name="fc"), L.Dense(4, name="out")]
    model = keras.Sequential([keras.Input((32,)), *parts])
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    return model


def two_inputs():
    a, b = keras.Input((8,)), keras.Input((4,))
    joined = L.Concatenate()([L.Dense(16, name="wide")(a), L.Dense(16)(b)])
    model = keras.Model([a, b], L.Dense(4)(joined))
    model.compile("adam", LOSS, metrics=["accuracy"], jit_compile=False)
    return model


PAIR = X[:, :8], X[:, 8:12]


@pytest.mark.parametrize(
    "data",
    [(PAIR, Y), tf.data.Dataset.from_tensor_slices((PAIR, Y)).batch(16)],
    ids=["arrays", "dataset"],
)
def test_several_inputs_may_come_as_a_tuple(data):
    model = two_inputs()
    tfc.compress(model, data, **QUICK)
    tfc.plan(model, data, 0.6, verbose=0)
    found = tfc.swap(model, tfc.layers.rounding(4), data=data)
    expected = tfc.swap(model, tfc.layers.rounding(4), data=list(PAIR))
    np.testing.assert_array_equal(found(list(PAIR)), expected(list(PAIR)))


def test_a_model_that_learned_from_labels_alone_is_not_compiled(tmp_path):
    model = tfc.compress(net(), (X, Y), **QUICK | {"fine_tune": 1}, teacher=None).model
    assert not model.compiled
    model.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "net.keras")(X), model(X))


@pytest.mark.parametrize("data", [X, (X, Y)], ids=["no labels", "no loss"])
def test_without_a_teacher_there_must_be_labels_and_a_loss(data):
    model = net()
    if isinstance(data, tuple):
        model = keras.Sequential(model.layers)
    with pytest.raises(ValueError, match="Without a teacher the model learns from labels"):
        tfc.compress(model, data, **QUICK | {"fine_tune": 1}, teacher=None, metric=lambda m: 1.0)


@pytest.mark.parametrize(
    "metric",
    [keras.metrics.SparseCategoricalAccuracy, keras.metrics.sparse_categorical_accuracy],
    ids=["class", "function"],
)
def test_metrics_of_keras_are_no_functions_of_a_model(metric):
    found = tfc.compress(net(), (X, Y), **QUICK, metric=metric)
    assert found.metric == "sparse_categorical_accuracy"
    assert found.after == tfc.compress(net(), (X, Y), **QUICK).after


@pytest.mark.parametrize("verb", [tfc.plan, tfc.compress])
@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("mse", r"shape \(None, 4\) of the output, as mean_squared_error compares"),
        (keras.losses.CategoricalCrossentropy(), "Numbers of classes go with `Sparse"),
    ],
    ids=["regression", "one-hot"],
)
def test_labels_have_the_shape_of_the_output(verb, loss, text):
    with pytest.raises(ValueError, match=text):
        verb(net(loss=loss), (X, Y), 0.6)


@pytest.mark.parametrize("verb", [tfc.plan, tfc.compress, tfc.search])
def test_times_that_no_budget_counts_are_refused(verb):
    with pytest.raises(ValueError, match="only a budget of time counts"):
        verb(net(), (X, Y), 0.6, latency="pixel.json")


@pytest.mark.parametrize("verb", [tfc.compress, tfc.search])
def test_a_path_is_checked_before_the_work(verb, tmp_path, monkeypatch):
    folder = tmp_path / "net.tflite"
    folder.mkdir()
    for path in (tmp_path / "none" / "net.tflite", folder):
        with pytest.raises(ValueError, match="path"):
            verb(net(), (X, Y), 0.6, path=path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="Nothing can be written"):
        verb(net(), (X, Y), 0.6, path=tmp_path / "small.tflite")


def test_a_budget_of_time_above_that_of_the_network_is_kept():
    assert tfc.compress(net(), (X, Y), "5ms", fine_tune=0, verbose=0).size < 5
    made = tfc.plan(net(), (X, Y), 1.0, target="milliseconds", verbose=0)
    assert made.cost <= made.float_cost


def test_explain_measures_the_same_of_models_and_of_files(tmp_path):
    model = net()
    small = tfc.swap(model, {"fc": tfc.layers.BinaryDense})
    for name, one in {"net": model, "small": small}.items():
        one.save(tmp_path / f"{name}.keras")
    paths = [tmp_path / f"{name}.keras" for name in ("net", "small")]
    found = [tfc.explain(*given, (X, Y)) for given in ((model, small), paths)]
    assert found[0].measure == found[1].measure == "loss"
    assert found[0].before == pytest.approx(found[1].before)


def test_a_search_takes_a_file_and_refuses_the_trials_of_another_search(tmp_path):
    pytest.importorskip("optuna")
    net().save(tmp_path / "net.keras")
    terms = {"fine_tune": 1, "target": "bits", "storage": f"sqlite:///{tmp_path}/s.db"}
    tfc.search(tmp_path / "net.keras", (X, Y), 0.6, 1, **terms)
    tfc.search(tmp_path / "net.keras", (X, Y), 0.6, 2, **terms)  # goes on
    with pytest.raises(ValueError, match=r"another search of this name, with \['metric'\]"):
        tfc.search(net(), (X, Y), 0.6, 2, metric="loss", **terms)
    with pytest.raises(ValueError, match=r"\['budget', 'weights'\]"):
        tfc.search(net(24), (X, Y), 0.5, 2, **terms)
    tfc.search(net(24), (X, Y), 0.5, 1, study_name="other", **terms)


def two_outputs(order):
    start = keras.Input((32,))
    hidden = L.Dense(8)(start)
    ends = {name: L.Dense(1, name=name)(hidden) for name in "ab"}
    return keras.Model(start, [ends[name] for name in order])


def test_outputs_of_student_and_teacher_come_in_one_order():
    tfc.Distiller(student=two_outputs("ab"), teacher=two_outputs("ab"))
    with pytest.raises(ValueError, match=r"same order. Received: \['b', 'a'\] and \['a', 'b'\]"):
        tfc.Distiller(student=two_outputs("ba"), teacher=two_outputs("ab"))


def test_outputs_in_a_dict_have_the_names_of_its_keys():
    def make():
        start = keras.Input((32,))
        return keras.Model(start, {"one": L.Dense(4, name="p")(start), "two": L.Dense(1)(start)})

    def squares(teacher, student, temperature):
        return keras.ops.mean(keras.ops.square(teacher - student), -1)

    distiller = tfc.Distiller(student=make(), teacher=make(), soft_loss=squares)
    distiller.compile("adam", {"one": LOSS})
    distiller.fit(X, {"one": Y}, verbose=0)
    distiller.compile("adam", {"three": LOSS})
    with pytest.raises(ValueError, match=r"no outputs \['three'\]"):
        distiller.fit(X, {"one": Y}, verbose=0)


def test_labels_without_a_loss_are_not_passed_over_in_silence():
    distiller = tfc.Distiller(student=net(), teacher=net())
    distiller.compile("adam")
    with pytest.warns(UserWarning, match="labels are not used.*Give `loss` to `compile`"):
        distiller.fit(X, Y, verbose=0)


def test_odd_seeds_executors_and_a_single_example_are_refused_before_the_work():
    from concurrent.futures import ThreadPoolExecutor

    for seed in (-1, 2**40):
        with pytest.raises(ValueError, match="`seed` from 0 to"):
            tfc.compress(net(), (X, Y), 0.6, seed=seed)
    with pytest.raises(TypeError, match="`executor` to be"):
        tfc.compress(net(), (X, Y), 0.6, executor=ThreadPoolExecutor)
    with pytest.raises(ValueError, match=r"at least 2 examples.*Received: 1"):
        tfc.compress(net(), (X[:1], Y[:1]), 0.6)
    with pytest.raises(ValueError, match="batches"):
        tfc.callbacks.RecalibrateBatchNorm(X, batches=0)


def test_the_result_tells_the_whole_file_and_the_budget_that_was_asked_for():
    made = tfc.compress(net(64), (X, Y), 0.5, fine_tune=0, verbose=0)
    assert made.float_size == len(tfc.to_tflite(net(64), check=X[:4]))
    assert f"{len(made.tflite):,} of {made.float_size:,} .tflite bytes" in str(made)
    assert [budget for budget, _, _ in made.tried] == [0.5]


def test_larger_budgets_are_tried_where_a_large_one_is_the_least():
    class Recorded:
        target, tried = "tflite", []

        def share(self, limit):
            return limit

        def attempt(self, budget):
            self.tried.append(budget)
            return budget

        def drop(self, attempt):
            return 1 - attempt

    assert 0.9 <= _smallest_within(Recorded(), 0.8, 0.1) < 0.95
    assert len(set(Recorded.tried)) == len(Recorded.tried) > 2


def test_batches_of_texts_may_differ_in_their_length():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    steps = L.LSTM(8, name="lstm")(L.Embedding(50, 16, mask_zero=True, name="table")(inputs))
    model = keras.Model(inputs, L.Dense(3, name="out")(steps))
    model.compile("adam", LOSS, metrics=["accuracy"], jit_compile=False)
    texts = [np.arange(1, length, dtype="int32") for length in [4, 5, 9, 7] * 15]

    def examples():
        yield from ((text, len(text) % 3) for text in texts)

    shapes = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int32)
    data = tf.data.Dataset.from_generator(examples, output_signature=shapes).padded_batch(3)
    x = keras.utils.pad_sequences(texts, padding="post")
    y = np.array([len(text) % 3 for text in texts])
    rules = {L.Dense: tfc.layers.TernaryDense, L.Embedding: tfc.layers.QuantizedEmbedding}
    found, expected = (tfc.swap(model, rules, data=one) for one in (data, (x, y)))
    np.testing.assert_allclose(found(x), expected(x), rtol=1e-4, atol=1e-5)
    assert tfc.compress(model, data, **QUICK).before == pytest.approx(
        tfc.compress(model, (x, y), **QUICK).before
    )
    assert tfc.plan(model, data, 0.5, verbose=0).cost > 0
    assert tfc.explain(model, found, data).layers
    loss = {path: tfc.curvature.fisher(model, one) for path, one in (("a", data), ("b", (x, y)))}
    for path, value in loss["a"].items():
        np.testing.assert_allclose(value, loss["b"][path], rtol=1e-3, atol=1e-7)


def test_pictures_of_several_sizes_are_no_batch():
    model = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 3, name="conv")])
    batches = iter([np.ones((2, 8, 8, 3)), np.ones((2, 9, 9, 3))])
    with pytest.raises(ValueError, match="pictures of one size"):
        tfc.plan(model, batches, 0.5, verbose=0)


def test_the_tenth_that_is_held_out_has_all_classes():
    for classes in (2, 5, 10):
        y = np.arange(1000) % classes
        train, validation = hold_out((np.zeros((1000, 8)), y, None))
        assert set(validation[1]) == set(y) and len(validation[1]) == 100 and len(train[1]) == 900


def test_what_is_not_allowed_hides_no_change_of_the_outputs():
    def outputs(mask):
        rng = np.random.default_rng(0)
        before = rng.normal(size=(50, 10))
        now = before + 0.1 * rng.normal(size=(50, 10))
        before[:, 8:] = now[:, 8:] = mask
        return [before], [now]

    plain = change(*outputs(0.0))
    assert plain > 0.005
    for mask in (-1e9, -np.inf):
        assert change(*outputs(mask)) == pytest.approx(plain, rel=0.3)
    assert change([np.ones((1, 3))], [np.full((1, 3), 1.5)]) == pytest.approx(0.25)


def test_what_was_trained_is_not_lost_with_its_file(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise WriteError("No space left on device")

    monkeypatch.setattr("tfcompress.planning.compressed.to_tflite", full)
    with pytest.raises(WriteError, match="No space left") as caught:
        tfc.compress(net(64), (X, Y), 0.5, fine_tune=0, path=tmp_path / "small.tflite", verbose=0)
    assert caught.value.model.count_params() and "`model`" in caught.value.__notes__[0]


def test_an_output_without_a_loss_needs_no_labels():
    shared = L.Dense(64, "relu")(inputs := keras.Input((32,)))
    model = keras.Model(inputs, [L.Dense(4, name="kind")(shared), L.Dense(1, name="free")(shared)])
    model.compile("adam", [LOSS, None], metrics=[["accuracy"], None], jit_compile=False)
    assert tfc.compress(model, (X, [Y, None]), **QUICK).size > 0


def test_what_is_shuffled_after_each_epoch_needs_validation_data(monkeypatch):
    class Shuffled(keras.utils.PyDataset):
        order, random = np.arange(120), np.random.default_rng(0)

        def __len__(self):
            return 8

        def __getitem__(self, index):
            rows = self.order[15 * index : 15 * (index + 1)]
            return X[rows], Y[rows]

        def on_epoch_end(self):
            self.random.shuffle(self.order)

    monkeypatch.setattr("tfcompress.planning.examples.HELD", X[:40].nbytes)
    with pytest.raises(ValueError, match="another order each time"):
        tfc.compress(net(), Shuffled(), **QUICK)
