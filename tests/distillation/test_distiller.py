"""The Distiller; the limits of `keras.distillation.Distiller` are marked "peer"."""

import os
import subprocess
import sys
import warnings
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.callbacks import Anneal, Prune
from tfcompress.distillation import losses as distill_losses
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.hints import Hint
from tfcompress.schedules import Linear

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 8, 8, 1)).astype("float32")
Y = RNG.integers(0, 4, 48)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(width, name, end=None, norm=True, **options):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 3, name="conv", **options)(inputs)
    x = layers.BatchNormalization(name="norm")(x) if norm else x
    inner = [keras.Input(x.shape[1:]), layers.Conv2D(width, 3, activation="relu", name="deep")]
    x = layers.Flatten()(keras.Sequential(inner, name="block")(x))
    return keras.Model(inputs, layers.Dense(4, activation=end, name="out")(x), name=name)


def mlp(width, name="mlp", outputs=3, end=None):
    parts = [layers.Dense(width, activation="relu", name="fc"), layers.Dense(outputs, end)]
    return keras.Sequential([keras.Input((6,)), *parts], name=name)


def made(student=None, teacher=None, loss=LOSS, optimizer="adam", metrics=("accuracy",), **options):
    distiller = Distiller(student=student or net(3, "s"), teacher=teacher or net(8, "t"), **options)
    distiller.compile(optimizer, loss, metrics=metrics and list(metrics))
    return distiller


def trained(model, loss=LOSS):
    """A teacher that says what its outputs mean."""
    model.compile(loss=loss)
    return model


def numpy(x):
    return ops.convert_to_numpy(x)


def weights(model):
    return [np.copy(w) for w in model.get_weights()]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def step_loss(distiller, x, y=None, **options):
    """The loss of the first batch, with a learning rate of zero."""
    distiller.compile(keras.optimizers.SGD(0.0), distiller.loss)
    options = {"batch_size": len(x), "shuffle": False, "verbose": 0} | options
    return distiller.fit(x, y, **options).history["loss"][0]


def hand_loss(student, teacher, x, y, alpha, temperature, weight=None):
    s, t = (m.predict(x, verbose=0) for m in (student, teacher))
    task = numpy(ops.sparse_categorical_crossentropy(y, s, from_logits=True))
    soft = numpy(distill_losses.softmax_kl(t, s, temperature))
    weight = np.ones(len(x)) if weight is None else weight
    return float(np.mean(weight * ((1 - alpha) * task + alpha * soft)))


def test_the_loss_is_the_formula():
    student, teacher = net(3, "s", norm=False), net(8, "t")
    distiller = made(student, teacher, alpha=0.3, temperature=3.0)
    expected = hand_loss(student, teacher, X, Y, 0.3, 3.0)
    assert step_loss(distiller, X, Y) == pytest.approx(expected, rel=1e-5)


def test_hints_add_their_weighted_mean():
    student, teacher = net(8, "s", norm=False), net(8, "t", norm=False)
    hint = Hint(student="conv", teacher="conv", weight=0.25)
    distiller = made(student, teacher, hints=[hint])
    own, wanted = (
        keras.Model(m.input, m.get_layer("conv").output).predict(X, verbose=0)
        for m in (student, teacher)
    )
    expected = hand_loss(student, teacher, X, Y, 0.5, 2.0) + 0.25 * np.mean((own - wanted) ** 2)
    assert step_loss(distiller, X, Y) == pytest.approx(expected, rel=1e-5)


def test_the_teacher_stays_as_it_is_to_the_last_bit():  # peer: leaves it frozen
    teacher = net(8, "t")
    before = weights(teacher)
    teacher.get_layer("conv").trainable = False
    flags = [layer.trainable for layer in teacher._flatten_layers()]
    distiller = made(teacher=teacher, hints=[Hint(student="norm", teacher="norm")])
    distiller.fit(X, Y, epochs=2, verbose=0)
    assert same(before, weights(teacher))
    assert flags == [layer.trainable for layer in teacher._flatten_layers()]
    names = {id(v) for v in teacher.variables}
    assert not names & {id(v) for v in distiller.variables}


