import json

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.rewriting import pairs
from tfcompress.utils.arrays import spread

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the loss of labels needs TensorFlow"
)


def net():
    keras.utils.set_random_seed(0)
    parts = [
        keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Flatten(),
        keras.layers.Dense(16, "relu", name="fc"),
        keras.layers.Dense(4, name="out"),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *parts])
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 8, 8, 3)).astype("float32")
    model.get_layer("norm").moving_mean.assign(np.full(8, 0.3))
    tfc.recalibrate_batch_norm(model, x)
    y = np.argmax(model(x), -1)
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model, (x, y)


def test_shares_add_up_to_the_rise_of_the_loss_that_keras_reports():
    model, (x, y) = net()
    rules = {"conv": tfc.layers.BinaryConv2D, "fc": tfc.layers.LowRankDense.using(rank=2)}
    small = tfc.swap(model, {**rules, "out": tfc.layers.TernaryDense})
    small.compile(loss=LOSS)
    found = tfc.explain(model, small, (x, y))
    before, after = (m.evaluate(x, y, verbose=0) for m in (model, small))
    assert found.before == pytest.approx(before[0], rel=1e-5)
    assert found.after == pytest.approx(after, rel=1e-5)
    assert sum(row.share for row in found.layers) == pytest.approx(found.rise, rel=1e-6)
    assert {row.path for row in found.layers} == {"conv", "fc", "out"}
    assert found.metric[:2] == ("accuracy", 1.0)


def test_a_share_is_the_mean_over_both_orders_of_two_layers():
    model, (x, y) = net()
    rules = {"conv": tfc.layers.BinaryConv2D, "fc": tfc.layers.LowRankDense.using(rank=2)}

    def loss(*names):
        new = tfc.swap(model, {name: rules[name] for name in names}) if names else model
        return float(LOSS(y, new(x)))

    found = tfc.explain(model, tfc.swap(model, rules), (x, y))
    first = loss("conv") - loss()
    last = loss("conv", "fc") - loss("fc")
    assert found["conv"].share == pytest.approx((first + last) / 2, rel=1e-4)
    assert found.orders == 2


def test_equal_models_have_no_rows():
    model, data = net()
    found = tfc.explain(model, tfc.swap(model, {"fc": None}), data)
    assert found.layers == () and found.rise == 0
    assert str(found).splitlines()[1:] == [
        "There is no difference: both models have the same layers and the same weights."
    ]
    assert "There is no difference" in found._repr_html_() and "<table" not in found._repr_html_()


def test_without_labels_the_change_of_the_outputs_is_shared():
    model, (x, _) = net()
    small = tfc.swap(model, {"fc": tfc.layers.LowRankDense.using(rank=1)})
    found = tfc.explain(model, small, x)
    z0, z = np.array(model(x)), np.array(small(x))
    assert found.measure == "change of the outputs"
    assert found.after == pytest.approx(np.mean((z - z0) ** 2) / z0.var(), rel=1e-4)
    assert found.layers[0].path == "fc"


def test_errors_are_those_of_the_layer_on_the_inputs_that_it_gets():
    model, (x, y) = net()
    rules = {"conv": tfc.layers.BinaryConv2D, "fc": tfc.layers.LowRankDense.using(rank=2)}
    small = tfc.swap(model, rules)
    found = tfc.explain(model, small, (x, y))
    inputs = keras.Sequential(small.layers[:3])(x)
    ours, theirs = (np.array(m.get_layer("fc")(inputs)) for m in (small, model))
    expected = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert found["fc"].output_error == pytest.approx(expected, rel=1e-4)
    kernels = [np.array(m.get_layer("fc").kernel) for m in (model, small)]
    change = np.linalg.norm(kernels[1] - kernels[0]) / np.linalg.norm(kernels[0])
    assert found["fc"].kernel_error == pytest.approx(change, rel=1e-5)


def test_a_nan_is_named_although_all_that_follows_is_nan_too():
    model, data = net()
    small = tfc.swap(model, {"fc": tfc.layers.QuantizedDense.using(bits=4)})
    bias = np.zeros(16, "float32")
    bias[3] = np.nan
    small.get_layer("fc").bias.assign(bias)
    row = tfc.explain(model, small, data).layers[0]
    assert (row.path, row.cause.name) == ("fc", "not finite")


