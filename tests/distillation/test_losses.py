import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax

from tfcompress.distillation import losses
from tfcompress.distillation.labels import kind_of, known_labels, per_output, weighted_mean


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def logits(rng, shape=(6, 5)):
    return tuple(rng.normal(0, 3, (2, *shape)).astype("float32"))


def kl(p, q):
    return np.sum(p * (np.log(p) - np.log(q)), -1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_softmax_kl_is_hintons(temperature):
    rng = np.random.default_rng(0)
    t, s = logits(rng)
    expected = temperature**2 * kl(softmax(t / temperature, -1), softmax(s / temperature, -1))
    np.testing.assert_allclose(numpy(losses.softmax_kl(t, s, temperature)), expected, rtol=2e-5)


def test_gradients_keep_their_size_at_high_temperature():
    # the limit of T^2 KL for large T: half the variance-like distance of centred logits over c
    rng = np.random.default_rng(0)
    t, s = logits(rng)
    centred = (t - t.mean(-1, keepdims=True)) - (s - s.mean(-1, keepdims=True))
    expected = 0.5 * np.mean(centred**2, -1)
    np.testing.assert_allclose(numpy(losses.softmax_kl(t, s, 300.0)), expected, rtol=0.02)


def test_sigmoid_kl_sums_bernoulli_distributions():
    rng = np.random.default_rng(0)
    t, s = logits(rng)
    p, q = expit(t / 2), expit(s / 2)
    expected = 4 * np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)), -1)
    np.testing.assert_allclose(numpy(losses.sigmoid_kl(t, s, 2.0)), expected, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 7), st.sampled_from([1.0, 3.0]))
def test_decoupled_with_the_teachers_own_weight_is_the_plain_loss(seed, classes, temperature):
    """KL = KL(b) + (1 - p_target) KL(q), the identity that the paper starts from."""
    t, s = np.random.default_rng(seed).normal(0, 2, (2, 1, classes)).astype("float32")
    label = np.array([seed % classes])
    rest = 1 - softmax(t / temperature, -1)[0, label[0]]
    found = losses.decoupled(t, s, temperature, label, target=1.0, others=float(rest))
    plain = losses.softmax_kl(t, s, temperature)
    np.testing.assert_allclose(numpy(found), numpy(plain), rtol=1e-3, atol=1e-5)


def test_decoupled_takes_the_teachers_choice_without_labels():
    rng = np.random.default_rng(0)
    t, s = logits(rng)
    with_labels = losses.decoupled(t, s, 2.0, t.argmax(-1))
    np.testing.assert_array_equal(numpy(losses.decoupled(t, s, 2.0)), numpy(with_labels))


def test_attention_transfer_by_hand():
    t = np.zeros((1, 1, 2, 2), "float32")
    t[0, 0, 0] = 3, 4  # attention 25 and 0: (1, 0)
    s = np.ones((1, 1, 2, 1), "float32")  # 1 and 1: (1, 1) / sqrt 2
    expected = (1 - 0.5**0.5) ** 2 + 0.5
    np.testing.assert_allclose(numpy(losses.attention_transfer(t, s)), [expected], rtol=1e-6)


def test_attention_transfer_of_other_sizes():
    t, s = np.ones((2, 2, 2, 3), "float32"), np.ones((2, 4, 4, 1), "float32")
    np.testing.assert_allclose(numpy(losses.attention_transfer(t, s)), [0, 0], atol=1e-6)


def test_a_softmax_is_undone():
    rng = np.random.default_rng(0)
    t, _ = logits(rng)
    found = numpy(losses.to_logits(softmax(t, -1), keras.activations.softmax))
    np.testing.assert_allclose(log_softmax(found, -1), log_softmax(t, -1), atol=2e-3)


def test_a_sigmoid_is_undone():
    rng = np.random.default_rng(0)
    t, _ = logits(rng)
    found = numpy(losses.to_logits(expit(t), keras.activations.sigmoid))
    np.testing.assert_allclose(found, t, atol=1e-3)


