"""Keras 3 models in tf_keras and in tensorflow_model_optimization, and back.

Most tests need the extra "tfmot". It changes nothing in this process: see the first ones.
"""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from test_layers import CASES

import tfcompress as tfc
from tfcompress.interop import packages, tfmot
from tfcompress.tflite.reader import constant, operator_name, read
from tfcompress.tflite.runner import Runner

L = keras.layers
missing = [
    name
    for name in ("tf_keras", "tensorflow_model_optimization")
    if importlib.util.find_spec(name) is None
]
needs_extra = pytest.mark.skipif(
    bool(missing) or keras.backend.backend() != "tensorflow",
    reason=f'pip install "tfcompress[tfmot]": {", ".join(missing)} not installed',
)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def in_a_fresh_process(code, **env):
    paths = os.pathsep.join([os.path.dirname(os.path.dirname(tfc.__file__)), *sys.path])
    command = [sys.executable, "-W", "ignore", "-c", code]
    # what a test before this one has imported may have set the variable
    left = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    env = left | {"PYTHONPATH": paths} | env
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_importing_imports_neither_package():
    in_a_fresh_process("""
import sys, os
found = os.environ.get("TF_USE_LEGACY_KERAS")
import tfcompress as tfc
tfc.interop.tfmot.prune, tfc.interop.tfmot.cluster, tfc.interop.tfmot.quantize
assert not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
assert os.environ.get("TF_USE_LEGACY_KERAS") == found
""")


def test_without_the_extra_an_error_tells_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    with pytest.raises(ImportError, match="pip install tensorflow-model-optimization tf-keras"):
        packages.load.__wrapped__()


@needs_extra
def test_the_process_is_left_as_it_was_found(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    packages.load.__wrapped__()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "0"
    in_a_fresh_process("""
import os, keras, numpy as np
os.environ.pop("TF_USE_LEGACY_KERAS", None)
import tfcompress as tfc, tensorflow as tf
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
training = tfc.interop.tfmot.prune(model, "sgd", "mse")
training.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
training.model()
assert "TF_USE_LEGACY_KERAS" not in os.environ
assert tf.keras.layers.Dense is keras.layers.Dense
""")


def outputs(model, x):
    found = keras.tree.flatten(model(x, training=False))
    return [keras.ops.convert_to_numpy(y).astype("float64") for y in found]


def check_crossing(model, x):
    """There and back: equal weights, outputs equal to 1e-6, equal names."""
    there = tfmot.to_tf_keras(model)
    back = tfmot.from_tf_keras(there)
    for expected, y, z in zip(*(outputs(m, x) for m in (model, there, back)), strict=True):
        np.testing.assert_allclose(y, expected, atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(z, expected, atol=1e-6, rtol=1e-6)
    for old, new in zip(model.weights, back.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(old), np.asarray(new), err_msg=old.path)
    return there, back


IMAGE, SERIES, CUBE = (8, 8, 3), (6, 4), (4, 4, 4, 2)
LAYERS = [
    (L.Dense(5, activation="gelu", kernel_regularizer="l2", bias_constraint="non_neg"), (7,)),
    (L.Dense(5, use_bias=False, dtype="mixed_bfloat16"), (3, 7)),
    (L.Conv1D(5, 3, padding="causal", dilation_rate=2), SERIES),
    (L.Conv2D(6, (3, 2), strides=(2, 1), padding="same", groups=3), IMAGE),
    (L.Conv3D(4, 2), CUBE),
    (L.Conv1DTranspose(3, 3, strides=2), SERIES),
    (L.Conv2DTranspose(3, 3, strides=2, padding="same"), IMAGE),
    (L.DepthwiseConv1D(3), SERIES),
    (L.DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
    (L.SeparableConv1D(5, 3), SERIES),
    (L.SeparableConv2D(5, 3, depth_multiplier=2), IMAGE),
    (L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), SERIES),
    (L.BatchNormalization(scale=False, axis=1), IMAGE),
    (L.LayerNormalization(), SERIES),
    (L.GroupNormalization(2), SERIES),
    (L.UnitNormalization(), SERIES),
    (L.SpectralNormalization(L.Dense(3)), (5,)),
    (L.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 2, 1, 1]), SERIES),
    (L.Rescaling(1 / 255, offset=-1.0), IMAGE),
    (L.Resizing(5, 6), IMAGE),
    (L.CenterCrop(5, 6), IMAGE),
    (L.Discretization(bin_boundaries=[-0.5, 0.0, 0.5]), (3,)),
    (L.RandomFlip(), IMAGE),
    (L.RandomRotation(0.2), IMAGE),
    (L.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2), SERIES),
    (L.LeakyReLU(0.2), SERIES),
    (L.PReLU(shared_axes=[1]), SERIES),
    (L.ELU(0.5), SERIES),
    (L.Softmax(axis=1), SERIES),
    (L.Activation("silu"), SERIES),
    (L.MaxPooling1D(2), SERIES),
    (L.MaxPooling2D((2, 3), padding="same"), IMAGE),
    (L.AveragePooling2D(2, padding="same"), IMAGE),
    (L.AveragePooling3D(2), CUBE),
    (L.GlobalAveragePooling2D(keepdims=True), IMAGE),
    (L.GlobalMaxPooling1D(), SERIES),
    (L.Flatten(), IMAGE),
    (L.Reshape((-1, 3)), IMAGE),
    (L.Permute((2, 1)), SERIES),
    (L.RepeatVector(3), (4,)),
    (L.Dropout(0.3, seed=1), SERIES),
    (L.SpatialDropout2D(0.3), IMAGE),
    (L.GaussianNoise(0.3), SERIES),
    (L.AlphaDropout(0.3), SERIES),
    (L.ActivityRegularization(0.1, 0.2), SERIES),
    (L.Identity(), SERIES),
    (L.ZeroPadding1D(2), SERIES),
    (L.ZeroPadding2D(((1, 2), (0, 1))), IMAGE),
    (L.Cropping2D(((1, 2), (0, 1))), IMAGE),
    (L.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    (L.LSTM(5, return_sequences=True), SERIES),
    (L.GRU(5, reset_after=False), SERIES),
    (L.SimpleRNN(5, go_backwards=True), SERIES),
    (L.Bidirectional(L.LSTM(3, return_sequences=True)), SERIES),
    (L.RNN([L.LSTMCell(3), L.GRUCell(4)]), SERIES),
    (L.TimeDistributed(L.Dense(3)), SERIES),
    (L.ConvLSTM2D(3, 2), (4, 6, 6, 2)),
]


