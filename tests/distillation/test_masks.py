"""What a mask leaves out of the task's loss, it leaves out of the teacher's too."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.distillation.labels import weighted_mean

RANDOM = np.random.default_rng(0)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
IDS = RANDOM.integers(1, 20, (32, 10))
IDS[:, 2:] = 0  # two real steps
LABELS = RANDOM.integers(0, 5, (32, 10))


def net(width):
    ids = keras.Input((10,), dtype="int32")
    x = layers.Embedding(20, width, mask_zero=True)(ids)
    x = layers.Dense(width, "relu", name="hidden")(x)
    model = keras.Model(ids, layers.Dense(5)(x))
    model.compile(loss=LOSS)
    return model


def first_losses(distiller, y=LABELS, loss=LOSS):
    distiller.compile(keras.optimizers.SGD(0.0), loss, jit_compile=False)
    history = distiller.fit(IDS, y, batch_size=32, verbose=0).history
    return {name: values[0] for name, values in history.items()}


def test_the_soft_loss_is_the_mean_over_real_steps():
    teacher, student = net(16), net(4)
    found = first_losses(tfc.Distiller(student=student, teacher=teacher, temperature=3.0))
    logits = [model.predict(IDS, verbose=0) for model in (teacher, student)]
    values = np.asarray(tfc.distill_losses.softmax_kl(*logits, 3.0))
    assert found["soft_loss"] == pytest.approx(values[:, :2].mean(), rel=1e-4)
    assert found["soft_loss"] != pytest.approx(values.mean(), rel=1e-2)


def test_the_loss_of_a_hint_is_the_mean_over_real_steps():
    teacher, student = net(8), net(8)
    hint = tfc.Hint(student="hidden", teacher="hidden", regressor=None)
    found = first_losses(tfc.Distiller(student=student, teacher=teacher, hints=[hint]))
    features = [
        keras.Model(model.inputs, model.get_layer("hidden").output).predict(IDS, verbose=0)
        for model in (teacher, student)
    ]
    values = np.mean((features[0] - features[1]) ** 2, -1)
    assert found["hint_loss"] == pytest.approx(values[:, :2].mean(), rel=1e-4)


def test_a_mask_of_steps_says_nothing_about_whole_examples():
    assert float(weighted_mean(np.array([1.0, 3.0]), mask=np.zeros((2, 4), bool))) == 2.0


def test_labels_that_the_loss_ignores_are_its_own_to_count():
    labels = np.where(np.arange(10) < 1, LABELS, -1)
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    teacher, student = net(16), net(4)
    found = first_losses(tfc.Distiller(student=student, teacher=teacher), labels, ignoring)
    student.compile(loss=ignoring, jit_compile=False)
    expected = student.evaluate(IDS, labels, batch_size=32, verbose=0)
    assert found["task_loss"] == pytest.approx(expected, rel=1e-5)
