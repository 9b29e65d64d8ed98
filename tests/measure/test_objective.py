"""The loss that curvature is taken of is the compiled one: axis, reduction, weights, masks."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.measure.objective import mean_loss

R = np.random.default_rng(0)
X = R.normal(size=(12, 3, 4)).astype("float32")
WORDS = R.integers(0, 5, (12, 3)).astype("int32")
W = R.random(12).astype("float32")
LABELS = R.integers(0, 5, (12, 3))
HOT = np.eye(5, dtype="float32")[LABELS]


def net(transposed=False):
    parts = [layers.Dense(5, name="fc")] + [layers.Permute((2, 1))] * transposed
    return keras.Sequential([keras.Input((3, 4)), *parts])


def masked():
    parts = [layers.Embedding(5, 4, mask_zero=True, name="words"), layers.Dense(5, name="fc")]
    return keras.Sequential([keras.Input((3,), dtype="int32"), *parts])


class Subclassed(keras.Model):
    """Two outputs, which only a call tells of."""

    def __init__(self, names):
        super().__init__()
        self.names, self.kind, self.box = names, layers.Dense(5), layers.Dense(1)

    def call(self, x):
        outputs = [self.kind(x), self.box(x)]
        return dict(zip(self.names, outputs, strict=True)) if self.names else outputs


@pytest.mark.parametrize("kind", ["list", "dict", "one of a dict"])
def test_the_outputs_of_a_subclassed_model_have_their_own_losses(kind):
    model = Subclassed(None if kind == "list" else ("kind", "box"))
    model(X)
    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"
    labels = LABELS, X[..., :1]
    if kind != "list":
        losses, labels = (dict(zip(model.names, one, strict=True)) for one in (losses, labels))
    if kind == "one of a dict":
        del losses["kind"], labels["kind"]
    model.compile("adam", losses)
    expected = model.evaluate(X, labels, verbose=0)
    expected = expected[0] if isinstance(expected, list) else expected
    assert mean_loss(model, (X, labels)) == pytest.approx(expected, rel=1e-5)
    assert len(tfc.curvature.gauss_newton(model, (X, labels))) == 2
    tfc.plan(model, (X, labels), 0.9, verbose=0)


def test_a_functional_model_with_a_call_of_its_own_has_its_losses():
    class Own(keras.Model):
        def call(self, x, training=None):
            return super().call(x, training=training)

    inputs = keras.Input((3, 4))
    model = Own(inputs, [layers.Dense(5, name="kind")(inputs), layers.Dense(1, name="box")(inputs)])
    model.compile("adam", [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"])
    data = X, [LABELS, X[..., :1]]
    expected = model.evaluate(*data, verbose=0)
    expected = expected[0] if isinstance(expected, list) else expected
    assert mean_loss(model, data) == pytest.approx(expected, rel=1e-5)
    assert len(tfc.curvature.gauss_newton(model, data)) == 2


def test_batches_may_differ_in_their_length():
    parts = layers.Embedding(5, 4, mask_zero=True), layers.Dense(5)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), *parts])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = [(WORDS[:4], LABELS[:4]), (WORDS[4:, :2], LABELS[4:, :2])]
    found = tfc.curvature.gauss_newton_exact(model, iter(batches))
    single = [tfc.curvature.gauss_newton_exact(model, one) for one in batches]
    for path, value in found.items():
        expected = (4 * single[0][path] + 8 * single[1][path]) / 12
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def middle_error(y, z):
    """A loss with one value for an example, of all its positions together."""
    return ops.square(ops.mean(y - z, axis=(1, 2)))


CLASSES = keras.losses.SparseCategoricalCrossentropy
CASES = {
    "mean": (net, X, LABELS, CLASSES(from_logits=True)),
    "sum": (net, X, LABELS, CLASSES(from_logits=True, reduction="sum")),
    "by weights": (
        *(net, X, LABELS),
        CLASSES(from_logits=True, reduction="mean_with_sample_weight"),
    ),
    "axis 1, yes or no": (
        *(lambda: net(True), X, HOT.transpose(0, 2, 1)),
        keras.losses.BinaryCrossentropy(from_logits=True, axis=1),
    ),
    "axis 1, one-hot": (
        *(lambda: net(True), X, HOT.transpose(0, 2, 1)),
        keras.losses.CategoricalCrossentropy(from_logits=True, axis=1),
    ),
    "masked sum": (masked, WORDS, HOT, keras.losses.MeanSquaredError(reduction="sum")),
    "masked": (masked, WORDS, HOT, "mse"),
    "masked, a class is ignored": (
        *(masked, WORDS, LABELS),
        CLASSES(from_logits=True, ignore_class=2),
    ),
    "masked, ignored, by weights": (
        *(masked, WORDS, LABELS),
        CLASSES(from_logits=True, ignore_class=2, reduction="mean_with_sample_weight"),
    ),
    "of whole examples": (net, X, HOT, middle_error),
    "dice": (net, X, HOT, keras.losses.Dice(axis=(1, 2))),
    "crossentropy": (lambda: soft(), X[:, 0], LABELS[:, 0], "crossentropy"),
}


def soft():
    return keras.Sequential([keras.Input((4,)), layers.Dense(5, "softmax", name="fc")])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_what_keras_reports_of_one_batch(case, weighted):
    make, x, y, loss = CASES[case]
    model = make()
    model.compile("sgd", loss)
    weights = W if "whole" in case or case in ("dice", "crossentropy") else np.stack([W] * 3, 1)
    data = (x, y, weights) if weighted else (x, y)
    expected = model.evaluate(x, y, 12, 0, sample_weight=weights if weighted else None)
    assert mean_loss(model, data, batch_size=12) == pytest.approx(expected, rel=1e-5)
    if "mask" not in case:  # a mean over a mask is one of the batch, in Keras too
        assert mean_loss(model, data, batch_size=5) == pytest.approx(expected, rel=1e-5)


def second_differences(model, x, y, loss, step=0.02):
    """The diagonal of the Hessian of the loss of one batch, by the kernel "fc"."""
    kernel = model.get_layer("fc").kernel
    w = kernel.numpy().astype("float64")

    def at(values):
        kernel.assign(values)
        return float(loss(y, model(x, training=False)))

    middle, found = at(w), np.zeros(w.shape)
    for place in np.ndindex(w.shape):
        e = np.zeros(w.shape)
        e[place] = step
        found[place] = (at(w + e) - 2 * middle + at(w - e)) / step**2
    kernel.assign(w)
    return found


@pytest.mark.parametrize(
    "case", ["sum", "axis 1, yes or no", "axis 1, one-hot", "of whole examples", "dice"]
)
def test_curvature_is_that_of_the_loss(case):
    make, x, y, loss = CASES[case]
    model = make()
    by_keras = loss if isinstance(loss, keras.losses.Loss) else lambda *p: ops.mean(loss(*p))
    expected = second_differences(model, x, y, by_keras)
    found = tfc.curvature.exact(model, (x, y), loss)["fc"]
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    if case != "dice":  # whose Hessian is not the Gauss-Newton matrix of anything positive
        exact = tfc.curvature.gauss_newton_exact(model, (x, y), loss)["fc"]
        np.testing.assert_allclose(exact, found, atol=0.001 * np.abs(found).max())


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_an_ignored_class_is_not_counted(reduction):
    """What is left of the data gives the same loss and curvature."""
    loss = CLASSES(from_logits=True, ignore_class=2, reduction=reduction)
    x, y = X.reshape(-1, 1, 4)[:32], LABELS.reshape(-1, 1)[:32]
    model = keras.Sequential([keras.Input((1, 4)), layers.Dense(5, name="fc")])
    counted = y[:, 0] != 2
    assert 0 < counted.sum() < 32
    assert mean_loss(model, (x, y), loss) == pytest.approx(
        mean_loss(model, (x[counted], y[counted]), loss), rel=1e-5
    )
    found, expected = (
        tfc.curvature.exact(model, data, loss)["fc"] for data in ((x, y), (x[counted], y[counted]))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_loss_with_one_value_for_all_examples_is_refused():
    with pytest.raises(ValueError, match="one value for each example"):
        tfc.curvature.gauss_newton(net(), (X, HOT), keras.losses.Dice())


def test_outputs_whose_losses_are_reduced_in_two_ways_are_refused():
    start = keras.Input((4,))
    model = keras.Model(start, [layers.Dense(2)(start), layers.Dense(3)(start)])
    losses = [keras.losses.MeanSquaredError(reduction=r) for r in ("sum", "sum_over_batch_size")]
    with pytest.raises(ValueError, match="with one reduction"):
        tfc.curvature.gauss_newton(model, (X[:, 0], [X[:, 0, :2], X[:, 0, :3]]), losses)


def test_sensitivity_is_of_the_weighted_loss():
    start = keras.Input((4,))
    heads = [layers.Dense(n, name=name)(start) for name, n in (("a", 3), ("b", 2))]
    model = keras.Model(start, heads)
    model.compile("sgd", ["mse", "mse"], loss_weights=[1.0, 100.0])
    data = (X[:, 0], [HOT[:, 0, :3], HOT[:, 0, :2]])
    found = tfc.sensitivity(model, data, "*", [tfc.layers.LowRankDense.using(rank=1)])
    assert found.loss == pytest.approx(model.evaluate(*data, verbose=0)[0], rel=1e-5)