@needs_extra
def test_layers_of_both_versions_cross():
    random = np.random.default_rng(0)
    for layer, shape in LAYERS:
        model = keras.Sequential([keras.Input(shape), layer])
        for weight in model.weights:
            if "float" in str(weight.dtype):
                weight.assign(np.abs(random.standard_normal(weight.shape)) * 0.3 + 0.1)
        x = random.standard_normal((2, *shape)).astype("float32")
        _, back = check_crossing(model, x)
        assert back.layers[0].name == layer.name and type(back.layers[0]) is type(layer)


def graphs():
    random = np.random.default_rng(0)

    def draw(*shape):
        return random.standard_normal(shape).astype("float32")

    a, c = keras.Input((4,), name="a"), keras.Input((4,), name="c")
    shared = L.Dense(4, name="shared")
    u, v = shared(a), shared(c)
    merges = [
        getattr(L, kind)()([u, v])
        for kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
    ]
    yield keras.Model([a, c], [*merges, L.Dot(1)([u, v])]), [draw(2, 4), draw(2, 4)]
    operations = {"sum": u + v, "product": keras.ops.relu(u * v)}
    operations["shares"] = keras.ops.softmax(L.Reshape((2, 2))(u), axis=1)
    yield keras.Model({"a": a, "c": c}, operations), {"a": draw(2, 4), "c": draw(2, 4)}
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3), L.BatchNormalization()], name="inner")
    middle = keras.Model(a, [inner(a), u], name="middle")
    first, second = middle(c)
    yield keras.Model(c, [first, L.Concatenate()([second, inner(c)])]), draw(2, 4)
    series, other = keras.Input((6, 4)), keras.Input((5, 4))
    attention = L.MultiHeadAttention(2, 3)(series, other)
    yield (
        keras.Model([series, other], L.Attention()([attention, other])),
        [draw(2, 6, 4), draw(2, 5, 4)],
    )
    whole, *state = L.LSTM(5, return_state=True, return_sequences=True)(series)
    yield keras.Model(series, [whole, L.LSTM(5)(series, initial_state=state)]), draw(2, 6, 4)
    words = keras.Input((5,), dtype="int32")
    yield (
        keras.Model(words, L.GRU(3)(L.Embedding(11, 4, mask_zero=True)(words))),
        random.integers(0, 3, (3, 5)),
    )
    vectors = L.Embedding(11, 4, mask_zero=True)(words)
    zeros = [kind(3, return_sequences=True, zero_output_for_mask=True) for kind in (L.LSTM, L.GRU)]
    zeros.append(L.Bidirectional(L.LSTM(3, return_sequences=True)))
    yield (
        keras.Model(words, [layer(vectors) for layer in zeros]),
        np.array([[1, 2, 0, 0, 0], [3, 4, 5, 0, 0]]),
    )
    frozen = keras.Sequential([keras.Input((4,)), L.Dense(3), L.BatchNormalization(), L.Dense(2)])
    frozen.layers[0].trainable = frozen.layers[1].trainable = False
    yield frozen, draw(2, 4)


