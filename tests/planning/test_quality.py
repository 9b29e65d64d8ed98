"""The compiled metrics and losses say how good a model is, and which way is better."""

import keras
import numpy as np
import pytest
from keras import layers, losses, metrics, ops

from tfcompress.measure.held_out_loss import change
from tfcompress.planning.quality import Quality

R = np.random.default_rng(0)
X = R.normal(size=(300, 8)).astype("float32")
YES = (X[:, :1] + 0.5 * R.normal(size=(300, 1)) > 0).astype("float32")
CLASS = R.integers(0, 3, 300)
REAL = R.normal(size=(300, 3)).astype("float32")
W = R.random(300).astype("float32")
LOGITS = losses.SparseCategoricalCrossentropy(from_logits=True)
YES_LOGIT = losses.BinaryCrossentropy(from_logits=True)


def net(outputs, end=None):
    return keras.Sequential([keras.Input((8,)), layers.Dense(outputs, end, name="out")])


def of(model, y=None, metric=None, weights=None, loss=None):
    return Quality(model, (X, y, weights), metric, loss)


def mine(y, z):
    return ops.mean(ops.abs(y - z), -1)


@pytest.mark.parametrize(
    ("outputs", "end", "loss", "compiled", "y", "name", "sign"),
    [
        (3, None, "mse", None, REAL, "loss", -1),
        (3, None, losses.Huber(), None, REAL, "loss", -1),
        (3, None, "mse", ["mae"], REAL, "mean_absolute_error", -1),
        (3, None, "mse", [metrics.R2Score()], REAL, "r2_score", 1),
        (3, None, LOGITS, None, CLASS, "accuracy", 1),
        (3, None, LOGITS, ["accuracy"], CLASS, "accuracy", 1),
        (3, "softmax", "sparse_categorical_crossentropy", ["acc"], CLASS, "accuracy", 1),
        (3, "softmax", "CE", ["Accuracy"], CLASS, "accuracy", 1),
        (1, "sigmoid", "CrossEntropy", ["ACC"], YES, "accuracy", 1),
        (3, "softmax", "categorical_crossentropy", ["accuracy"], np.eye(3)[CLASS], "accuracy", 1),
        (3, None, LOGITS, [metrics.SparseTopKCategoricalAccuracy(2)], CLASS, "sparse_top", 1),
        (1, "sigmoid", "binary_crossentropy", ["AUC"], YES, "auc", 1),
        (1, None, YES_LOGIT, [metrics.BinaryAccuracy(threshold=0.0)], YES, "binary_accuracy", 1),
        (3, "sigmoid", "binary_crossentropy", None, R.random((300, 3)), "loss", -1),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_what_keras_evaluates(outputs, end, loss, compiled, y, name, sign, weighted):
    model = net(outputs, end)
    model.compile("sgd", loss, weighted_metrics=compiled or ([] if name == "loss" else [name]))
    found = of(model, y, weights=W if weighted else None)
    assert found.name.startswith(name) and found.sign == sign
    logs = model.evaluate(X, y, sample_weight=W if weighted else None, verbose=0)
    expected = logs if name == "loss" else logs[1]
    assert found(model) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("metric", [None, "accuracy", "binary_accuracy", "max:accuracy"])
def test_a_single_logit_is_yes_above_zero(metric):
    model = net(1)
    model.compile("sgd", YES_LOGIT)
    right = np.mean((model.predict(X, verbose=0) > 0) == YES)
    assert of(model, YES, metric)(model) == pytest.approx(right)
    assert of(model, YES[:, 0], metric)(model) == pytest.approx(right)
    assert of(model, YES, "AUC")(model) > 0
    model.compile("sgd", YES_LOGIT, metrics=["accuracy"])
    assert of(model, YES)(model) == pytest.approx(right)


def test_without_labels_the_outputs_of_the_model_itself_are_right():
    regression, classes, logit = net(3), net(3), net(1)
    other, changed = net(3), net(1)
    regression.compile("sgd", "mse")
    classes.compile("sgd", LOGITS)
    logit.compile("sgd", YES_LOGIT)
    a, b, c, d = (m.predict(X, verbose=0) for m in (regression, classes, other, logit))
    loss, agreement, yes = of(regression), of(classes), of(logit)
    assert (loss.name, loss(regression)) == ("loss", 0.0)
    assert loss(other) == pytest.approx(np.mean((a - c) ** 2), rel=1e-5)
    assert (agreement.name, agreement(classes)) == ("accuracy", 1.0)
    assert agreement(other) == pytest.approx(np.mean(b.argmax(-1) == c.argmax(-1)))
    assert yes(logit) == 1.0
    same = (changed.predict(X, verbose=0) > 0) == (d > 0)
    assert yes(changed) == pytest.approx(same.mean())
    bare = of(net(3))
    assert (bare.name, bare(bare.source)) == ("change of the outputs", 0.0)


def test_a_metric_of_several_numbers_is_refused():
    model = net(3, "softmax")
    model.compile("sgd", "categorical_crossentropy", metrics=[metrics.F1Score()])
    with pytest.raises(ValueError, match="'f1_score' gives 3, one of each"):
        of(model, np.eye(3)[CLASS])(model)


def two(compiled):
    start = keras.Input((8,))
    model = keras.Model(start, [layers.Dense(3, name="a")(start), layers.Dense(1, name="b")(start)])
    model.compile("sgd", {"a": LOGITS, "b": "mse"}, loss_weights={"a": 1, "b": 9}, metrics=compiled)
    return model, {"a": CLASS, "b": REAL[:, :1]}


def test_several_outputs_and_dicts_of_metrics():
    model, y = two({"a": ["accuracy"], "b": ["mae"]})
    logs = model.evaluate(X, y, verbose=0, return_dict=True)
    for metric, name, sign in (
        *((None, "loss", -1), ("loss", "loss", -1), ("a_accuracy", "a_accuracy", 1)),
        *(({"a": "accuracy"}, "a_accuracy", 1), ("b_mae", "b_mae", -1)),
    ):
        found = of(model, y, metric)
        assert found.sign == sign
        assert found(model) == pytest.approx(logs[name], rel=1e-5)
    assert of(model, list(y.values()), "mae").sign == -1
    with pytest.raises(ValueError, match="more is better and of others less"):
        of(model, y, {"a": "accuracy", "b": "mae"})
    with pytest.raises(ValueError, match=r"names outputs \['c'\]"):
        of(model, y, {"c": "mae"})
    model, y = two({"a": "accuracy"})
    assert of(model, y).name == "accuracy"


def test_a_direction_that_is_not_known_is_asked_for():
    model = net(3)
    model.compile("sgd", "mse", metrics=[mine])
    with pytest.raises(ValueError, match="Give `metric='max:mine'` or `metric='min:mine'`"):
        of(model, REAL)
    found = of(model, REAL, "min:mine")
    assert found.sign == -1 and of(model, REAL, "max:mine").sign == 1
    assert found(model) == pytest.approx(model.evaluate(X, REAL, verbose=0)[1], rel=1e-5)
    assert found.drop(1.0, 3.0) == 2.0 and of(model, REAL, "r2_score").drop(1.0, 3.0) == -2.0


def test_what_is_good_is_asked_for_where_nothing_tells():
    with pytest.raises(ValueError, match="compile it with its loss and metrics"):
        of(net(3), REAL)
    assert of(net(3), CLASS).name == "accuracy"
    assert of(net(3), REAL, loss="mae").name == "loss"
    with pytest.raises(ValueError, match="no loss"):
        of(net(3), REAL, "loss")
    with pytest.raises(ValueError, match="one metric of each output"):
        of(net(3), REAL, ["mae", "mse"])


def test_ignored_classes_and_masks_do_not_count():
    parts = [layers.Embedding(9, 4, mask_zero=True), layers.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((5,), dtype="int32"), *parts])
    words, y = R.integers(0, 9, (40, 5)), R.integers(-1, 3, (40, 5))
    model.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1))
    right = model.predict(words, verbose=0).argmax(-1) == y
    found = Quality(model, (words, y, None))
    assert found(model) == pytest.approx(right[(words > 0) & (y >= 0)].mean())


def test_a_mask_among_the_outputs_changes_by_zero_or_one():
    before = [np.array([True, True, False, False]), np.array([0.0, 2.0])]
    now = [np.array([True, False, False, False]), np.array([0.0, 4.0])]
    # (1 / 4) / (1 / 4) and (4 / 2) / 1
    assert change(before, now) == 1.5
