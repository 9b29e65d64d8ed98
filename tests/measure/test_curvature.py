import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from keras import layers
from oracles_metric import hessian_diagonal

import tfcompress.curvature as curvature
import tfcompress.measure.curvature as measured
from tfcompress.measure.kernels import kernels
from tfcompress.measure.objective import Objective

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
LABELS = RNG.integers(0, 3, 12)
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(activation="relu", units=4, last=None):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, activation=activation, bias_initializer="normal", name="fc"),
            layers.Dense(3, activation=last, name="out"),
        ]
    )


def by_differences(model, path, x, y, loss):
    """The Hessian's diagonal by central differences of the loss that Keras itself computes."""
    variable = kernels(model)[path]
    array = variable.numpy().astype("float64")

    def value():
        variable.assign(array)
        return float(loss(y, model(x, training=False)))

    found = hessian_diagonal(value, array)
    variable.assign(array)
    return found


@pytest.fixture
def double():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_exact_is_the_second_difference(double, activation):
    model = dense(activation)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # in double precision
    found = curvature.exact(model, (X, LABELS), loss, batch_size=5)
    for path in ("fc", "out"):
        expected = by_differences(model, path, X, LABELS, loss)
        np.testing.assert_allclose(found[path], expected, atol=2e-5)


def test_gauss_newton_exact_is_the_hessian_of_a_relu_net():
    model = dense()
    data = (X, LABELS)
    hessian = curvature.exact(model, data, CROSSENTROPY)
    found = curvature.gauss_newton_exact(model, data, CROSSENTROPY)
    for path in hessian:
        np.testing.assert_allclose(found[path], hessian[path], rtol=1e-4, atol=1e-7)


LOSSES = {
    "softmax logits": (None, CROSSENTROPY, LABELS),
    "softmax": ("softmax", "sparse_categorical_crossentropy", LABELS),
    "one-hot": (None, keras.losses.CategoricalCrossentropy(True), np.eye(3)[LABELS]),
    "sigmoid logits": (None, keras.losses.BinaryCrossentropy(True), np.eye(3)[LABELS]),
    "sigmoid": ("sigmoid", "binary_crossentropy", np.eye(3)[LABELS]),
    "mse": (None, "mse", RNG.normal(size=(12, 3))),
    "huber": (None, keras.losses.Huber(0.5), RNG.normal(size=(12, 3))),
    "log-cosh": (None, "log_cosh", RNG.normal(size=(12, 3))),
    "custom": (None, lambda y, z: keras.ops.sum((y - z) ** 4, -1), RNG.normal(size=(12, 3))),
}


RARE = ("one-hot", "sigmoid logits", "log-cosh", "custom")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.matrix) if n in RARE else n for n in LOSSES]
)
def test_random_signs_average_to_the_exact_diagonal_under_every_loss(name, monkeypatch):
    """The mean over signs that are orthogonal is their expectation, with no chance left in it."""
    last, loss, y = LOSSES[name]
    model = dense(last=last)
    expected = curvature.gauss_newton_exact(model, (X, y), loss)
    found = dict.fromkeys(expected, 0)
    for signs in scipy.linalg.hadamard(8):  # two examples of three outputs have six signs
        signs = tf.constant(signs[1:7], "float32")
        monkeypatch.setattr(measured, "_signs", lambda shape, *_, r=signs: tf.reshape(r, shape))
        drawn = curvature.gauss_newton(model, (X, y), loss, batch_size=2)
        found = {path: found[path] + drawn[path] / 8 for path in found}
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-4, atol=1e-7)
    if last is None:  # piecewise linear up to the loss: convex ones have this very Hessian
        hessian = curvature.exact(model, (X, y), loss)
        np.testing.assert_allclose(hessian["out"], expected["out"], rtol=2e-3, atol=1e-5)


def test_probabilities_have_the_curvature_of_their_logits():
    ends = {}
    for last, loss in ((None, CROSSENTROPY), ("softmax", "sparse_categorical_crossentropy")):
        keras.utils.set_random_seed(0)
        ends[last] = curvature.gauss_newton_exact(dense(last=last), (X, LABELS), loss)["fc"]
    np.testing.assert_allclose(ends["softmax"], ends[None], rtol=1e-4)