@needs_extra
def test_graphs_cross():
    for model, x in graphs():
        there, back = check_crossing(model, x)
        for layer in model.layers:
            assert layer.trainable == there.get_layer(layer.name).trainable
            assert layer.trainable == back.get_layer(layer.name).trainable


@needs_extra
def test_compressed_layers_cross():
    tf_keras = packages.load().tf_keras
    for name, case in CASES.items():
        ordinary, maker, x = case()
        layer = maker(ordinary)
        inputs = keras.Input(x.shape[1:], dtype=str(x.dtype))
        model = keras.Model(inputs, layer(inputs))
        there = tfmot.to_tf_keras(model)
        adapter = there.layers[1]
        assert len(adapter.get_prunable_weights()) == len(layer.prunable), name
        again = tf_keras.models.clone_model(there)
        again.set_weights(there.get_weights())
        expected = outputs(model, x)[0]
        scale = np.abs(expected).max()
        for new in (there, again, tfmot.from_tf_keras(there)):
            np.testing.assert_allclose(
                outputs(new, x)[0], expected, atol=1e-6 * scale, err_msg=name
            )
        stored = tfmot.from_tf_keras(there).layers[1].stored()
        for key, value in layer.stored().items():
            np.testing.assert_array_equal(stored[key], value, err_msg=f"{name} {key}")


