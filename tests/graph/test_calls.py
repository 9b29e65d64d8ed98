"""Calls in a graph as Keras makes them: in inference mode, inputs by name; what they end in."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfcompress as tfc
from tfcompress.graph.features import output_activations
from tfcompress.graph.layerwise import follow
from tfcompress.graph.nodes import input_shapes
from tfcompress.graph.suffix import outputs_of
from tfcompress.measure.held_out_loss import HeldOutLoss

IMAGES = np.random.default_rng(0).uniform(0, 255, (32, 8, 8, 3)).astype("float32")


def augmented(*augmentation):
    """A net behind layers that change pictures in training only."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            *(keras.Input((8, 8, 3)), *augmentation, layers.Rescaling(1 / 255)),
            *(layers.Conv2D(4, 3, activation="relu", name="conv"), layers.Flatten()),
            layers.Dense(3, name="out"),
        ]
    )


AUGMENTATIONS = [
    lambda: layers.RandomFlip(),
    lambda: layers.RandomBrightness(0.5),
    lambda: layers.RandomRotation(0.3),
    lambda: keras.Sequential([layers.RandomZoom(0.5), layers.RandomContrast(0.9)]),
]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_augmentation_is_off_while_inputs_are_measured(augmentation):
    model, plain = augmented(augmentation()), augmented()
    state = [variable.numpy() for variable in model.variables]  # seeds too
    np.testing.assert_allclose(outputs_of(model, IMAGES)[0], model(IMAGES, training=False))
    small, expected = (tfc.swap(m, tfc.layers.rounding(2), data=IMAGES) for m in (model, plain))
    found, wanted = (m(IMAGES, training=False) for m in (small, expected))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert all(map(np.array_equal, state, [variable.numpy() for variable in model.variables]))


def test_a_held_out_loss_is_that_of_evaluate():
    model, y = augmented(layers.RandomBrightness(0.9)), np.arange(32) % 3
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = HeldOutLoss(model, IMAGES, y, None, None)
    assert loss(model) == loss.base == pytest.approx(model.evaluate(IMAGES, y, verbose=0), rel=1e-5)


def test_dropout_that_was_called_in_training_mode_is_off_as_in_predict():
    x = keras.Input((8,))
    model = keras.Model(x, layers.Dense(3)(layers.Dropout(0.5)(x, training=True)))
    rows = IMAGES[:, 0, 0, :1] * np.ones(8, "float32")
    np.testing.assert_allclose(
        outputs_of(model, rows)[0], model.predict(rows, verbose=0), rtol=1e-5
    )


def nested(by_name):
    """A model whose part was made of the inputs `[b, a]`, called by name or in their order."""
    keras.utils.set_random_seed(0)
    b, a = keras.Input((4,), name="b"), keras.Input((4,), name="a")
    joined = layers.Concatenate()([layers.Dense(4, "relu")(b), 5.0 * a])
    part = keras.Model([b, a], layers.Dense(3, name="out")(joined), name="part")
    first, second = keras.Input((4,)), keras.Input((4,))
    given = {"a": first, "b": second} if by_name else [second, first]
    wide = [layers.Dense(4, "relu", name=f"wide_{n}")(x) for n, x in enumerate((first, second))]
    given = {"a": wide[0], "b": wide[1]} if by_name else wide[::-1]
    return keras.Model([first, second], part(given))


ROWS = [np.random.default_rng(n).normal(5 * n, 1, (64, 4)).astype("float32") for n in (0, 1)]


def test_a_nested_model_takes_its_inputs_by_name():
    seen, models = [], [nested(by_name=True), nested(by_name=False)]
    for model in models:
        inner = model.get_layer("part").get_layer("out")
        means = []

        def note(layer, pairs, means=means):
            means.extend(np.mean(x, 0) for x, _ in pairs)

        follow(model, ROWS, [inner], note)
        seen.append(np.mean(means, 0))
        assert input_shapes(model)[id(inner)] == [(None, 8)]
    np.testing.assert_allclose(*seen, rtol=1e-5)
    pruned = [tfc.prune_channels(model, 0.5)(ROWS) for model in models]
    np.testing.assert_allclose(*pruned, rtol=1e-5, atol=1e-6)


def test_a_nested_model_whose_inputs_get_another_dtype_runs_as_keras_runs_it():
    ids = keras.Input((6,), dtype="int32")
    table = layers.Embedding(9, 4)(ids)
    part = keras.Model(ids, layers.Dense(2, name="out")(table), name="part")
    numbers = keras.Input((6,))
    model = keras.Model(numbers, layers.Flatten()(part(numbers)))
    rows = np.random.default_rng(0).integers(0, 9, (64, 6)).astype("float32")
    small = tfc.swap(model, tfc.layers.rounding(8), data=rows)
    np.testing.assert_allclose(small(rows), model(rows), atol=0.1)


@keras.saving.register_keras_serializable("test_calls")
class Head(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, "softmax")

    def call(self, x):
        return self.dense(x)


def dense(activation=None):
    return layers.Dense(3, activation=activation)


SOFTMAX, SIGMOID = keras.activations.softmax, keras.activations.sigmoid
ENDS = {
    "softmax": (lambda x: dense("softmax")(x), SOFTMAX),
    "layer": (lambda x: layers.Softmax()(dense()(x)), SOFTMAX),
    "operation": (lambda x: ops.softmax(dense()(x)), SOFTMAX),
    "float32 behind": (lambda x: layers.Activation("linear")(dense("softmax")(x)), SOFTMAX),
    "of each step": (lambda x: layers.TimeDistributed(dense("sigmoid"))(x[:, None]), SIGMOID),
    "squeezed": (lambda x: ops.squeeze(dense("softmax")(x)[:, None], 1), None),
    "logits": (lambda x: dense()(x), keras.activations.linear),
    "of TensorFlow": (lambda x: dense(tf.nn.softmax)(x), None),
    "of one's own": (lambda x: dense(lambda y: ops.softmax(y))(x), None),
    "composite": (lambda x: Head()(x), None),
    "a mean of two": (lambda x: layers.Average()([dense("softmax")(x), dense("softmax")(x)]), None),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_an_output_ends_in(end):
    make, expected = ENDS[end]
    x = keras.Input((4,))
    assert output_activations(keras.Model(x, make(x))) == [expected]


def test_a_layer_that_is_called_twice_ends_in_what_came_last():
    x, drop = keras.Input((4,)), layers.Dropout(0.5)
    hidden = drop(layers.Dense(4, "relu")(x))
    assert output_activations(keras.Model(x, drop(dense("softmax")(hidden)))) == [SOFTMAX]


@pytest.mark.parametrize("end", ["of TensorFlow", "composite", "of one's own", "float32 behind"])
def test_probabilities_teach_the_same_whatever_makes_them(end):
    found = []
    for make in (ENDS["softmax"][0], ENDS[end][0]):
        models = []
        for seed in (0, 1):
            keras.utils.set_random_seed(seed)
            x = keras.Input((4,))
            models.append(keras.Model(x, make(layers.Dense(4, "relu")(x))))
            models[-1].set_weights([3 * w for w in models[-1].get_weights()])
        models[0].compile(loss="sparse_categorical_crossentropy")
        distiller = tfc.Distiller(student=models[1], teacher=models[0])
        distiller.compile(keras.optimizers.SGD(0.0))
        found.append(distiller.fit(ROWS[0], verbose=0).history["soft_loss"][0])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[0] > 0.01