def test_labels_are_needed_only_where_the_hessian_depends_on_them():
    model = dense()
    with_labels = curvature.gauss_newton(model, (X, LABELS), CROSSENTROPY)
    without = curvature.gauss_newton(model, X, CROSSENTROPY)
    np.testing.assert_array_equal(with_labels["fc"], without["fc"])
    for estimator in (curvature.fisher, curvature.exact, curvature.hutchinson):
        with pytest.raises(ValueError, match="needs labels"):
            estimator(model, X, CROSSENTROPY)


def test_fisher_is_the_mean_of_squared_gradients():
    model = dense()
    expected = 0
    for i in range(len(X)):
        with tf.GradientTape() as tape:
            loss = CROSSENTROPY(LABELS[i : i + 1], model(X[i : i + 1]))
        expected += tape.gradient(loss, model.layers[0].kernel.value).numpy() ** 2 / len(X)
    found = curvature.fisher(model, (X, LABELS), CROSSENTROPY)
    np.testing.assert_allclose(found["fc"], expected, rtol=1e-4)


def test_hutchinson_averages_to_the_hessian():
    model = dense("tanh")
    expected = curvature.exact(model, (X, LABELS), CROSSENTROPY)
    found = curvature.hutchinson(model, (X, LABELS), CROSSENTROPY, passes=800, batch_size=6)
    np.testing.assert_allclose(found["fc"], expected["fc"], atol=0.05)


def test_the_recursion_by_hand():
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, activation="tanh", name="a"), layers.Dense(1, name="b")]
    )
    model.set_weights([np.array([[2.0]]), np.zeros(1), np.array([[3.0]]), np.zeros(1)])
    found = curvature.obd_recursion(model, (np.array([[0.5]]), np.array([[1.0]])), "mse")
    t = np.tanh(1.0)
    f1, f2 = 1 - t**2, -2 * t * (1 - t**2)
    np.testing.assert_allclose(found["b"], [[2 * t**2]], rtol=1e-5)
    down = f1**2 * 9 * 2 + f2 * 3 * 2 * (3 * t - 1)  # f'^2 w^2 L'' + f'' w L'
    np.testing.assert_allclose(found["a"], [[0.25 * down]], rtol=1e-5)


def test_the_recursion_is_exact_with_one_unit_per_layer_and_close_otherwise():
    model = dense("tanh", units=1)
    hessian = curvature.exact(model, (X, LABELS), CROSSENTROPY)
    found = curvature.obd_recursion(model, (X, LABELS), CROSSENTROPY)
    np.testing.assert_allclose(found["out"], hessian["out"], rtol=1e-4)
    conv = keras.Sequential([keras.Input((6, 1)), layers.Conv1D(2, 3)])
    with pytest.raises(ValueError, match="chain of Dense"):
        curvature.obd_recursion(conv, (X[..., None], X), "mse")


def image_net(layer, shape=(5, 5, 4)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layer(inputs))))


class Residual(layers.Layer):
    """A composite layer with a BatchNormalization and an addition."""

    def __init__(self):
        super().__init__(name="residual")
        self.conv = layers.Conv2D(4, 3, padding="same", name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x):
        return keras.ops.relu(x + self.norm(self.conv(x)))


KINDS = {
    "conv": lambda: layers.Conv2D(4, 3, strides=2),
    "grouped": lambda: layers.Conv2D(4, 3, groups=2),
    "dilated": lambda: layers.Conv2D(3, 2, dilation_rate=2),
    "depthwise": lambda: layers.DepthwiseConv2D(3),
    "separable": lambda: layers.SeparableConv2D(4, 3),
    "transposed": lambda: layers.Conv2DTranspose(3, 3),
    "batch norm": lambda: keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization()]),
    "layer norm": lambda: keras.Sequential([layers.Conv2D(4, 3), layers.LayerNormalization()]),
    "group norm": lambda: keras.Sequential([layers.Conv2D(4, 3), layers.GroupNormalization(2)]),
    "residual": lambda: Residual(),
    "max pooling": lambda: keras.Sequential([layers.Conv2D(4, 2), layers.MaxPooling2D()]),
    "gelu": lambda: layers.Conv2D(4, 3, activation="gelu"),
}