@needs_extra
def test_constraints_regularizers_and_draws_of_compressed_layers_hold_in_tf_keras():
    layer = tfc.layers.BinaryDense(4, stochastic=True, seed=3, kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((8,)), layer])
    there = tfmot.to_tf_keras(model)
    x = np.random.default_rng(0).standard_normal((64, 8)).astype("float32")
    first, second = (np.asarray(there(x, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 0
    model(x)
    np.testing.assert_allclose(sum(map(float, there.losses)), sum(map(float, model.losses)))
    there.compile("sgd", "mse")
    there.optimizer.learning_rate = 100.0
    there.fit(x, np.ones((64, 4)), verbose=0)
    latent = np.asarray(tfmot.from_tf_keras(there).layers[0].latent)
    assert np.abs(latent).max() == np.float32(layer.limit)


class Own(L.Dense):
    pass


@needs_extra
@pytest.mark.parametrize(
    "make, name",
    [
        (lambda x: L.Dense(3, activation="hard_sigmoid", name="gate")(x), "gate"),
        (lambda x: L.RMSNormalization(name="rms")(x), "rms"),
        (lambda x: Own(3, name="own")(x), "own"),
        (lambda x: keras.ops.cumsum(x, axis=1), "cumsum"),
        (lambda x: L.Dense(3)(x * 2.0), "multiply"),
        (lambda x: x + L.RepeatVector(4)(x), "add"),
    ],
)
def test_what_cannot_cross_is_refused_by_name(make, name):
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=f"'{name}.*cannot cross to tf_keras"):
        tfmot.to_tf_keras(keras.Model(inputs, make(inputs)))


@needs_extra
def test_what_tf_keras_alone_has_is_refused_by_name():
    tf_keras = packages.load().tf_keras
    inputs = tf_keras.Input((4,))
    model = tf_keras.Model(inputs, tf_keras.layers.ThresholdedReLU(name="theta")(inputs))
    with pytest.raises(ValueError, match=r"'theta'.*cannot cross to Keras 3"):
        tfmot.from_tf_keras(model)
    with pytest.raises(TypeError, match="tf_keras model"):
        tfmot.from_tf_keras(keras.Sequential([keras.Input((4,)), L.Dense(2)]))
    with pytest.raises(ValueError, match="no inputs"):
        tfmot.to_tf_keras(keras.Sequential([L.Dense(2)]))


@needs_extra
def test_the_compiled_state_is_carried_or_given():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    with pytest.raises(ValueError, match="not compiled"):
        tfmot.prune(model)
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]
    model.compile(keras.optimizers.SGD(rate, momentum=0.5), LOSS, metrics=metrics)
    carried = tfmot.prune(model).tf_keras_model
    assert carried.optimizer.momentum == 0.5 and carried.loss.get_config()["from_logits"]
    np.testing.assert_allclose(float(carried.optimizer.learning_rate), 0.1)
    x, y = np.ones((4, 4)), np.zeros(4)
    assert set(tfmot.prune(model).fit(x, y, verbose=0).history) == {
        *("loss", "accuracy", "sparse_top_k_categorical_accuracy")
    }
    given = tfmot.prune(model, "adam", "mse", []).tf_keras_model
    assert type(given.optimizer).__name__ == "Adam" and given.loss == "mse"


@needs_extra
def test_what_is_not_given_stays_as_it_was_compiled():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.5), "mse", metrics=["mae"])
    training = tfmot.prune(model, loss="mae")
    made = training.tf_keras_model
    assert made.loss == "mae" and made.optimizer.momentum == 0.5
    np.testing.assert_allclose(float(made.optimizer.learning_rate), 1e-3)
    assert set(training.fit(np.ones((4, 4)), np.ones((4, 3)), verbose=0).history) == {"loss", "mae"}
    made = tfmot.prune(model, "adam").tf_keras_model
    assert made.loss == "mse" and type(made.optimizer).__name__ == "Adam"


@needs_extra
def test_the_input_length_of_a_table_is_no_setting_of_keras_3():
    tf_keras = packages.load().tf_keras
    table = tf_keras.layers.Embedding(20, 3, input_length=5)
    model = tf_keras.Sequential([table, tf_keras.layers.Flatten()])
    ids = np.arange(10).reshape(2, 5)
    np.testing.assert_array_equal(model(ids), tfmot.from_tf_keras(model)(ids))


def images(count=1500):
    from tfcompress.datasets import fashion_mnist

    (x, y), (x_test, y_test), _ = fashion_mnist()
    return x[:count], y[:count], x_test[:500], y_test[:500]


