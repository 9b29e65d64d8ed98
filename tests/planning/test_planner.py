import dataclasses
import weakref

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.copy import copied
from tfcompress.graph.intercept import altered
from tfcompress.graph.paths import walk
from tfcompress.graph.suffix import Suffix
from tfcompress.measure.held_out_loss import HeldOutLoss, split
from tfcompress.measure.macs import macs
from tfcompress.planning import candidates
from tfcompress.planning.correction import damage_factors
from tfcompress.planning.costs import _largest_rank, cost_function, estimate_function
from tfcompress.planning.planner import Planner
from tfcompress.planning.workbench import Workbench, _put_back, loss_with_original
from tfcompress.utils.workers import Shared, Workers

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 8, 8, 3)).astype("float32")
ONES = np.ones((1, 16), "float32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net():
    keras.utils.set_random_seed(0)
    block = keras.Sequential(
        [keras.Input((6, 6, 8)), L.Conv2D(8, 3, padding="same", name="inner")], name="block"
    )
    image = keras.Input((8, 8, 3), name="image")
    h = L.BatchNormalization(name="norm")(L.Conv2D(8, 3, name="conv")(image))
    h = L.ReLU()(h)
    h = L.Add()([h, block(h)])
    h = L.Dense(16, activation="relu", name="fc")(L.Flatten()(h))
    return keras.Model(image, 4 * L.Dense(4, name="out")(h))


Y = net()(X).numpy().argmax(-1)  # so that any change hurts


@pytest.fixture(scope="module")
def made():
    model = net()
    model.compile("sgd", LOSS, jit_compile=False)
    return model, tfc.plan(model, (X, Y), 0.12)


def test_the_budget_holds_and_the_rules_give_the_same_bits(made):
    model, plan = made
    assert plan.cost <= plan.budget == int(0.12 * plan.float_cost)
    assert plan.float_cost == sum(row.float_bits for row in tfc.report(model).rows)
    new = tfc.swap(model, plan.rules)
    assert tfc.report(new).bits == plan.cost == tfc.report(plan.model).bits
    assert list(plan.chosen) == ["conv", "block/inner", "fc", "out"]
    assert new(X[:2]).shape == (2, 4)


def test_a_larger_budget_hurts_less(made):
    model, plan = made
    wide = tfc.plan(model, (X, Y), 0.5)
    assert wide.predicted <= plan.predicted
    assert wide.cost > plan.cost


def test_it_prints_and_draws(made, tmp_path):
    _, plan = made
    assert "block/inner" in str(plan) and f"{plan.cost:,} bits" in str(plan)
    plan.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 5000


def test_single_losses_are_those_of_the_network_with_one_layer_changed():
    model = net()
    maker = tfc.layers.TernaryDense.using()
    plan = tfc.plan(model, (X, Y), 0.9, loss=LOSS, candidates={"ternary": maker})
    fit, held = split(model, (X, Y))
    held_out_loss = HeldOutLoss(model, *held, LOSS)
    moments = tfc.curvature.kronecker(keras.Model(model.inputs, model.outputs), fit, block=1024)
    fc = maker(model.get_layer("fc"), moments["fc"])
    new = tfc.swap(model, {"fc": lambda layer: fc})
    found = next(one for one in plan.options["fc"] if one.name == "ternary")
    assert found.measured == pytest.approx(
        max(held_out_loss(new) - held_out_loss.base, 0), abs=1e-5
    )
    assert found.cost == fc.bits


def test_no_low_rank_form_that_is_not_fitted_could_have_been_nearer():
    rng = np.random.default_rng(0)
    layer = L.Conv2D(12, 3)
    layer.build((None, 9, 9, 10))
    metric = tfc.metric.Kronecker(np.cov(rng.normal(size=(90, 300))))
    w = np.asarray(layer.kernel, "float64")
    least = candidates._least_damage(metric, w)
    for cls in (tfc.layers.LowRankConv2D, tfc.layers.TuckerConv2D, tfc.layers.CPConv2D):
        for rank in (1, 4, 12):
            fitted = cls.using(rank=rank if cls is not tfc.layers.TuckerConv2D else min(rank, 10))(
                layer, metric
            )
            reached = metric.quadratic(w - np.asarray(fitted.kernel))
            least_of_rank = least(_largest_rank(fitted))
            assert least_of_rank <= reached * (1 + 1e-6) + 1e-6
            if cls is tfc.layers.LowRankConv2D:
                assert reached <= 1.05 * least_of_rank + 1e-6


def test_forms_larger_than_a_harmless_one_are_not_tried():
    layer = L.Dense(32)
    layer.build((None, 64))
    metric, tried = tfc.metric.Kronecker(np.eye(64)), []

    def measure(chain):
        tried.append(chain[0].name)
        return 0.0 if len(tried) == 2 else 1.0

    count = cost_function("bits", [(None, 64)])
    makers = candidates.default_candidates("bits")
    whole, estimate = (count([layer]),), estimate_function("bits", [(None, 64)], "fast", {})
    row = candidates.fitted(layer, metric, makers, whole, count, estimate, measure, 0.1, [])
    assert [one[0] for one in row] == ["rank 0.125, 8 bits", "binary"] and len(tried) == 2
    assert [one[2] for one in row] == sorted(one[2] for one in row)


def test_forms_in_a_file_that_are_larger_than_a_harmless_one_are_not_measured():
    layer = L.Dense(48)
    layer.build((None, 96))
    metric, measured = tfc.metric.Kronecker(np.eye(96)), []

    def measure(chain):
        measured.append(chain)
        return 0.0 if len(measured) == 2 else 1.0

    makers = candidates.default_candidates("tflite")
    count = cost_function("tflite", [(None, 96)])
    whole = (count([layer]),)
    row = candidates.fitted(layer, metric, makers, whole, count, None, measure, 0.1, [])
    assert len(row) == len(measured) == 2 and row[-1].measured == 0.0


def test_macs_as_target():
    model = net()
    plan = tfc.plan(model, X, 0.6, target="macs")
    assert sum(macs(plan.model).values()) == plan.cost <= plan.budget
    assert plan.float_cost == sum(macs(model).values())


def test_file_bytes_as_target():
    model = net()
    makers = [tfc.layers.QuantizedDense.using(bits=4), tfc.layers.QuantizedConv2D.using(bits=8)]
    plan = tfc.plan(model, X, 0.4, target="tflite", candidates={"low bits": makers})
    saved = len(tfc.to_tflite(model, check=X[:4])) - len(tfc.to_tflite(plan.model, check=X[:4]))
    assert saved == pytest.approx(plan.float_cost - plan.cost, rel=0.1)


def test_two_steps_are_candidates_and_are_put_back_whole():
    model = net()
    maker = tfc.layers.LowRankConv2D.using(rank=2).then(tfc.layers.QuantizedConv2D.using(bits=8))
    plan = tfc.plan(model, (X, Y), 0.95, loss=LOSS, candidates={"both": maker})
    chosen = {path: plan.options[path][0] for path in ("conv", "block/inner")}
    assert chosen["conv"].parts == ("conv_in", "conv")
    new = tfc.swap(model, {path: one.maker for path, one in chosen.items()})
    plan = dataclasses.replace(plan, chosen=chosen, model=new)
    workbench = Workbench(model, split(model, (X, Y))[1], LOSS, None, new)
    with Workers(None) as workers:
        factors = damage_factors(workbench, plan, workers, Shared(Workbench, mine=workbench))
    assert "conv" in factors and set(factors) <= set(chosen)  # without what does no harm
    chain = [new.get_layer(name) for name in ("conv_in", "conv")]
    part = keras.Model(new.inputs, new.get_layer("norm").input)
    found = altered(part, _put_back(chain, model.get_layer("conv")))(X[:3])
    np.testing.assert_allclose(found, model.get_layer("conv")(X[:3]), rtol=1e-4, atol=1e-5)


def test_an_original_is_put_back_in_calls_that_overlap():
    inputs = [keras.Input((16,), name=name) for name in "ab"]
    shared, relu = keras.layers.Dense(16, "tanh", name="fc"), keras.layers.Activation("relu")
    joined = keras.layers.Concatenate()([relu(shared(inputs[0])), shared(inputs[1])])
    model = keras.Model(
        inputs, keras.layers.Dense(1)(joined)
    )  # the second call has the shorter way
    x = [RNG.normal(size=(32, 16)).astype("float32") for _ in "ab"]
    maker = tfc.layers.LowRankDense.using(rank=2).then(tfc.layers.QuantizedDense.using(bits=8))
    small = tfc.swap(model, {"fc": maker})
    workbench = Workbench(model, (x, model(x).numpy(), None), "mse", None).of(small)
    paths = list(walk(small))
    chain = [number for number, path in enumerate(paths) if path.startswith("fc")]
    loss = loss_with_original(workbench, chain, list(walk(model)).index("fc"))
    assert loss == pytest.approx(0, abs=1e-10)


def test_an_original_is_put_back_where_keras_casts_within_the_chain():
    inputs = keras.Input((16,))
    model = keras.Model(inputs, L.Dense(4, name="fc", dtype="mixed_float16")(inputs))
    links = L.Dense(8, name="fc_in", dtype="float32"), L.Dense(4, name="fc", dtype="mixed_float16")
    small = keras.Model(inputs, links[1](links[0](inputs)))
    found = altered(small, _put_back(list(links), model.get_layer("fc")))(X[:3, 0, 0, :1] @ ONES)
    np.testing.assert_array_equal(found, model(X[:3, 0, 0, :1] @ ONES))


def test_without_labels_the_change_of_the_outputs_counts():
    model = net()
    held_out_loss = HeldOutLoss(model, X, None, None, None)
    assert held_out_loss.base == 0
    outputs = model(X).numpy()
    twice = copied(model)
    out = twice.get_layer("out")
    out.set_weights([2 * w for w in out.get_weights()])
    expected = np.mean(outputs**2) / outputs.var()
    assert held_out_loss(twice) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("many", [False, True])
def test_suffix_gives_the_outputs_from_wherever_it_is(many):
    model = net()
    suffix = Suffix(model, [X[:5], X[5:9]], many)
    for name in ("conv", "inner", "fc", "out"):
        layer = (
            model.get_layer("block").get_layer(name) if name == "inner" else model.get_layer(name)
        )
        suffix.advance(layer)
        found = np.concatenate([batch[0] for batch in suffix.outputs()])
        np.testing.assert_allclose(found, model(X[:9]), atol=1e-5)
    assert len(suffix.held[0]) == 1  # what is behind is dropped


def test_what_no_later_layer_takes_is_let_go():
    """Of a deep network on large images all activations together would take gigabytes."""
    given, most = [], 0

    class Watched(L.Layer):
        def call(self, x):
            nonlocal most
            given.append(weakref.ref(y := x + 1.0))
            most = max(most, sum(one() is not None for one in given))
            return y

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    inputs = x = keras.Input((4,))
    for _ in range(12):
        x = Watched()(x)
    model, x = keras.Model(inputs, L.BatchNormalization(epsilon=0)(x)), np.zeros((16, 4), "float32")
    loss = HeldOutLoss(model, x, None, None, None)
    assert 1 <= most <= 3
    most = 0
    assert loss(model) == 0 and 1 <= most <= 3
    most = 0
    tfc.recalibrate_batch_norm(model, x)
    assert 1 <= most <= 3
    np.testing.assert_array_equal(model.layers[-1].moving_mean, np.full(4, 12.0))


def test_split_takes_held_out_examples_from_all_over():
    any_net = keras.Sequential([keras.Input((1,)), L.Dense(1)])
    x = np.arange(100.0)[:, None]
    fit, (held, labels, weights) = split(any_net, (x, x[:, 0]))
    assert len(held) == 12 and len(fit) == 88 and weights is None
    assert held[0] < 9 and held[-1] > 90 and not set(held[:, 0]) & set(fit[:, 0])
    np.testing.assert_array_equal(held[:, 0], labels)
    assert len(split(any_net, np.zeros((4000, 1)))[1][0]) == 64
    assert len(split(any_net, (np.zeros((4000, 1)), np.zeros(4000)))[1][0]) == 256


def test_a_form_that_is_small_in_the_file_alone_is_kept_for_the_file_alone():
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 16)), L.Conv2D(32, 3, name="conv")])
    x = rng.normal(size=(100, 8, 8, 16)).astype("float32")
    low = tfc.layers.LowRankConv2D.using(rank=0.5).then(tfc.layers.QuantizedConv2D.using(bits=8))
    makers = {"ternary": tfc.layers.TernaryConv2D.using(), "rank": low}
    options = {
        target: {
            one.name: one for one in Planner(model, x, target, candidates=makers).options["conv"]
        }
        for target in ("bits", "tflite")
    }
    assert set(options["bits"]) == {"ternary", "float32"}  # nearer, and fewer bits
    rank, ternary = options["tflite"]["rank"], options["tflite"]["ternary"]
    assert rank.cost < ternary.cost and rank.measured > ternary.measured
    smallest = tfc.plan(model, x, 1.0, "tflite", None, {"ternary": makers["ternary"]}, "small")
    assert smallest.options["conv"][0].cost < ternary.cost  # 2 bits in place of 8