def check_net(model, x, labels):
    """Exact against differences in some entries; random signs against exact Gauss-Newton."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    hessian = curvature.exact(model, (x, labels), loss)
    exact = curvature.gauss_newton_exact(model, (x, labels), loss)
    drawn = curvature.gauss_newton(model, (x, labels), loss, passes=40, batch_size=1)
    for path, variable in kernels(model).items():
        kept = variable.numpy()
        assert hessian[path].shape == kept.shape
        total = exact[path].sum()
        # The spread of 40 passes over few examples is about 0.1: this sees a wrong factor.
        assert abs(drawn[path].sum() - total) < 0.45 * total + 1e-5
        places = np.argsort(-np.abs(hessian[path]), axis=None)[:3]
        for place in zip(*np.unravel_index(places, kept.shape), strict=True):
            values = []
            for step in (1e-4, 0.0, -1e-4):
                moved = kept.copy()
                moved[place] += step
                variable.assign(moved)
                values.append(float(loss(labels, model(x, training=False))))
            expected = (values[0] - 2 * values[1] + values[2]) / 1e-8
            assert hessian[path][place] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        variable.assign(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_images(double, kind):
    rng = np.random.default_rng(0)
    model = image_net(KINDS[kind]())
    check_net(model, rng.normal(size=(3, 5, 5, 4)).astype("float32"), LABELS[:3])


SEQUENCES = {
    "lstm": lambda: layers.LSTM(2),
    "gru": lambda: layers.GRU(2),
    "bidirectional": lambda: layers.Bidirectional(layers.SimpleRNN(2)),
    "conv1d": lambda: layers.Conv1D(3, 2, padding="causal"),
}
SLOW = [pytest.param(kind, marks=pytest.mark.matrix) for kind in ("gru", "bidirectional")]


@pytest.mark.parametrize("kind", ["lstm", "conv1d", *SLOW])
def test_layers_of_sequences(double, kind):
    rng = np.random.default_rng(0)
    model = image_net(SEQUENCES[kind](), (4, 2))
    check_net(model, rng.normal(size=(3, 4, 2)).astype("float32"), LABELS[:3])


def test_attention_and_embedding(double):
    rng = np.random.default_rng(0)
    inputs = keras.Input((4,), dtype="int32")
    h = layers.Embedding(5, 4, name="words")(inputs)
    h = layers.MultiHeadAttention(2, 2, name="attention")(h, h)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(h)))
    ids = rng.integers(0, 5, (3, 4))
    assert {"words", "attention/query", "attention/attention_output"} <= set(kernels(model))
    check_net(model, ids, LABELS[:3])
    found = curvature.gauss_newton(model, np.full((3, 4), 2), CROSSENTROPY)["words"]
    assert (found[[0, 1, 3, 4]] == 0).all() and (found[2] > 0).all()


def test_paths_of_second_kernels_nested_and_shared_layers():
    rng = np.random.default_rng(0)
    shared = layers.Dense(4, name="shared")
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="fc")], name="block")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="out")(shared(block(shared(inputs)))))
    x = rng.normal(size=(4, 4)).astype("float32")
    found = curvature.gauss_newton_exact(model, x, "mse")
    assert list(found) == ["shared", "block/fc", "out"]
    expected, kept = np.zeros((4, 4)), shared.kernel.numpy()
    for place in np.ndindex(4, 4):  # the output's slope by each weight, in both its uses
        ends = []
        for step in (1e-2, -1e-2):
            moved = kept.copy()
            moved[place] += step
            shared.kernel.assign(moved)
            ends.append(model(x).numpy())
        expected[place] = np.mean(((ends[0] - ends[1]) / 2e-2) ** 2, 0).sum()
    np.testing.assert_allclose(found["shared"], expected, rtol=1e-3)
    lstm = keras.Sequential([keras.Input((4, 2)), layers.LSTM(3, name="lstm")])
    expected = ["lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel"]
    assert list(kernels(lstm)) == expected
    frozen = dense()
    frozen.trainable = False
    assert curvature.gauss_newton(frozen, X, CROSSENTROPY)["fc"].sum() > 0


def two_headed():
    inputs = keras.Input((6,))
    h = layers.Dense(4, activation="relu", name="fc")(inputs)
    model = keras.Model(inputs, [layers.Dense(3, name="a")(h), layers.Dense(2, name="b")(h)])
    model.compile("sgd", {"a": CROSSENTROPY, "b": "mse"}, loss_weights={"a": 2.0, "b": 0.5})
    return model


def test_several_outputs_with_loss_weights_and_the_compiled_loss():
    model = two_headed()
    y = {"a": LABELS, "b": X[:, :2]}
    weights = np.arange(12.0)
    both = curvature.exact(model, (X, y, weights))
    parts = [
        curvature.exact(model, (X, y, weights), {"a": CROSSENTROPY, "b": None})["fc"],
        curvature.exact(model, (X, [LABELS, X[:, :2]], weights), [None, "mse"])["fc"],
    ]
    np.testing.assert_allclose(both["fc"], 2 * parts[0] + 0.5 * parts[1], rtol=1e-4, atol=1e-6)
    exact = curvature.gauss_newton_exact(model, (X, y, weights))
    np.testing.assert_allclose(exact["fc"], both["fc"], rtol=1e-3, atol=1e-5)
    drawn = curvature.gauss_newton(model, (X, y, weights), passes=200, batch_size=3)
    assert drawn["fc"].sum() == pytest.approx(exact["fc"].sum(), rel=0.05)


def test_the_loss_is_what_keras_calls_the_loss():
    rng = np.random.default_rng(0)
    model = two_headed()
    y = {"a": LABELS, "b": X[:, :2]}
    weights = rng.random(12).astype("float32")
    objective = Objective(model)
    total = float(objective.loss(X, y, weights)) / 12
    keras_total = model.evaluate(X, [LABELS, X[:, :2]], sample_weight=[weights] * 2, verbose=0)
    assert total == pytest.approx(keras_total[0] if np.ndim(keras_total) else keras_total, rel=1e-5)


def test_masked_sequences_count_as_in_keras():
    rng = np.random.default_rng(0)
    inputs = keras.Input((5,), dtype="int32")
    h = layers.LSTM(4, return_sequences=True)(layers.Embedding(6, 3, mask_zero=True)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(h))
    ids = np.array([[1, 2, 3, 0, 0], [4, 5, 1, 2, 0]])
    labels = rng.integers(0, 3, (2, 5))
    total = float(Objective(model, CROSSENTROPY).loss(ids, labels, None)) / 2
    assert total == pytest.approx(float(CROSSENTROPY(labels, model(ids))), rel=1e-5)


def test_sample_and_class_weights():
    model = dense()
    class_weight = {0: 1.0, 1: 3.0}
    weights = np.array([class_weight.get(label, 1.0) for label in LABELS])
    expected = curvature.exact(model, (X, LABELS, weights), CROSSENTROPY)
    found = curvature.exact(model, (X, LABELS), CROSSENTROPY, class_weight=class_weight)
    weighted = [
        curvature.kronecker(model, data, CROSSENTROPY, **kwargs)["out"].g
        for data, kwargs in (
            ((X, LABELS, weights), {}),
            ((X, LABELS), {"class_weight": class_weight}),
        )
    ]
    np.testing.assert_allclose(*weighted, rtol=1e-5)
    np.testing.assert_allclose(found["fc"], expected["fc"])
    twice = curvature.gauss_newton(model, (X, LABELS, np.full(12, 2.0)), CROSSENTROPY)
    once = curvature.gauss_newton(model, (X, LABELS), CROSSENTROPY)
    np.testing.assert_allclose(twice["fc"], 2 * once["fc"], rtol=1e-5)
    with pytest.raises(ValueError, match="needs the labels"):
        curvature.gauss_newton(model, X, CROSSENTROPY, class_weight=class_weight)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[4 * index : 4 * index + 4], LABELS[4 * index : 4 * index + 4]


def test_every_kind_of_data_gives_the_same():
    model = dense()
    expected = curvature.gauss_newton(model, (X, LABELS), CROSSENTROPY, batch_size=4)["fc"]
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(8)
    pieces = Batches()
    for data in (pieces, (pieces[i] for i in range(3)), dataset.unbatch().batch(4), X):
        found = curvature.gauss_newton(model, data, CROSSENTROPY, batch_size=4)["fc"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    cut = curvature.gauss_newton(model, dataset, CROSSENTROPY, batch_size=4)["fc"]
    np.testing.assert_allclose(cut, expected, rtol=1e-5)  # 8 + 4 are cut to 4 + 4 + 4
    again = curvature.gauss_newton(model, (X, LABELS), CROSSENTROPY, batch_size=4, seed=1)["fc"]
    assert not np.allclose(again, expected)


def test_bad_input():
    model = dense()
    with pytest.raises(ValueError, match="not compiled"):
        curvature.gauss_newton(model, X)
    with pytest.raises(ValueError, match="no examples"):
        curvature.gauss_newton(model, X[:0], CROSSENTROPY)
    with pytest.raises(ValueError, match="only once"):
        curvature.gauss_newton(model, iter([X]), CROSSENTROPY, passes=2)
    with pytest.raises(ValueError, match="`passes`"):
        curvature.gauss_newton(model, X, CROSSENTROPY, passes=0)
    with pytest.raises(ValueError, match="`batch_size`"):
        curvature.gauss_newton(model, X, CROSSENTROPY, batch_size=0)
    with pytest.raises(ValueError, match="one value for each example"):
        curvature.exact(model, (X, X), lambda y, z: keras.ops.mean(z))
    with pytest.raises(ValueError, match=r"data\.take"):
        endless = tf.data.Dataset.from_tensors(X).repeat()
        curvature.gauss_newton(model, endless, CROSSENTROPY)
    with pytest.raises(ValueError, match="no kernels"):
        curvature.gauss_newton(keras.Sequential([layers.ReLU()]), X, "mse")


def test_signs_are_fair_and_differ_between_batches_and_outputs():
    draws = [
        np.asarray(measured._signs((50, 40), number, tf.constant([0, batch], "int64")))
        for number in (0, 1)
        for batch in (0, 1)
    ]
    assert all(set(np.unique(one)) == {-1, 1} for one in draws)
    products = np.array([np.mean(a * b) for i, a in enumerate(draws) for b in [1, *draws[:i]]])
    assert np.abs(products).max() < 4 / np.sqrt(2000)  # four times the deviation of a mean of 2,000


def test_kronecker_of_a_linear_layer_is_the_hessian():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, use_bias=False, name="out")])
    # one example at a time: a batch adds the products of its examples' random signs
    metric = curvature.kronecker(model, (X, X[:, :2]), "mse", batch_size=1)["out"]
    e = rng.normal(size=(6, 2))
    np.testing.assert_allclose(metric.quadratic(e), np.mean((X @ e) ** 2), rtol=1e-5)
    plain = curvature.kronecker(model, X)["out"]
    np.testing.assert_allclose(plain.blocks[0][0], X.T @ X / 12, rtol=1e-5)
    assert plain.g is None


def test_kronecker_matches_the_trace_of_each_output_and_covers_nested_layers():
    rng = np.random.default_rng(0)
    inputs = keras.Input((5, 5, 4))
    h = layers.DepthwiseConv2D(3, name="depthwise")(inputs)
    h = Residual()(layers.Conv2D(4, 1, groups=2, activation="relu", name="grouped")(h))
    h = layers.LSTM(3, name="lstm")(layers.Reshape((9, 4))(h))
    model = keras.Model(inputs, layers.Dense(3, name="out")(h))
    x = rng.normal(size=(20, 5, 5, 4)).astype("float32")
    found = curvature.kronecker(model, x, CROSSENTROPY, batch_size=8)
    assert list(found) == ["depthwise", "grouped", "residual/conv", "out"]
    diagonals = curvature.gauss_newton(model, x, CROSSENTROPY, batch_size=8)
    for path, metric in found.items():
        d = metric.diagonal(diagonals[path].shape)
        sums = [metric.split(a).sum(1) for a in (d, diagonals[path])]
        np.testing.assert_allclose(*sums, rtol=1e-4)
    assert "call" not in vars(model.get_layer("grouped"))


def test_kronecker_of_an_embedding_counts():
    model = keras.Sequential([keras.Input((2,), dtype="int32"), layers.Embedding(4, 3, name="e")])
    metric = curvature.kronecker(model, np.array([[1, 1], [1, 2]]))["e"]
    assert metric.d[:, 0].tolist() == [0.0, 0.75, 0.25, 0.0]
    ids = np.array([[1, 1], [1, 2]])
    expected = curvature.gauss_newton(model, ids, "mse")["e"]
    np.testing.assert_array_equal(curvature.kronecker(model, ids, "mse")["e"].d, expected)


@pytest.mark.parametrize("seed", [3_000_000, -1, 2**31, 2**63, np.int64(7), 10**30])
def test_seeds_of_any_size(seed):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="fc")])

    def drawn(seed):
        return curvature.gauss_newton(model, X, "mse", seed=seed)["fc"]

    np.testing.assert_array_equal(drawn(seed), drawn(seed))
    assert not np.array_equal(drawn(seed), drawn(0))
    assert np.isfinite(curvature.hutchinson(model, (X, X[:, :3]), "mse", seed=seed)["fc"]).all()
