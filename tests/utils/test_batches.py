"""One reader of data for all functions, with the meaning that `fit` gives the same data."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.measure.objective import mean_loss
from tfcompress.utils.arrays import concatenated
from tfcompress.utils.batches import batches, check_repeats

R = np.random.default_rng(0)
X = R.normal(size=(10, 6)).astype("float32")
Y = R.integers(0, 3, 10)
W = R.random(10).astype("float32")
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PARTS = [(X[i : i + 4], Y[i : i + 4], W[i : i + 4]) for i in (0, 4, 8)]


def model():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="a")])


class Parts(keras.utils.PyDataset):
    kind = tuple

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.kind(PARTS[index])


class Lists(Parts):
    kind = list


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(4)


FORMS = {
    "arrays": lambda: (X, Y, W),
    "tuples": lambda: Parts(),
    "lists of parts": lambda: Lists(),
    "generator": lambda: (part for part in PARTS),
    "generator of lists": lambda: (list(part) for part in PARTS),
    "dataset": dataset,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_parts(form):
    found = list(batches(model(), FORMS[form](), 3))
    assert [len(x) for x, _, _ in found] in ([3, 3, 3, 1], [3, 1, 3, 1, 2])
    for number, whole in enumerate((X, Y, W)):
        joined = np.concatenate([np.asarray(batch[number]) for batch in found])
        np.testing.assert_array_equal(joined, whole)


def test_a_batch_of_fit_is_read_as_fit_reads_it():
    net = model()
    net.compile("sgd", LOGITS)
    by_fit = net.evaluate(Lists(), verbose=0)
    found = tfc.curvature.gauss_newton(net, Lists())
    same = tfc.curvature.gauss_newton(net, (X, Y, W), batch_size=4)
    np.testing.assert_array_equal(found["a"], same["a"])
    assert mean_loss(net, Lists()) == pytest.approx(by_fit, rel=1e-6)


def test_dicts_go_by_name_in_any_order():
    b, a = keras.Input((2,), name="b"), keras.Input((3,), name="a")
    net = keras.Model([b, a], keras.layers.Dense(1)(keras.layers.Concatenate()([b, a])))
    data = {"a": np.ones((4, 3)), "b": np.ones((4, 2))}
    assert len(list(batches(net, data, 4))) == 1
    net.compile("sgd", "mse")
    net.fit(data, np.ones(4), verbose=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: iter(PARTS), "is a function that makes them. Call it"),
        (lambda: [X, Y], r"Labels are given in a tuple, `\(x, y\)`"),
        (lambda: (X, Y, W, W), r"`\(x, y, sample_weight\)`.*a tuple of 4"),
        (lambda: (X, Y[:5]), r"inputs of \[10\] examples, labels of \[5\]"),
        (lambda: X[:, :5], r"Expected inputs of shapes \[\(None, 6\)\]"),
        (lambda: 3, "that `fit` takes"),
        (lambda: iter([]), "holds no examples"),
        (lambda: [1.0, 2.0], "first axis counts the examples"),
    ],
)
def test_what_fit_would_not_take_is_refused_in_a_sentence(data, message):
    given = data if "function" in message else data()
    with pytest.raises(ValueError, match=message):
        list(batches(model(), given, 4))


@pytest.mark.parametrize("labelled", [True, False])
def test_a_dataset_that_is_not_batched(labelled):
    import tensorflow as tf

    arrays = (X, Y) if labelled else X
    data = tf.data.Dataset.from_tensor_slices(arrays)
    for function in (lambda net: tfc.curvature.kronecker(net, data), lambda net: swap(net, data)):
        with pytest.raises(ValueError, match=r"yields single ones: give `data.batch\(32\)`"):
            function(model())


def swap(net, data):
    return tfc.swap(net, {"a": tfc.layers.QuantizedDense.using(bits=4)}, data=data)


def test_a_generator_function_is_refused_where_data_is_kept():
    def examples():
        yield X, Y

    with pytest.raises(ValueError, match="is a function that makes them"):
        tfc.callbacks.Prune(tfc.schedules.Constant(0.5), score="obd", data=examples)
    for data in (dataset(), (X, Y), Parts()):
        check_repeats(data, 2)


def test_class_weights_are_those_of_fit():
    net, table = model(), {0: 2.0, 1: 0.5}
    net.compile(keras.optimizers.SGD(0.0), LOGITS)
    loss = net.fit(X, Y, batch_size=10, class_weight=table, verbose=0).history["loss"][0]
    assert mean_loss(net, next(batches(net, (X, Y), 10, table))) == pytest.approx(loss, rel=1e-6)


def test_labels_of_steps_are_not_padded_unless_weights_leave_the_rest_out():
    ids, labels = [np.ones((2, 5)), np.ones((2, 9))], [np.full((2, 5), 2), np.full((2, 9), 2)]
    pairs = list(zip(ids, labels, strict=True))
    with pytest.raises(ValueError, match="`sample_weight` of 0 for what is added"):
        concatenated((x, y, None) for x, y in pairs)
    x, y, weights = concatenated((x, y, np.ones(y.shape)) for x, y in pairs)
    assert x.shape == y.shape == (4, 9) and not weights[y == 0].any() and weights.sum() == 28
