"""`class_weight` means what it means in `fit`: sample weights by the label, in training alone."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.planning.attempts import Compressor
from tfcompress.schedules import Constant
from tfcompress.utils.arrays import spread
from tfcompress.utils.batches import batches

R = np.random.default_rng(0)
Y = R.integers(0, 3, 200)
X = (R.normal(size=(200, 24)) + 2 * np.eye(3, 24)[Y]).astype("float32")
TABLE = {0: 5.0, 2: 0.25}
W = np.array([TABLE.get(label, 1.0) for label in Y], "float32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EIGHT = {"8 bits": tfc.layers.QuantizedDense.using(bits=8)}


def model(loss=LOSS):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(24, "relu", name="fc")
    net = keras.Sequential([keras.Input((24,)), hidden, layers.Dense(3, name="out")])
    net.compile(keras.optimizers.SGD(0.0), loss, jit_compile=False)
    return net


def arrays(net):
    return [keras.ops.convert_to_numpy(w) for w in net.weights]


def same(one, other):
    return all(map(np.array_equal, arrays(one), arrays(other)))


@pytest.mark.parametrize("labels", [Y, Y[:, None], Y.astype("float32"), np.eye(3)[Y]])
def test_the_loss_is_that_of_fit_for_each_form_of_labels(labels):
    sparse = labels.ndim == 1 or labels.shape[1] == 1
    loss = LOSS if sparse else keras.losses.CategoricalCrossentropy(from_logits=True)
    net = model(loss)
    expected = net.fit(X, labels, batch_size=200, class_weight=TABLE, verbose=0).history["loss"][0]
    ((x, y, w),) = batches(net, (X, labels), 200, TABLE)
    np.testing.assert_array_equal(w, W)
    assert net.evaluate(x, y, sample_weight=w, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_each_entry_has_the_weight_of_its_class_and_of_its_example():
    tags = R.integers(0, 3, (4, 5))
    expected = np.vectorize(lambda one: TABLE.get(one, 1.0))(tags)
    own = np.array([1.0, 2.0, 0.0, 3.0], "float32")
    for given in (tags[..., None], np.eye(3)[tags]):
        ((_, _, w),) = batches(None, (X[:4], given), 4, TABLE)
        np.testing.assert_allclose(w, expected)
        ((_, _, w),) = batches(None, (X[:4], given, own), 4, TABLE)
        np.testing.assert_allclose(w, expected * own[:, None])
    ((_, _, w),) = batches(None, (X[:2], Y[:2], np.ones((2, 3))), 2, TABLE)
    np.testing.assert_allclose(w, np.repeat(W[:2, None], 3, 1))


@pytest.mark.parametrize(
    ("labels", "table", "error", "message"),
    [
        (Y, [1.0, 2.0], TypeError, "Expected `class_weight` as `{class: weight}`"),
        (Y, "balanced", TypeError, "Expected `class_weight` as `{class: weight}`"),
        (Y, {"0": 2.0}, TypeError, "Expected `class_weight` as `{class: weight}`"),
        (Y, {0: -1.0}, TypeError, "weights from 0 on"),
        (Y, {0: np.nan}, TypeError, "weights from 0 on"),
        (R.integers(0, 3, (200, 5)), TABLE, ValueError, "one class of each example"),
        (R.normal(size=200), TABLE, ValueError, "classes, whole numbers"),
        (R.normal(size=(200, 2)), TABLE, ValueError, "one class of each example"),
        ({"a": Y, "b": Y}, TABLE, ValueError, "a model with one output"),
        (None, TABLE, ValueError, "needs the labels"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(labels, table, error, message):
    with pytest.raises(error, match=message):
        list(batches(None, (X, labels, None), 200, table))


def test_a_plan_and_a_sensitivity_weigh_the_loss():
    net = model()
    made = tfc.plan(net, (X, Y), 0.9, candidates=EIGHT, class_weight=TABLE)
    by_hand = tfc.plan(net, (X, Y, W), 0.9, candidates=EIGHT)
    assert made.loss == by_hand.loss != tfc.plan(net, (X, Y), 0.9, candidates=EIGHT).loss
    found = tfc.sensitivity(net, (X, Y), candidates=EIGHT, class_weight=TABLE)
    assert found == tfc.sensitivity(net, (X, Y, W), candidates=EIGHT)
    assert found.loss == pytest.approx(net.evaluate(X, Y, sample_weight=W, verbose=0), rel=1e-5)


@pytest.mark.slow
def test_compress_trains_with_them_and_does_not_judge_by_them():
    net, validation = model(), (X[:50], Y[:50])
    given = {"budget": 0.9, "target": "bits", "validation_data": validation}
    made = tfc.compress(net, (X, Y), class_weight=TABLE, **given)
    by_hand = tfc.compress(net, (X, Y, W), **given)
    assert same(made.model, by_hand.model) and made.tried == by_hand.tried
    assert not same(made.model, tfc.compress(net, (X, Y), **given).model)
    found = tfc.search(net, (X, Y), 0.9, 1, target="bits", class_weight=TABLE, fine_tune=3)
    drawn = spread(200, 20)
    held_out = net.predict(X[drawn], verbose=0).argmax(-1) == Y[drawn]
    assert found.before == pytest.approx(
        held_out.mean()
    )  # the weights are not those of `fit`'s own
    train = Compressor(net, (X, Y), *[None] * 4, "bits", "fast", None, class_weight=TABLE).train
    np.testing.assert_array_equal(train[2], np.delete(W, drawn))


def test_what_reads_no_loss_refuses_them():
    net, bare = model(), keras.Sequential([keras.Input((24,)), layers.Dense(3)])
    data, table = (X, Y), {"class_weight": TABLE}
    for refused in (
        lambda: tfc.compress(bare, data, 0.5, metric="accuracy", **table),
        lambda: tfc.plan(bare, data, 0.5, **table),
        lambda: tfc.curvature.kronecker(net, data, **table),
        lambda: tfc.prune(net, 0.5, data, **table),
        lambda: tfc.prune(net, 0.5, data, "obs", **table),
        lambda: tfc.prune(net, 0.5, score=lambda w, d: w, **table),
        lambda: tfc.prune_channels(net, 0.5, data=data, layers="fc", **table),
        lambda: tfc.callbacks.Prune(Constant(0.5), data=data, **table),
    ):
        with pytest.raises(ValueError, match="`class_weight` weighs"):
            refused()
    for refused in (
        lambda: tfc.compress(net, X, 0.5, **table),
        lambda: tfc.plan(net, X, 0.5, **table),
        lambda: tfc.prune(net, 0.5, X, "obd", **table),
    ):
        with pytest.raises(ValueError, match="needs the labels"):
            refused()


@pytest.mark.parametrize("verb", ["prune", "prune_channels", "Prune", "PruneOnPlateau"])
def test_pruning_weighs_the_curvature(verb):
    def pruned(data, **table):
        net, seen = model(), []

        def score(w, d):
            seen.append(d)
            return d * w**2

        if verb == "prune":
            tfc.prune(net, 0.5, data, score, **table)
        elif verb == "prune_channels":
            tfc.prune_channels(net, 0.5, score, data, "fc", **table)
        else:
            made = {
                "Prune": lambda: tfc.callbacks.Prune(Constant(0.5), score, data, **table),
                "PruneOnPlateau": lambda: tfc.callbacks.PruneOnPlateau(
                    0.5, score, data, monitor="loss", **table
                ),
            }[verb]()
            net.fit(X, Y, epochs=4, callbacks=[made], verbose=0)
        return seen[0]

    by_class = pruned((X, Y), class_weight=TABLE)
    np.testing.assert_array_equal(by_class, pruned((X, Y, W)))
    assert not np.array_equal(by_class, pruned((X, Y)))
