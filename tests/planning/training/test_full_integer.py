"""`compress(activations="static_int8")`: ranges that are learned, and the score of the file."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.layers.discrete.learned_range import LearnedRange
from tfcompress.planning import planner
from tfcompress.planning.file_model import FileModel
from tfcompress.planning.quality import Quality
from tfcompress.planning.training.activation_ranges import (
    with_learned_as_fixed,
    with_learned_ranges,
)
from tfcompress.tflite.reader import read, type_name
from tfcompress.tflite.runner import Runner

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RANDOM = np.random.default_rng(0)


def problem(count):
    y = RANDOM.integers(0, 4, count)
    waves = np.sin(np.arange(1, 5)[:, None] * np.arange(10) / 2)
    x = RANDOM.normal(size=(count, 10, 10, 3)) + 0.8 * waves[y][:, None, :, None]
    return x.astype("float32"), y


TRAIN, TEST = problem(800), problem(300)


def net():
    """A convolution, a depthwise one, a branch, and Dense layers, with all that folds into them."""
    image = keras.Input((10, 10, 3))
    x = layers.Conv2D(32, 3, use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU(6.0, name="relu6")(layers.BatchNormalization(momentum=0.9)(x))
    branch = layers.BatchNormalization(momentum=0.9, name="branch_norm")(
        layers.Conv2D(32, 1, name="point")(x)
    )
    x = layers.ReLU(name="sum_relu")(layers.Add()([x, branch]))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(64, "relu", name="fc")(x)
    return keras.Model(image, layers.Dense(4, name="out")(x))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = net()
    model.compile(keras.optimizers.Adam(5e-3), LOSS, metrics=["accuracy"], jit_compile=False)
    model.fit(*TRAIN, epochs=3, batch_size=50, verbose=0)
    return model


@pytest.fixture(autouse=True)
def few_forms(monkeypatch):
    forms = {f"{bits} bits": list(tfc.layers.rounding(bits).values()) for bits in (4, 8)}
    monkeypatch.setattr(planner, "default_candidates", lambda target: forms)


def compressed(model, **options):
    given = {"validation_data": TEST, "fine_tune": 1, "budget": 0.47} | options
    return tfc.compress(model, TRAIN, activations="static_int8", **given)


def ranges_of(model):
    return [layer for layer in model.layers if isinstance(layer, tfc.layers.FakeQuant)]


def test_the_file_is_in_integers_with_the_learned_ranges_and_is_what_was_scored(model):
    made = compressed(model)
    file = read(made.tflite)
    graph = file.subgraphs[0]
    ends = {int(i) for i in (*graph.inputs, *graph.outputs)}
    floats = {i for i, t in enumerate(graph.tensors) if type_name(t) == "FLOAT32"}
    assert floats == ends
    scales = [t.quantization.scale for t in graph.tensors if t.quantization is not None]
    scales = np.concatenate([np.ravel(scale) for scale in scales if scale is not None])
    found = ranges_of(made.model)
    assert [layer.name.removesuffix("_range") for layer in found] == (
        ["stem_relu", "relu6", "branch_norm", "sum_relu", "mean", "fc", "out"]
    )
    for layer in found:
        assert np.isclose(scales, (layer.high - layer.low) / 255, rtol=1e-5).any()
    before = {x.name: x for x in with_learned_ranges(made.model, TRAIN[0][:50]).layers}
    assert not any(isinstance(layer, LearnedRange) for layer in before.values())
    right = Runner(made.tflite)([TEST[0]])[0].argmax(-1) == TEST[1]
    assert made.after == pytest.approx(right.mean()) and made.after > made.before - 0.05
    assert made.size == len(made.tflite) <= 0.47 * len(tfc.to_tflite(model))
    assert "activations='static_int8'" in made.asked


def test_a_training_of_ones_own_trains_the_ranges(model):
    def train(student, teacher, data):
        student.compile("adam", LOSS, jit_compile=False)
        student.fit(*data, verbose=0)

    made = compressed(model, fine_tune=train)
    start = with_learned_ranges(with_learned_as_fixed(model), TRAIN[0][:500])
    start = {layer.name: layer for layer in start.layers}
    moved = [layer.high / start[layer.name].high for layer in ranges_of(made.model)]
    assert len(moved) == 7 and np.ptp(np.log(moved)) > 1e-3


def test_factors_stand_side_by_side_in_the_model_and_in_its_report(model, monkeypatch):
    low_rank = tfc.layers.LowRankConv2D.using(rank=4)
    eight = tfc.layers.QuantizedConv2D.using(bits=8)
    monkeypatch.setattr(planner, "default_candidates", lambda target: {"low": low_rank.then(eight)})
    made = compressed(model, budget=0.9)
    (row,) = (row for row in made.report.rows if len(row.parts) == 2)
    assert [part.path for part in row.parts] == [f"{row.path}_in", row.path]
    assert row.float_bits == 32 * model.get_layer(row.path).kernel.numpy().size
    assert all(part.file_bytes for part in row.parts)
    assert sum(row.float_bits for row in made.report.rows) == made.report.float_bits


def test_without_training_ranges_are_measured(model):
    made = compressed(model, fine_tune=0)
    assert not ranges_of(made.model) and made.after > made.before - 0.05


def test_zeros_and_clusters_are_kept():
    keras.utils.set_random_seed(1)
    model = net()
    pruned = model.get_layer("fc").kernel
    pruned.assign(pruned.numpy() * (np.abs(pruned.numpy()) > 0.1))
    clustered, levels = model.get_layer("point").kernel, np.float32([-0.3, -0.1, 0.05, 0.17])
    clustered.assign(levels[RANDOM.integers(0, 4, clustered.shape)])
    model.compile(keras.optimizers.Adam(5e-3), LOSS, metrics=["accuracy"], jit_compile=False)
    zeros = (pruned.numpy() == 0).T
    made = compressed(model, budget=0.6)
    held = {}
    for tensor in read(made.tflite).subgraphs[0].tensors:
        held[(tensor.name or b"").decode()] = tensor
    weights = _integers(made.tflite)
    fc = next(w for name, w in weights.items() if "fc" in name and w.shape == (64, 32))
    assert np.all(fc[zeros] == 0) and 0.2 < zeros.mean() < 0.95
    point = next(w for name, w in weights.items() if "point" in name and w.ndim == 4)
    for channel in point:
        assert len(np.unique(channel)) <= 4


def _integers(blob):
    file = read(blob)
    graph = tfc.tflite.graph_editor.Graph(file)
    found = {}
    for index in range(len(graph.tensors)):
        values = graph.values(index)
        if values is not None and values.ndim > 1 and graph.type(index) in ("INT4", "INT8"):
            found[graph.name(index)] = values
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activations": "static"}, "`activations` must be one of"),
        ({"activations": "float32"}, "`activations` must be one of"),
        ({"store": "small"}, "`store='small'`"),
        ({"target": "archive"}, "an archive"),
        ({"metric": lambda model: 1.0}, "a function gets a model"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_measured(model, options, message):
    given = {"budget": 0.5, "activations": "static_int8"} | options
    with pytest.raises(ValueError, match=message):
        tfc.compress(model, None, **given)


def test_a_range_starts_as_the_layer_that_it_becomes():
    for low, high in [(0.0, 3.0), (-1.3, 2.0), (-2.0, 0.0)]:
        x = RANDOM.normal(size=(40, 5)).astype("float32") * 2
        layer = LearnedRange(low, high)
        np.testing.assert_allclose(layer(x), tfc.layers.FakeQuant(low, high)(x), atol=1e-6)
        layer.growth.assign([0.3, -0.2])
        fixed = layer.learned()
        np.testing.assert_allclose(layer(x), fixed(x), atol=1e-5)
        assert (fixed.low, fixed.high) == pytest.approx((low * np.exp(0.3), high * np.exp(-0.2)))
        again = keras.layers.deserialize(keras.layers.serialize(layer))
        assert (again.low, again.high) == (low, high)


def test_a_hand_worked_gradient():
    """With a step of 1, y = s (round(x / s)) rises by round(x) - x with s, and by 255 above."""
    import tensorflow as tf

    layer, x = LearnedRange(0.0, 255.0), tf.constant([[3.3, 7.9, 300.0, -2.0]])
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(layer(x) * tf.constant([1.0, 10.0, 100.0, 1000.0]))
    of_x, of_growth = tape.gradient(y, [x, layer.growth.value])
    np.testing.assert_allclose(of_x, [[1, 10, 0, 0]])
    # s = exp(b), so the gradient by b at b = 0 is that by s
    assert of_growth[0] == 0
    assert float(of_growth[1]) == pytest.approx(-0.3 + 10 * 0.1 + 100 * 255, rel=1e-5)


def test_ranges_stand_behind_what_one_operator_does():
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.MaxPooling2D(name="pool")(layers.LeakyReLU(name="leaky")(x))
    x = layers.Dropout(0.1)(layers.Flatten()(x))
    gate = layers.Dense(36, "sigmoid", name="gate")(x)
    x = layers.Multiply(name="gated")([x, gate])
    block = keras.Sequential([layers.Dense(8, name="fc"), layers.ReLU(name="relu")], name="block")
    model = keras.Model(inputs, [block(x), layers.Dense(3, "softmax", name="classes")(x)])
    new = with_learned_ranges(model, RANDOM.normal(size=(20, 6, 6, 4)).astype("float32"))
    found = [path for path, (layer, _) in tfc.walk(new).items() if isinstance(layer, LearnedRange)]
    assert found == ["conv_range", "leaky_range", "gated_range", "block/relu_range"]


def test_a_file_gives_what_its_model_gives():
    inputs = {"a": keras.Input((5, 4), name="a"), "b": keras.Input((4,), name="b")}
    x = layers.Masking()(inputs["a"])
    x = layers.LSTM(4, return_sequences=True, unroll=True)(x)
    model = keras.Model(inputs, {"steps": x, "last": layers.Dense(2)(inputs["b"])})
    data = {"b": RANDOM.normal(size=(9, 4)), "a": RANDOM.normal(size=(9, 5, 4))}
    data = {name: x.astype("float32") for name, x in data.items()}
    data["a"][:, 3:] = 0  # masked
    file = FileModel(tfc.to_tflite(model, activations="float32"), model)
    for count in (9, 4):
        given = {name: x[:count] for name, x in data.items()}
        found, expected = file(given), model(given)
        for name in ("steps", "last"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    labels = {"steps": np.ones((9, 5, 4)), "last": np.ones((9, 2))}
    model.compile(loss="mse", jit_compile=False)
    quality = Quality(model, (data, labels), "loss")
    assert quality(file) == pytest.approx(quality(model), rel=1e-4)