def test_each_cure_is_code_and_runs():
    model, (x, y) = net()
    small = tfc.swap(model, {"fc": tfc.layers.LowRankDense.using(rank=1)})
    small.get_layer("norm").moving_mean.assign(np.full(8, 5.0))
    small.compile(loss=LOSS)
    found = tfc.explain(model, small, (x, y), try_cures=True)
    for row in found.layers:
        assert str(row.cure) in str(found)
        cured = row.cure.apply(model, small, x)
        assert row.cured == pytest.approx(float(LOSS(y, cured(x))), rel=1e-2)
    assert found["norm"].cured < found.after
    assert str(found["norm"].cure) == "tfc.recalibrate_batch_norm(small, data)"
    assert found["fc"].cure.rules.keys() == {"fc"}
    names = {"tfc": tfc, "model": model, "rules": {"fc": tfc.layers.BinaryDense}, "x": x}
    code, cure = str(found["fc"].cure), found["fc"].cure.maker
    exec(code.replace("tfc.swap", "new = tfc.swap"), names)
    assert type(names["new"].get_layer("fc")) is cure.layer_class


def test_parts_of_recurrent_cells_are_named():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.LSTM(8, name="lstm"), keras.layers.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((5, 4)), *layers])
    x = np.random.default_rng(0).standard_normal((50, 5, 4)).astype("float32")
    small = tfc.swap(model, {"lstm/lstm_cell/kernel": None})
    weights = small.get_layer("lstm").get_weights()
    weights[1] = weights[1] * 0.3
    small.get_layer("lstm").set_weights(weights)
    row = tfc.explain(model, small, x).layers[0]
    assert row.path == "lstm/lstm_cell/recurrent_kernel"
    assert row.cause.name == "scale off" and "0.3" in row.cause.evidence


def test_a_chain_of_ordinary_layers_is_the_layer_that_it_stands_for():
    model, data = net()
    small = tfc.to_ordinary(tfc.swap(model, {"fc": tfc.layers.LowRankDense.using(rank=2)}))
    row = tfc.explain(model, small, data).layers[0]
    assert (row.path, row.method) == ("fc", "Dense + Dense")
    assert row.cause.name == "rank below the knee"


def test_a_fake_quant_that_clips_is_named():
    model, (x, y) = net()
    tail = keras.Sequential(model.layers[3:])
    inputs = keras.Input((8, 8, 3))
    h = keras.Sequential(model.layers[:3])(inputs)
    h = tfc.layers.FakeQuant(-0.2, 0.2, name="range")(h)
    small = keras.Model(inputs, tail(h))
    found = tfc.explain(
        keras.Model(inputs, tail(small.layers[1](inputs))), small, (x, y), loss=LOSS
    )
    (row,) = found.layers
    assert (row.path, row.cause.name) == ("range", "activation range clipped")
    assert row.cure.high == pytest.approx(float(np.max(small.layers[1](x))), rel=1e-5)


def test_removed_channels_are_refused():
    model, data = net()
    small = tfc.prune_channels(model, 0.5)
    with pytest.raises(ValueError, match=r"kernel of layer .* has the shape"):
        tfc.explain(model, small, data)


def test_models_without_a_common_layer_are_refused():
    model, data = net()
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(name="f")])
    with pytest.raises(ValueError, match="No layer of `small`"):
        tfc.explain(model, other, data)


def test_all_is_in_the_json_and_on_the_page(tmp_path):
    model, data = net()
    small = tfc.swap(model, {"fc": tfc.layers.BinaryDense})
    found = tfc.explain(model, small, data)
    read = json.loads(found.to_json())
    assert read["layers"][0]["path"] == "fc" and read["rise"] == found.rise
    assert read["layers"][0]["cure"] == str(found.layers[0].cure)
    found.to_html(tmp_path / "page.html")
    assert "QuantizedDense.using(bits=8)" in (tmp_path / "page.html").read_text()
    found.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_only_what_differs_is_a_pair():
    model, _ = net()
    small = tfc.swap(model, {"conv": tfc.layers.BinaryConv2D})
    assert [pair.path for pair in pairs.pairs_of(model, small)] == ["conv"]