def test_probabilities_of_a_hidden_model_are_seen():
    rng = np.random.default_rng(0)
    t, _ = logits(rng)
    found = numpy(losses.to_logits(softmax(t, -1), None))
    np.testing.assert_allclose(log_softmax(found, -1), log_softmax(t, -1), atol=2e-3)
    np.testing.assert_array_equal(numpy(losses.to_logits(t, None)), t)


@pytest.mark.parametrize(
    "activations, task, classes, expected",
    [
        (["softmax", "linear"], None, 5, losses.softmax_kl),
        (["linear", "sigmoid"], None, 5, losses.sigmoid_kl),
        (["linear", "linear"], "mse", 5, losses.squared_error),
        (["linear"], keras.losses.Huber(), 1, losses.squared_error),
        (["tanh"], "mae", 1, losses.squared_error),
        (["linear"], keras.losses.BinaryCrossentropy(from_logits=True), 3, losses.sigmoid_kl),
        (["linear"], keras.losses.SparseCategoricalCrossentropy(), 3, losses.softmax_kl),
    ],
)
def test_the_loss_follows_the_outputs(activations, task, classes, expected):
    activations = [a and getattr(keras.activations, a) for a in activations]
    assert losses.loss_for(activations, [None, task], classes) is expected


@pytest.mark.parametrize(
    "activations, classes",
    [
        *((["softmax", "sigmoid"], 5), (["linear"], 1), (["tanh", "linear"], 5)),
        *((["sigmoid", None], 3), (["linear", "linear"], 5), ([None, None], 5)),
    ],
)
def test_outputs_that_cannot_be_compared(activations, classes):
    activations = [a and getattr(keras.activations, a) for a in activations]
    with pytest.raises(ValueError, match="give `soft_loss`"):
        losses.loss_for(activations, [None, None], classes)


def test_kinds_of_losses():
    assert kind_of("mse") == kind_of(keras.losses.MeanSquaredError()) == "meansquarederror"
    assert kind_of("ce") == "ce"


def known(y, loss, output=(4, 3), weight=None):
    y, w = known_labels(np.array(y), np.zeros(output, "float32"), weight, loss)
    return numpy(y).tolist(), None if w is None else numpy(w).tolist()


def test_labels_that_are_not_known():
    sparse = "sparse_categorical_crossentropy"
    assert known([2, -1, 0, -1], sparse) == ([2, 0, 0, 0], [1, 0, 1, 0])
    assert known([[2], [-1], [0], [1]], sparse)[1] == [1, 0, 1, 1]
    weight = np.array([2.0, 3.0, 4.0, 5.0])
    assert known([2, -1, 0, -1], sparse, weight=weight)[1] == [2, 0, 4, 0]
    assert known([[1.0], [np.nan]], "mse", (2, 1)) == ([[1], [0]], [1, 0])
    assert known([[1, -1]], "mse", (1, 2)) == ([[1, -1]], None)  # a target, not a class
    assert known([-1, 1], "hinge", (2, 1)) == ([-1, 1], None)


def test_labels_at_each_place():
    y = np.array([[[0, -1], [2, 1]]])
    assert known(y, keras.losses.SparseCategoricalCrossentropy(), (1, 2, 2, 3))[1] == [
        [[1, 0], [1, 1]]
    ]


def test_weights_of_examples_reach_each_place():
    values = np.arange(4, dtype="float32").reshape(2, 2)
    assert float(weighted_mean(values, np.array([0.0, 2.0]))) == (2 + 3) * 2 / 4
    assert float(weighted_mean(values[0], np.array([[0.0], [2.0]]))) == 1


def test_entries_for_each_output():
    outputs = [np.zeros(1), np.zeros(1)]
    assert per_output({"b": 1, "a": 2}, outputs, ["a", "b"]) == [2, 1]
    assert per_output({"b": 1}, {"a": 0, "b": 0}, None) == [None, 1]
    assert per_output("mse", outputs, None) == ["mse", "mse"]
    with pytest.raises(ValueError, match="each of the 2 outputs"):
        per_output([1, 2, 3], outputs, None)