def compile_and_fit(model, x, y, epochs=2):
    model.compile(keras.optimizers.Adam(2e-3), LOSS, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def accuracy(logits, y):
    return np.mean(np.asarray(logits).argmax(-1) == y)


def zeros(variable):
    return np.mean(np.asarray(variable) == 0)


def distinct(variable):
    return len(np.unique(np.asarray(variable)))


def file_kernels(blob):
    """The int8 kernels of a file, in order."""
    file = read(blob)
    kinds = ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D")
    operators = [o for o in file.subgraphs[0].operators if operator_name(file, o) in kinds]
    return [constant(file, file.subgraphs[0].tensors[o.inputs[1]]) for o in operators]


@needs_extra
@pytest.mark.slow
def test_a_network_of_compressed_layers_is_pruned_clustered_quantized_and_exported():
    x, y, x_test, y_test = images()
    inputs = keras.Input((28, 28, 1))
    h = L.Conv2D(8, 3, strides=2, activation="relu", name="first")(inputs)
    h = tfc.layers.BinaryConv2D(16, 3, name="binary")(h)
    h = L.ReLU()(L.BatchNormalization()(h))
    h = tfc.layers.CPConv2D(16, 3, rank=8, activation="relu", name="cp")(h)
    h = tfc.layers.HashedDense(32, ratio=8, activation="relu", name="hashed")(L.Flatten()(h))
    model = keras.Model(inputs, L.Dense(10, name="out")(h))
    compile_and_fit(model, x, y)
    schedule = packages.load().tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=10)
    steps = [
        lambda model: tfmot.prune(model, "adam", LOSS, pruning_schedule=schedule),
        lambda model: tfmot.cluster(
            model, "adam", LOSS, number_of_clusters=16, preserve_sparsity=True
        ),
        lambda model: tfmot.quantize(model, "adam", LOSS),
    ]
    for make in steps:
        training = make(model)
        training.fit(x, y, batch_size=64, epochs=2, verbose=0)
        model = training.model()
        expected = training.tf_keras_model.predict(x_test, verbose=0)
        np.testing.assert_allclose(outputs(model, x_test)[0], expected, atol=2e-5)
    kinds = {"binary": "BinaryConv2D", "cp": "CPConv2D", "hashed": "HashedDense"}
    assert {name: type(model.get_layer(name)).__name__ for name in kinds} == kinds
    for part in [model.get_layer("hashed").parts["bank"], *model.get_layer("cp").parts.values()]:
        assert distinct(part) <= 16 and zeros(part) > 0.45
    blob = tfc.to_tflite(model, activations="static_int8", check=x[:64])
    before = accuracy(model(x_test), y_test)
    for delegates in (True, False):
        (logits,) = Runner(blob, delegates)([x_test])
        assert abs(accuracy(logits, y_test) - before) <= 0.02
    assert before > 0.6
    binary = file_kernels(blob)[1]
    assert distinct(binary) == 2


@needs_extra
def test_the_file_has_the_learned_ranges():
    x, y, *_ = images(256)
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), L.Flatten(), L.Dense(16, activation="relu"), L.Dense(10)]
    )
    training = tfmot.quantize(model, "adam", LOSS)
    with pytest.raises(ValueError, match="call `fit` first"):
        training.model()
    training.fit(x, y, verbose=0)
    new = training.model()
    ranges = [layer for layer in new.layers if isinstance(layer, tfc.layers.FakeQuant)]
    assert len(ranges) == 3
    file = read(tfc.to_tflite(new, activations="static_int8", check=x[:2]))
    tables = [tensor.quantization for tensor in file.subgraphs[0].tensors]
    scales = [t.scale[0] for t in tables if t is not None and t.scale is not None]
    for layer in ranges:
        assert np.isclose(scales, (layer.high - layer.low) / 255, rtol=1e-5).any()
    for activations in ("float32", "int8"):
        tfc.to_tflite(new, activations=activations, check=x[:2])
    loaded = keras.models.clone_model(new)
    loaded.set_weights(new.get_weights())
    np.testing.assert_array_equal(outputs(loaded, x)[0], outputs(new, x)[0])


def mobile():
    """Normalizations, depthwise convolutions, a branch, and a softmax that stays in float."""
    inputs = keras.Input((12, 12, 3))
    h = L.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    h = L.ReLU(6.0)(L.BatchNormalization()(h))
    h = L.DepthwiseConv2D(3, padding="same")(h)
    h = L.Activation("relu")(L.BatchNormalization()(h))
    branch = L.Conv2D(4, 1)(h)
    h = L.AveragePooling2D(2)(L.ReLU()(h + branch))
    h = L.Flatten()(L.Concatenate()([h, L.MaxPooling2D(2)(branch)]))
    return keras.Model(inputs, L.Dense(5, activation="softmax")(h))


def of_compressed_layers():
    own = tfc.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            *(own.TuckerConv2D(8, 3, rank=(2, 4)), L.BatchNormalization()),
            own.SpatialConv2D(4, 3, rank=3, activation="relu"),
            *(L.Flatten(), own.LowRankDense(16, rank=4), L.ReLU(), own.CirculantDense(16)),
            *(L.ReLU(), own.CodebookDense(16, size=8, activation="relu")),
            own.TileHashedDense(16, tile=4, tiles=3, activation="relu"),
            *(own.TernaryDense(16, activation="relu"), L.Dense(5, activation="softmax")),
        ]
    )