def test_several_inputs_and_outputs_without_a_metric():
    keras.utils.set_random_seed(0)
    one, other = keras.Input((8,), name="one"), keras.Input((4,), name="other")
    shared = keras.layers.Dense(16, name="shared")
    parts = [keras.layers.Dense(8, name=n)(x) for n, x in (("p", one), ("q", other))]
    h = shared(shared(keras.layers.Concatenate()(parts)))
    heads = {n: keras.layers.Dense(k, name=n)(h) for n, k in (("u", 3), ("v", 1))}
    model = keras.Model({"one": one, "other": other}, heads)
    model.compile(loss={"u": LOSS, "v": "mse"})
    random = np.random.default_rng(0)
    x = {
        n: random.standard_normal((50, k)).astype("float32") for n, k in (("one", 8), ("other", 4))
    }
    y = {"u": random.integers(0, 3, 50), "v": random.standard_normal((50, 1))}
    small = tfc.swap(model, {"shared": tfc.layers.BinaryDense})
    found = tfc.explain(model, small, (x, y), tflite=tfc.to_tflite(small, check=x))
    assert found.metric is None
    assert found["shared"].cause.name == "few bits"
    assert sum(row.share for row in found.layers) == pytest.approx(found.rise, abs=1e-4)


def test_the_worst_examples_are_counted_in_the_data():
    model, (x, y) = net()
    x, y = np.concatenate([x] * 6), np.concatenate([y] * 6)  # 1,200, of which 512 are taken
    small = tfc.swap(model, {"fc": tfc.layers.BinaryDense})
    row = tfc.explain(model, small, (x, y)).layers[0]
    losses = [keras.losses.sparse_categorical_crossentropy(y, m(x), True) for m in (model, small)]
    rises = np.asarray(losses[1]) - np.asarray(losses[0])
    taken = spread(1200, 512)
    assert rises[list(row.worst)] == pytest.approx(np.sort(rises[taken])[:-4:-1], abs=1e-5)


def test_one_example_with_one_output_has_a_scale():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="out")(inputs))
    small = tfc.opened(model)
    small.get_layer("out").kernel.assign(1.5 * model.get_layer("out").kernel)
    found = tfc.explain(model, small, np.ones((1, 3)))
    assert found.rise == pytest.approx(0.25, rel=1e-4)


def test_a_path_that_does_not_differ_is_a_key_error():
    model, data = net()
    found = tfc.explain(model, tfc.swap(model, {"fc": tfc.layers.BinaryDense}), data)
    with pytest.raises(KeyError, match=r"'fc'.*'out'"):
        found["out"]


@pytest.mark.parametrize("names", [("model", "small"), ("small", "model")])
def test_a_model_without_weights_is_refused(names):
    model, data = net()
    empty = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4, name="out")])
    given = dict(zip(names, (model, empty), strict=True))
    with pytest.raises(ValueError, match=f"`{names[1]}` is not built"):
        tfc.explain(**given, data=data)


def test_a_model_of_other_inputs_is_refused():
    model, data = net()
    x = keras.Input((9, 9, 3))
    h = keras.layers.Conv2D(8, 3, name="conv")(x)
    other = keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(h)))
    with pytest.raises(ValueError, match=r"same inputs.*\(9, 9, 3\)\] in `small`"):
        tfc.explain(model, other, data)


def test_labels_that_are_texts_are_refused():
    model, (x, y) = net()
    small = tfc.swap(model, {"fc": tfc.layers.BinaryDense})
    with pytest.raises(ValueError, match="labels that are numbers"):
        tfc.explain(model, small, (x, np.array(list("abcd"))[y]))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.fc = keras.layers.Dense(16, "relu", name="fc")
        self.out = keras.layers.Dense(4, name="out")

    def call(self, x):
        return self.out(self.fc(x))


def test_a_subclassed_model_is_explained():
    keras.utils.set_random_seed(0)
    model, x = Subclassed(), np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    model(x)
    small = tfc.opened(model)
    small.fc.kernel.assign(2 * model.fc.kernel)
    (row,) = tfc.explain(model, small, x).layers
    assert (row.path, row.cause.name) == ("fc", "scale off")