@keras.saving.register_keras_serializable("test-distill")
class Counter(layers.Layer):
    """Counts how often it runs in training."""

    def build(self, shape):
        self.runs = self.add_weight(shape=(), initializer="zeros", trainable=False, name="runs")

    def call(self, x, training=False):
        if training:
            self.runs.assign_add(1.0)
        return x


def test_the_student_runs_once_per_step():  # peer: twice, and its statistics move twice
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(Counter(name="counter")(layers.Conv2D(2, 3, name="conv")(inputs)))
    student = keras.Model(inputs, layers.Dense(4)(x))
    distiller = made(student, hints=[Hint(student="conv", teacher="conv")])
    distiller.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    assert float(numpy(student.get_layer("counter").runs)) == 6


def test_labels_are_optional():  # peer: compile without a loss raises
    distiller = made(teacher=trained(net(8, "t")), loss=None, metrics=None)
    losses = distiller.fit(X, epochs=8, verbose=0).history
    assert losses["loss"][-1] < losses["loss"][0]
    assert "task_loss" not in losses
    outputs = [model.predict(X, verbose=0) for model in (distiller.teacher, distiller.student)]
    kl = distill_losses.softmax_kl(*outputs, float(numpy(distiller.temperature)))
    assert distiller.evaluate(X, verbose=0) == pytest.approx(np.mean(numpy(kl)), rel=1e-5)


def unlabelled_loss(student, teacher, x):
    distiller = made(student, teacher, loss=None, metrics=None, alpha=1.0)
    return step_loss(distiller, x)


def test_the_loss_of_the_teacher_tells_what_unlabelled_outputs_mean():
    x = X[:, 0, :6, 0]
    s, t = mlp(3), mlp(9)
    a, b = (m.predict(x, verbose=0) for m in (s, t))
    squared = pytest.approx(np.mean((a - b) ** 2), rel=1e-5)
    for loss in ("mse", "mae", keras.losses.Huber(), keras.losses.LogCosh()):
        assert unlabelled_loss(s, trained(t, loss), x) == squared
    kl = pytest.approx(np.mean(numpy(distill_losses.softmax_kl(b, a, 2.0))), rel=1e-5)
    for loss in (LOSS, keras.losses.CategoricalCrossentropy(from_logits=True), "crossentropy"):
        assert unlabelled_loss(s, trained(t, loss), x) == kl
    yes_no = pytest.approx(np.mean(numpy(distill_losses.sigmoid_kl(b, a, 2.0))), rel=1e-5)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    assert unlabelled_loss(s, trained(t, loss), x) == yes_no


@pytest.mark.parametrize("loss", [None, lambda y, z: ops.mean(ops.abs(y - z), -1)])
def test_what_no_loss_tells_is_asked_for(loss):
    x, teacher = X[:, 0, :6, 0], mlp(9)
    distiller = made(mlp(3), trained(teacher, loss), loss=None, metrics=None)
    with pytest.raises(ValueError, match=r"Compile the teacher .*give `soft_loss`"):
        distiller.fit(x, verbose=0)


def test_loss_weights_count_in_both_terms():
    def double(width):
        x = layers.Dense(width, name=f"d{width}")(inputs := keras.Input((6,)))
        return keras.Model(inputs, [layers.Dense(n, name=f"out{n}")(x) for n in (2, 3)])

    x, (s, t) = X[:, 0, :6, 0], (double(3), double(7))
    (a, b), (c, d) = (m.predict(x, verbose=0) for m in (s, t))
    soft = np.mean((a - c) ** 2) + 100 * np.mean((b - d) ** 2)
    task = np.mean(a**2) + 100 * np.mean(b**2)
    distiller = Distiller(student=s, teacher=t, alpha=0.25)
    distiller.compile(keras.optimizers.SGD(0.0), ["mse", "mse"], loss_weights=[1.0, 100.0])
    labels = [np.zeros((48, 2)), np.zeros((48, 3))]
    loss = distiller.fit(x, labels, batch_size=48, verbose=0).history["loss"][0]
    assert loss == pytest.approx(0.75 * task + 0.25 * soft, rel=1e-5)
    t.compile(loss=["mse", "mse"], loss_weights=[7.0, 9.0])  # of the teacher's own training
    even = np.mean((a - c) ** 2) + np.mean((b - d) ** 2)
    for loss_weights, expected in (([1.0, 100.0], soft), (None, even)):
        distiller.compile(keras.optimizers.SGD(0.0), loss_weights=loss_weights)
        loss = distiller.fit(x, batch_size=48, verbose=0).history["soft_loss"][0]
        assert loss == pytest.approx(expected, rel=1e-5)


