import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the prediction needs curvature"
)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def model_and_data(seed=0, count=300):
    keras.utils.set_random_seed(seed)
    parts = [
        keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
        keras.layers.BatchNormalization(),
        keras.layers.Conv2D(8, 1, activation="relu", name="mix"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4, name="out"),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *parts])
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, 8, 8, 3)).astype("float32")
    return model, (x, random.integers(0, 4, count))


def by_rank(cls, *ranks):
    return {f"rank {rank}": cls.using(rank=rank) for rank in ranks}


def test_measured_is_the_loss_of_the_swapped_model():
    model, (x, y) = model_and_data()
    before = model.get_weights()
    found = tfc.sensitivity(
        model, (x, y), ["conv", "mix"], by_rank(tfc.layers.LowRankConv2D, 2, 4), LOSS
    )
    assert [(row.layer, row.candidate) for row in found.rows] == [
        ("conv", "rank 2"),
        ("conv", "rank 4"),
        ("mix", "rank 2"),
        ("mix", "rank 4"),
    ]
    metrics = tfc.curvature.kronecker(model, (x, y), LOSS)
    for row in found.rows:
        maker = tfc.layers.LowRankConv2D.using(rank=int(row.candidate[-1]))
        small = tfc.swap(model, {row.layer: maker}, curvature=metrics)
        expected = float(LOSS(y, small(x))) - float(LOSS(y, model(x)))
        assert row.measured == pytest.approx(expected, abs=1e-5)
        assert row.bits == small.get_layer(row.layer).bits
        change = np.asarray(model.get_layer(row.layer).kernel) - small.get_layer(row.layer).kernel
        assert row.predicted == pytest.approx(metrics[row.layer].quadratic(change), rel=1e-4)
    assert found.loss == pytest.approx(float(LOSS(y, model(x))), abs=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_small_change_of_a_trained_model_costs_what_is_predicted():
    """A linear model at its least squares: the second order is all there is."""
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 6)).astype("float32")
    y = (x @ random.standard_normal((6, 5))).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, use_bias=False, name="fc")])
    model.layers[0].kernel.assign(np.linalg.lstsq(x, y, rcond=None)[0])
    model.compile(loss="mse", jit_compile=False)
    examples = tf.data.Dataset.from_tensor_slices((x, y)).batch(1)  # the curvature is then exact
    found = tfc.sensitivity(model, examples, candidates=by_rank(tfc.layers.LowRankDense, 1, 3))
    for row in found.rows:
        assert row.measured == pytest.approx(row.predicted, rel=1e-3)


def test_candidates_that_take_only_some_layers():
    model, data = model_and_data(count=20)
    makers = [tfc.layers.LowRankDense.using(rank=1), tfc.layers.CPConv2D.using(rank=2)]
    found = tfc.sensitivity(model, data, candidates=makers, loss=LOSS)
    assert [(row.layer, row.candidate) for row in found.rows] == [
        ("conv", "CPConv2D.using(rank=2)"),
        ("mix", "CPConv2D.using(rank=2)"),
        ("out", "LowRankDense.using(rank=1)"),
    ]


def test_print_and_plot(tmp_path):
    model, data = model_and_data(count=20)
    found = tfc.sensitivity(model, data, "mix", by_rank(tfc.layers.LowRankConv2D, 1, 2), LOSS)
    assert "rank 2" in str(found) and "predicted" in str(found)
    figure = found.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    lines = figure.axes[0].get_lines()
    np.testing.assert_allclose(lines[0].get_xdata(), [16 / 64, 32 / 64])


def test_bad_arguments():
    model, data = model_and_data(count=20)
    makers = by_rank(tfc.layers.LowRankConv2D, 1)
    with pytest.raises(ValueError, match=r"matches \['cnov'\].*conv, mix, out"):
        tfc.sensitivity(model, data, "cnov", makers, LOSS)
    with pytest.raises(ValueError, match="not compiled"):
        tfc.sensitivity(model, data, "conv", makers)
    with pytest.raises(ValueError, match="takes Conv2D layers only"):
        tfc.sensitivity(model, data, "out", makers, LOSS)
    with pytest.raises(ValueError, match="at least one maker"):
        tfc.sensitivity(model, data, "out", [], LOSS)


def test_a_partly_compressed_model():
    """What is compressed already stays as it is; what is not is measured in the model around it."""
    model, (x, y) = model_and_data()
    small = tfc.swap(model, {"conv": tfc.layers.BinaryConv2D, "out": tfc.layers.Float16Dense})
    maker = tfc.layers.LowRankConv2D.using(rank=2)
    found = tfc.sensitivity(small, (x, y), "*", [maker], LOSS)
    (row,) = found.rows
    assert row.layer == "mix"
    metrics = tfc.curvature.kronecker(small, (x, y), LOSS)
    smaller = tfc.swap(small, {"mix": maker}, curvature=metrics)
    expected = float(LOSS(y, smaller(x))) - float(LOSS(y, small(x)))
    assert row.measured == pytest.approx(expected, abs=1e-5)
    assert found.loss == pytest.approx(float(LOSS(y, small(x))), abs=1e-5)
    with pytest.raises(ValueError, match="No ordinary layer with a kernel"):
        tfc.sensitivity(small, (x, y), "conv", [maker], LOSS)


def test_default_candidates():
    model, data = model_and_data()
    found = tfc.sensitivity(model, data, ["mix", "out"], loss=LOSS)
    names = {"binary", "ternary", "3 bits", "4 bits", "8 bits"}
    assert {(row.layer, row.candidate) for row in found.rows} == {
        (layer, name) for layer in ("mix", "out") for name in names
    }
    methods = {row.method for row in found.rows if row.candidate == "8 bits"}
    assert methods == {"QuantizedConv2D", "QuantizedDense"}


def test_lists_of_candidates():
    model, data = model_and_data()
    makers = [tfc.layers.BinaryDense.using(), tfc.layers.BinaryConv2D.using()]
    listed = tfc.sensitivity(model, data, ["mix", "out"], makers, LOSS)
    named = tfc.sensitivity(model, data, ["mix", "out"], {"binary": makers}, LOSS)
    assert [row.candidate for row in listed.rows] == ["BinaryConv2D.using()", "BinaryDense.using()"]
    assert [row.candidate for row in named.rows] == ["binary", "binary"]
    assert [row.measured for row in listed.rows] == [row.measured for row in named.rows]
    chain = tfc.layers.LowRankDense.using(rank=2).then(tfc.layers.QuantizedDense.using())
    with pytest.raises(ValueError, match="chain of layers"):
        tfc.sensitivity(model, data, "out", [chain], LOSS)