@needs_extra
@pytest.mark.parametrize("make", [mobile, of_compressed_layers])
def test_quantized_networks_come_back_equal_and_are_exported(make):
    random = np.random.default_rng(0)
    x = random.standard_normal((64, 12, 12, 3)).astype("float32")
    training = tfmot.quantize(make(), "adam", "sparse_categorical_crossentropy")
    training.fit(x, random.integers(0, 5, 64), batch_size=16, epochs=2, verbose=0)
    model = training.model()
    expected = training.tf_keras_model.predict(x, verbose=0)
    np.testing.assert_allclose(outputs(model, x)[0], expected, atol=1e-6)
    blob = tfc.to_tflite(model, activations="static_int8", check=x, io="int8")
    for delegates in (True, False):
        (found,) = Runner(blob, delegates)([x])
        assert np.abs(found - expected).max() < 0.03


@needs_extra
def test_what_the_scheme_lacks_is_refused_by_name():
    model = keras.Sequential([keras.Input((8, 3)), L.Conv1D(4, 3, name="steps")])
    with pytest.raises(RuntimeError, match="steps"):
        tfmot.quantize(model, "adam", "mse")


def separate():
    """A network whose ReLUs are layers of their own."""
    return keras.Sequential(
        [
            *(keras.Input((28, 28, 1)), L.Conv2D(6, 5, strides=2, name="conv"), L.ReLU()),
            *(L.Flatten(), L.Dense(32, name="fc"), L.Activation("relu"), L.Dense(10, name="out")),
        ]
    )


@needs_extra
def test_zeros_outlive_quantization_where_the_relu_is_a_layer():
    x, y, *_ = images(640)
    model = tfc.prune(compile_and_fit(separate(), x, y), 0.8)
    training = tfmot.quantize(model, "adam", LOSS)
    training.fit(x, y, batch_size=64, epochs=2, verbose=0)
    new = training.model()
    for name in ("conv", "fc", "out"):
        assert zeros(new.get_layer(name).kernel) >= zeros(model.get_layer(name).kernel) > 0.75
    for kernel in file_kernels(tfc.to_tflite(new, activations="static_int8", check=x[:32])):
        assert zeros(kernel) > 0.75
    original = packages.load().tfmot.quantization.keras
    scheme = packages.load().tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    annotated = original.quantize_annotate_model(tfmot.to_tf_keras(model))
    lost = original.quantize_apply(annotated, scheme)
    lost.compile("adam", packages.load().tf_keras.losses.SparseCategoricalCrossentropy(True))
    lost.fit(x, y, batch_size=64, epochs=1, verbose=0)
    assert zeros(tfmot.from_tf_keras(lost).get_layer("fc").kernel) < 0.75  # what this is about


@needs_extra
def test_clusters_outlive_quantization_where_the_relu_is_a_layer():
    x, y, *_ = images(640)
    training = tfmot.cluster(compile_and_fit(separate(), x, y), number_of_clusters=8)
    training.fit(x, y, batch_size=64, verbose=0)
    model = training.model()
    assert [distinct(model.get_layer(name).kernel) for name in ("conv", "fc", "out")] == [8, 8, 8]
    training = tfmot.quantize(model, "adam", LOSS)
    training.fit(x, y, batch_size=64, epochs=2, verbose=0)
    conv, *dense = file_kernels(
        tfc.to_tflite(training.model(), activations="static_int8", check=x[:32])
    )
    assert max(map(distinct, conv)) <= 8  # a scale for each channel
    assert max(map(distinct, dense)) <= 8


@needs_extra
def test_their_schedules_drive_our_callbacks():
    schedules = packages.load().tfmot.sparsity.keras
    model = keras.Sequential([keras.Input((20,)), L.Dense(30), L.Dense(3)])
    model.compile("sgd", LOSS)
    decay = schedules.PolynomialDecay(0.0, 0.75, begin_step=0, end_step=8, frequency=2)
    x, y = np.random.default_rng(0).standard_normal((40, 20)), np.zeros(40)
    callback = tfc.callbacks.Prune(decay, scope="layer", every=1)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
    assert zeros(model.layers[0].kernel) == 0.75