def test_a_form_is_not_tried_if_a_hardly_larger_one_is_far_better():
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), L.Dense(256, name="fc")])
    x = rng.normal(size=(100, 64)).astype("float32")
    eight = tfc.layers.QuantizedDense.using(bits=8)

    def names(rank):
        low = tfc.layers.LowRankDense.using(rank=rank).then(eight)
        makers = {"binary": tfc.layers.BinaryDense.using(), "rank": low}
        return [one.name for one in Planner(model, x, candidates=makers).options["fc"]]

    assert names(rank=6) == ["binary", "float32"]  # 23,744 bits against 24,576
    assert names(rank=3) == ["rank", "binary", "float32"]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"budget": 0}, ValueError, "budget"),
        ({"budget": "10%"}, ValueError, "`budget` to be a number"),
        ({"budget": 1e-4}, ValueError, "cheapest"),
        ({"target": "bytes"}, ValueError, "target"),
        ({"candidates": {"a": tfc.layers.BinaryConv1D.using()}}, ValueError, "BinaryConv1D cannot"),
        ({"data": X[:3]}, ValueError, "at least 8"),
    ],
)
def test_bad_input(arguments, error, message):
    arguments = {"data": X, "budget": 0.5, **arguments}
    with pytest.raises(error, match=message):
        tfc.plan(net(), **arguments)


def test_unknown_macs_are_refused():
    rng = np.random.default_rng(0)
    image = keras.Input((None, 3))
    model = keras.Model(image, L.Dense(8, name="out")(L.LSTM(16, name="lstm")(image)))
    x = rng.normal(size=(20, 4, 3)).astype("float32")
    with pytest.raises(ValueError, match=r"MACs of \['lstm"):
        tfc.plan(model, x, 0.9, "macs", candidates={"r": tfc.layers.LowRankDense.using(rank=1)})