def test_a_label_that_is_no_class_is_refused_in_a_sentence():
    distiller, wrong = made(), np.where(np.arange(48) == 40, 4, Y)
    for arguments in ({"y": wrong}, {"y": Y, "validation_data": (X, wrong)}):
        with pytest.raises(ValueError, match=r"Expected labels from 0 to 3 .* Received: \[4\]"):
            distiller.fit(X, verbose=0, **arguments)
    with pytest.raises(ValueError, match=r"Expected labels in \[0, 4\).*Received: 4"):
        distiller.fit(((X[i : i + 8], wrong[i : i + 8]) for i in range(0, 48, 8)), verbose=0)
    distiller.fit(X, np.where(np.arange(48) % 2, -1, Y), verbose=0)  # -1: not known


REPLICAS = """
import keras, numpy as np, tensorflow as tf
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], 2 * [tf.config.LogicalDeviceConfiguration()])
from keras import layers
import tfcompress as tfc
def net(width):
    fc = layers.Dense(width, "relu", name="fc", kernel_regularizer="l2")
    return keras.Sequential([keras.Input((6,)), fc, layers.Dense(3, name="out")])
x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
y = np.arange(32) % 3
def logs(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        student, teacher = net(4), net(9)
        hints = [tfc.Hint(student="fc", teacher="fc")]
        distiller = tfc.Distiller(student=student, teacher=teacher, hints=hints)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss)
    found = distiller.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history
    return found, student.get_weights()
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
(one_logs, one), (two_logs, two) = logs(tf.distribute.get_strategy()), logs(two)
assert set(one_logs) == {"loss", "task_loss", "soft_loss", "hint_loss"}
for name in one_logs:
    np.testing.assert_allclose(two_logs[name], one_logs[name], rtol=1e-5, err_msg=name)
for a, b in zip(one, two):
    np.testing.assert_allclose(a, b, atol=1e-6)
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
def test_two_replicas_train_as_one_does():
    run = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


def test_without_labels_but_with_them_in_validation():
    distiller = made()
    logs = distiller.fit(X, validation_data=(X, Y), epochs=2, verbose=0).history
    assert "accuracy" not in logs
    assert len(logs["val_accuracy"]) == 2


def test_labelled_and_unlabelled_data_in_one_fit():
    student, teacher = net(3, "s", norm=False), net(8, "t")
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile("adam", LOSS, weighted_metrics=["accuracy"])
    mixed = Y.copy()
    mixed[::2] = -1
    expected = hand_loss(student, teacher, X, Y, 0.5, 2.0, (np.arange(48) % 2).astype("float32"))
    soft = hand_loss(student, teacher, X, Y, 1.0, 2.0, (np.arange(48) % 2 == 0) * 0.5)
    logs = distiller.fit(X, mixed, batch_size=48, verbose=0).history
    assert logs["loss"][0] == pytest.approx(expected + soft, rel=1e-4)
    accuracy = np.mean(student.predict(X[1::2], verbose=0).argmax(-1) == Y[1::2])
    assert distiller.evaluate(X, mixed, return_dict=True, verbose=0)["accuracy"] == pytest.approx(
        accuracy
    )


def test_sample_and_class_weights_act_on_each_term():  # peer: sample_weight is not used
    rng = np.random.default_rng(0)
    student, teacher = net(3, "s", norm=False), net(8, "t")
    weight = rng.random(48).astype("float32")
    expected = hand_loss(student, teacher, X, Y, 0.5, 2.0, weight)
    distiller = made(student, teacher)
    assert step_loss(distiller, X, Y, sample_weight=weight) == pytest.approx(expected, rel=1e-5)
    table = {0: 2.0, 1: 0.5, 2: 0.0, 3: 1.0}
    weight = np.array([table[y] for y in Y])
    expected = hand_loss(student, teacher, X, Y, 0.5, 2.0, weight)
    assert step_loss(distiller, X, Y, class_weight=table) == pytest.approx(expected, rel=1e-5)


class Penalised(layers.Layer):
    def call(self, x):
        self.add_loss(ops.mean(x) * 0 + 2.0)
        return x


def test_regularizers_and_added_losses_count():  # peer: drops them
    plain, heavy = net(3, "s", norm=False), net(3, "s", norm=False, kernel_regularizer="l2")
    heavy.set_weights(plain.get_weights())
    teacher = net(8, "t")
    difference = step_loss(made(heavy, teacher), X, Y) - step_loss(made(plain, teacher), X, Y)
    kernel = plain.get_layer("conv").get_weights()[0]
    assert difference == pytest.approx(0.01 * np.sum(kernel**2), rel=1e-3)
    student = keras.Sequential([keras.Input((6,)), Penalised(), layers.Dense(3)])
    teacher = trained(mlp(9))
    found = step_loss(made(student, teacher, loss=None, metrics=None, alpha=0.0), X[:, 0, :6, 0])
    assert found == pytest.approx(2.0)


@pytest.mark.parametrize("ends", [(None, "softmax"), ("softmax", None), ("softmax", "softmax")])
def test_no_double_softmax(ends):  # peer: takes a softmax of a softmax
    student, teacher = net(3, "s", ends[0], norm=False), net(8, "t", ends[1])
    plain = [net(3, "s", norm=False), net(8, "t")]
    for one, other in zip(plain, (student, teacher), strict=True):
        one.set_weights(other.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=ends[0] is None)
    found = step_loss(made(student, teacher, loss=loss), X, Y)
    assert found == pytest.approx(hand_loss(*plain, X, Y, 0.5, 2.0), rel=1e-4)


def test_evaluate_needs_no_teacher():  # peer: runs the teacher there too
    called = []

    def preprocess(x):
        called.append(1)
        return x

    distiller = made(teacher_preprocess=preprocess)
    found = distiller.evaluate(X, Y, return_dict=True, verbose=0)
    student = distiller.student
    student.compile("adam", LOSS, metrics=["accuracy"])
    expected = student.evaluate(X, Y, return_dict=True, verbose=0)
    assert not called
    assert found == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(distiller.predict(X, verbose=0), student.predict(X, verbose=0))


def test_metrics_may_be_a_dict():  # peer: a list or tuple only
    distiller = made(metrics=None)
    distiller.compile("adam", LOSS, metrics={"out": ["accuracy"]})
    assert "accuracy" in distiller.fit(X, Y, verbose=0).history


def test_hints_inside_nested_models_and_regressors_that_train():  # peer: top level, equal shapes
    student = net(3, "s")
    distiller = made(student, hints=[Hint(student="block/deep", teacher="block/deep")])
    (regressor,) = distiller.regressors
    before = weights(regressor)
    hint = distiller.fit(X, Y, epochs=5, verbose=0).history["hint_loss"]
    assert hint[-1] < hint[0]
    assert not same(before, weights(regressor))
    regressor_ids = {id(v) for v in regressor.variables}
    assert not regressor_ids & {id(v) for v in student.variables}


def test_inputs_of_other_shapes_and_dtypes():  # peer: raises
    student = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(4, name="out")]
    )

    def enlarge(x):
        return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)

    distiller = made(student, teacher_preprocess=enlarge)
    small = X[:, ::2, ::2].astype("float64")
    assert np.isfinite(distiller.fit(small, Y, verbose=0).history["loss"][0])


def test_mixed_precision():  # peer: raises on outputs of another dtype
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = net(3, "s")
    finally:
        keras.config.set_dtype_policy("float32")
    hints = [Hint(student="conv", teacher="conv")]
    distiller = made(student, hints=hints)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    losses = distiller.fit(X, Y, epochs=6, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_several_teachers_are_averaged():
    student, teachers = net(3, "s", norm=False), [net(8, "t"), net(5, "u")]
    mean = keras.Model(
        inputs := keras.Input((8, 8, 1)), layers.Average()([t(inputs) for t in teachers])
    )
    distiller = made(student, teachers)
    expected = hand_loss(student, mean, X, Y, 0.5, 2.0)
    assert step_loss(distiller, X, Y) == pytest.approx(expected, rel=1e-5)
    assert distiller.teacher == teachers


def test_several_outputs():
    def double(width, ends):
        x = layers.Dense(width)(inputs := keras.Input((6,)))
        heads = [layers.Dense(n, a, name=name)(x) for name, n, a in ends]
        return keras.Model(inputs, heads)

    x = X[:, 0, :6, 0]
    ends = [("kind", 4, "softmax"), ("size", 1, None)]
    student, teacher = double(3, ends), double(7, ends)
    distiller = Distiller(student=student, teacher=teacher, alpha=1.0, temperature=1.0)
    distiller.compile(
        "adam",
        {"kind": "sparse_categorical_crossentropy", "size": "mse"},
        metrics={"kind": "accuracy"},
    )
    (p, a), (q, b) = (m.predict(x, verbose=0) for m in (student, teacher))
    expected = np.mean(np.sum(q * np.log(q / p), -1)) + np.mean((a - b) ** 2)
    size = np.where(np.arange(48) % 2, np.nan, 1.0).astype("float32")
    logs = distiller.fit(x, {"kind": Y, "size": size}, batch_size=48, verbose=0).history
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert logs["size_loss"][0] == pytest.approx(np.mean((a[::2, 0] - 1) ** 2) / 2, rel=1e-4)


def test_regression_and_yes_no_outputs():
    x = X[:, 0, :6, 0]
    distiller = made(mlp(3, outputs=1), mlp(9, outputs=1), loss="mse", metrics=None, alpha=1.0)
    a, b = (m.predict(x, verbose=0) for m in (distiller.student, distiller.teacher))
    assert step_loss(distiller, x, x[:, :1]) == pytest.approx(np.mean((a - b) ** 2), rel=1e-4)
    distiller = made(
        mlp(3, end="sigmoid"), mlp(9), loss="binary_crossentropy", metrics=None, alpha=1.0
    )
    s, t = (m.predict(x, verbose=0) for m in (distiller.student, distiller.teacher))
    expected = np.mean(numpy(distill_losses.sigmoid_kl(t, np.log(s / (1 - s)), 2.0)))
    assert step_loss(distiller, x, x[:, :3] > 0) == pytest.approx(expected, rel=1e-3)


def test_a_soft_loss_of_your_own():
    distiller = made(alpha=1.0, soft_loss=distill_losses.decoupled)
    assert np.isfinite(step_loss(distiller, X, Y))


class Subclassed(keras.Model):
    def __init__(self, width, end=None):
        super().__init__()
        self.fc, self.out = layers.Dense(width, "relu"), layers.Dense(3, end)

    def call(self, x):
        return self.out(self.fc(x))


@pytest.mark.parametrize("end", [None, "softmax"])
def test_subclassed_models(end):  # peer: refused for features without saying how
    x = X[:, 0, :6, 0]
    teacher = Subclassed(9, end)
    teacher(x)
    teacher.compile(loss=LOSS)
    distiller = made(Subclassed(3), teacher, loss=None, metrics=None)
    losses = distiller.fit(x, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    t, s = (numpy(m(x)) for m in (teacher, distiller.student))
    t = np.log(t) if end else t
    expected = 0.5 * float(np.mean(numpy(distill_losses.softmax_kl(t, s, 2.0))))
    assert step_loss(distiller, x) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="Functional model"):
        Distiller(student=mlp(3), teacher=teacher, hints=[Hint(student="fc", teacher="fc")])


def cache(distiller, form, path):
    if form == "arrays":
        return distiller.cache_teacher((X, Y), path, batch_size=16)
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 48, 16)]
    return distiller.cache_teacher(iter(batches), path, batch_size=16)


@pytest.mark.parametrize("form, stored", [("arrays", "memory"), ("batches", "files")])
def test_a_cached_teacher_gives_the_same_training(form, stored, tmp_path):  # peer: has none
    teacher = net(8, "t")
    hints = [Hint(student="conv", teacher="conv"), Hint(student="deep", teacher="deep")]
    results = []
    for cached in (False, True):
        keras.utils.set_random_seed(1)
        distiller = made(net(3, "s"), teacher, hints=hints)
        x, y = X, Y
        if cached:
            data = cache(distiller, form, None if stored == "memory" else tmp_path / "told")
            x, y = data.x, data.y
            np.testing.assert_array_equal(x["inputs"], X)
            assert isinstance(x["teacher"][1], np.memmap) == (stored == "files")
        distiller.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        results.append(weights(distiller))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


@pytest.mark.parametrize("stream", [False, True])
def test_a_cache_of_data_with_unknown_labels(stream):
    x, y = X[:, 0, :6, 0], np.where(Y > 1, np.nan, Y).astype("float32")[:, None]
    distiller = made(mlp(3, outputs=1), mlp(8, outputs=1), "mse", metrics=None)
    data = distiller.cache_teacher(iter([(x, y)]) if stream else (x, y))
    np.testing.assert_array_equal(data.y, y)
    assert np.isfinite(distiller.fit(data, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match="inputs in `data` hold NaN"):
        distiller.cache_teacher((x * np.nan, y))


def test_a_cache_as_a_dataset():
    distiller = made()
    data = cache(distiller, "arrays", None)
    assert len(data) == 3
    seen = np.concatenate([data[i][1] for i in range(3)])
    assert sorted(seen) == sorted(Y)
    assert not np.array_equal(seen, Y)
    x, _ = data[0]
    row = int(np.flatnonzero((x["inputs"][0] == X).all((1, 2, 3)))[0])
    np.testing.assert_array_equal(x["teacher"][0][0], data.x["teacher"][0][row])
    losses = distiller.fit(data, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    unlabelled = distiller.cache_teacher(X)
    distiller.fit(unlabelled, verbose=0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a tf.data pipeline")
def test_augmented_data_with_cached_outputs():
    import tensorflow as tf

    distiller = made(metrics=None)
    stored = distiller.cache_teacher(X)

    def augment(x, y):
        return x | {"inputs": tf.image.random_flip_left_right(x["inputs"])}, y

    data = tf.data.Dataset.from_tensor_slices((stored.x, Y)).shuffle(48).map(augment).batch(16)
    losses = distiller.fit(data, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    again = distiller.cache_teacher(tf.data.Dataset.from_tensor_slices((X, Y)).batch(20))
    np.testing.assert_array_equal(again.y, Y)
    np.testing.assert_allclose(again.x["teacher"][0], stored.x["teacher"][0], atol=1e-5)


def test_a_cache_of_another_distiller_is_refused():
    hinted = made(hints=[Hint(student="conv", teacher="conv")])
    with pytest.raises(ValueError, match="Expected 2 arrays of the teacher"):
        hinted.fit(made().cache_teacher((X, Y)), verbose=0)


def test_fitnets_stages():  # peer: has none
    student, teacher = net(3, "s"), net(8, "t")
    hints = [Hint(student="norm", teacher="norm")]
    distiller = Distiller(student=student, teacher=teacher, hints=hints)
    beyond = weights(student.get_layer("block")) + weights(student.get_layer("out"))
    before = weights(teacher)
    losses = distiller.fit_hints(X, "adam", epochs=6, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert same(beyond, weights(student.get_layer("block")) + weights(student.get_layer("out")))
    assert same(before, weights(teacher))
    distiller.compile("adam", LOSS)
    anneal = Anneal(distiller, "alpha", Linear(0.8, 0.0, steps=6))
    logs = distiller.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[anneal]).history
    assert logs["alpha"] == pytest.approx([0.8 * 4 / 6, 0.8 * 1 / 6])
    with pytest.raises(ValueError, match="without `hints`"):
        made().fit_hints(X)


def test_a_schedule_reaches_the_compiled_step():
    student, teacher = net(3, "s", norm=False), net(8, "t")
    distiller = made(student, teacher, optimizer=keras.optimizers.SGD(0.0))
    anneal = Anneal(distiller, "alpha", lambda step: [0.0, 1.0, 0.5][step])
    logs = distiller.fit(
        X, Y, batch_size=48, epochs=3, verbose=0, callbacks=[anneal], shuffle=False
    ).history["loss"]
    expected = [hand_loss(student, teacher, X, Y, alpha, 2.0) for alpha in (0.0, 1.0, 0.5)]
    assert logs == pytest.approx(expected, rel=1e-5)


def test_the_file_has_the_student_and_not_the_teacher(tmp_path):  # peer: stores the teacher
    attention = {"loss": distill_losses.attention_transfer, "regressor": None}
    hints = [
        Hint(student="block/deep", teacher="deep"),
        Hint(student="norm", teacher="norm", loss=keras.losses.Huber()),
        Hint(student="conv", teacher="conv", **attention),
    ]
    teacher = net(40, "t")
    own = distill_losses.decoupled
    distiller = made(teacher=teacher, hints=hints, alpha=0.25, soft_loss=own)
    distiller.fit(X, Y, verbose=0)
    distiller.save(tmp_path / "d.keras")
    with zipfile.ZipFile(tmp_path / "d.keras") as file:
        size = sum(entry.file_size for entry in file.infolist())
    assert size < 4 * teacher.count_params()
    again = keras.saving.load_model(tmp_path / "d.keras")
    assert again.teacher is None
    assert float(numpy(again.alpha)) == 0.25
    np.testing.assert_array_equal(again.predict(X, verbose=0), distiller.predict(X, verbose=0))
    assert same(weights(again), weights(distiller))
    with pytest.raises(ValueError, match="set_teacher"):
        again.fit(X, Y, verbose=0)
    again.set_teacher(teacher)
    assert step_loss(again, X, Y) == pytest.approx(step_loss(distiller, X, Y), rel=1e-5)
    distiller.student.save(tmp_path / "s.keras")
    keras.saving.load_model(tmp_path / "s.keras")


def test_the_teacher_is_saved_when_asked(tmp_path):
    distiller = made(save_teacher=True)
    distiller.save(tmp_path / "d.keras")
    again = keras.saving.load_model(tmp_path / "d.keras")
    assert same(weights(again.teacher), weights(distiller.teacher))
    again.fit(X, Y, verbose=0)


def test_a_compressed_student():
    student = tfc.swap(net(3, "s"), {"deep": tfc.layers.BinaryConv2D.using()})
    distiller = made(student, hints=[Hint(student="deep", teacher="deep")])
    losses = distiller.fit(X, Y, batch_size=16, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_proximal_newton_projects_the_student_only():
    student = net(3, "s")
    optimizer = tfc.optimizers.ProxNewton(1e-3, tfc.project.Binary())
    distiller = made(student, optimizer=optimizer, hints=[Hint(student="deep", teacher="deep")])
    distiller.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    kernel = weights(student.get_layer("conv"))[0]
    assert all(len(np.unique(np.abs(kernel[..., i]))) == 1 for i in range(3))
    matrix = weights(distiller.regressors[0])[0]
    assert len(np.unique(np.abs(matrix))) > matrix.shape[-1]


def test_pruning_by_obd_measures_the_student():
    distiller = made()
    prune = Prune(lambda step: 0.5, score="obd", data=(X, Y), layers=["deep", "out"], every=2)
    logs = distiller.fit(X, Y, batch_size=16, verbose=0, callbacks=[prune]).history
    assert logs["sparsity"][0] == pytest.approx(0.5, abs=0.01)


def test_pruning_acts_on_the_student_only():
    student, teacher = net(3, "s"), net(8, "t")
    distiller = made(student, teacher, hints=[Hint(student="deep", teacher="deep")])
    prune = Prune(Linear(0.2, 0.5, steps=4), layers=["deep", "out"], every=1)
    distiller.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[prune])
    kernels = [v for v in student.trainable_variables if v.name == "kernel"]
    zeros = [np.mean(numpy(v) == 0) for v in kernels]
    total = np.mean(np.concatenate([numpy(v).ravel() for v in kernels[1:]]) == 0)
    assert zeros[0] == 0 and total == pytest.approx(0.5, abs=0.01)
    assert all(np.all(w != 0) for w in weights(distiller.regressors[0])[:1])
    assert all(np.all(v != 0) for v in weights(teacher)[:1])


def test_an_ensemble_checkpoint_and_early_stopping(tmp_path):
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_accuracy"),
        keras.callbacks.EarlyStopping(monitor="val_loss", restore_best_weights=True),
    ]
    made().fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=callbacks, verbose=0)
    assert (tmp_path / "best.keras").exists()


@pytest.mark.parametrize(
    "options, error",
    [
        ({"temperature": 0}, ValueError),
        ({"alpha": 1.5}, ValueError),
        ({"hints": ["conv"]}, TypeError),
        ({"teacher": mlp(3, outputs=7)}, ValueError),
        ({"teacher": keras.Sequential([layers.Dense(4)])}, ValueError),
        ({"teacher": "model"}, TypeError),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises(error, match=r"Received|learned nothing"):
        Distiller(**({"student": net(3, "s"), "teacher": net(8, "t")} | options))


def test_the_student_is_no_teacher():
    student = net(3, "s")
    with pytest.raises(ValueError, match="its own teacher"):
        Distiller(student=student, teacher=student)


ELSEWHERE = "formula or runs_once or nested or stages or schedule or as_a_dataset"


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="this is the other process")
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_trains_on_other_backends(backend):
    pytest.importorskip(backend)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", __file__, "-k", ELSEWHERE],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]


@pytest.mark.parametrize(("alpha", "said"), [(0, True), (0.5, False)])
def test_no_labels_and_no_weight_of_the_teacher_is_said(alpha, said):
    distiller = made(mlp(3), trained(mlp(9), "mse"), loss=None, metrics=None, alpha=alpha)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        distiller.fit(X[:, 0, :6, 0], verbose=0)
    assert any("no labels" in str(one.message) for one in seen) == said


def scalars(width):
    """A model of one number for each example, of shape `(b,)`."""
    inputs = keras.Input((6,))
    return keras.Model(inputs, ops.sum(layers.Dense(width)(inputs), axis=-1))


def test_outputs_without_an_axis_of_classes():
    x = RNG.normal(size=(16, 6)).astype("float32")
    y = x[:, 0].copy()
    teacher = scalars(8)
    teacher.compile(loss="mse")
    distiller = Distiller(student=scalars(4), teacher=teacher)
    distiller.compile(keras.optimizers.SGD(0.0), loss="mse")
    whole = distiller.fit(x, y, sample_weight=np.ones(16), verbose=0).history
    teacher_y, student_y = (np.asarray(m(x)) for m in (teacher, distiller.student))
    assert whole["soft_loss"][0] == pytest.approx(np.square(teacher_y - student_y).mean(), rel=1e-4)
    y[3] = np.nan
    known = np.square(student_y - y)[np.isfinite(y)].sum() / 16
    assert distiller.fit(x, y, verbose=0).history["task_loss"][0] == pytest.approx(known, rel=1e-4)


def test_weights_without_labels_are_refused():
    teacher = mlp(8)
    teacher.compile(loss=LOSS)
    distiller = Distiller(student=mlp(4), teacher=teacher)
    distiller.compile("adam")
    with pytest.raises(ValueError, match="only beside labels"):
        distiller.fit(np.ones((8, 6)), sample_weight=np.ones(8), verbose=0)


def test_weights_of_positions_that_are_not_those_of_a_hint():
    inputs = [keras.Input((8, 8, 1)) for _ in range(2)]
    models = []
    for i, width in zip(inputs, (6, 3), strict=True):
        small = layers.Conv2D(width, 3, 2, "same", activation="relu", name="small")(i)
        models.append(keras.Model(i, layers.Conv2D(3, 1)(layers.UpSampling2D()(small))))
    models[0].compile(loss=LOSS)
    distiller = Distiller(
        student=models[1], teacher=models[0], hints=[Hint(student="small", teacher="small")]
    )
    distiller.compile("adam", loss=LOSS)
    labels, weights = RNG.integers(0, 3, (48, 8, 8)), RNG.uniform(size=(48, 8, 8))
    history = distiller.fit(X, labels, sample_weight=weights, verbose=0).history
    assert np.isfinite(history["hint_loss"]).all()
