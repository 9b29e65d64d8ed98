"""Plans and swaps made by the workers of executors: the same to the bit, whoever makes them."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.utils.workers import Shared, Workers

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 4, len(X))


def net():
    keras.utils.set_random_seed(0)
    start = keras.Input(X.shape[1:])
    x = L.BatchNormalization(name="norm")(L.Conv2D(16, 3, activation="relu", name="conv")(start))
    a, b = L.Conv2D(16, 3, name="left")(x), L.Conv2D(16, 3, activation="gelu", name="right")(x)
    x = L.Flatten(name="flat")(L.Add(name="add")([a, b]))
    model = keras.Model(start, L.Dense(4, name="out")(L.Dense(32, "relu", name="fc")(x)))
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    return model


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(3) as threads:
        yield threads


def same_weights(one, other):
    pairs = list(zip(one.get_weights(), other.get_weights(), strict=True))
    return len(pairs) and all(np.array_equal(a, b) for a, b in pairs)


def numbers(plan):
    options = {
        path: [(o.name, o.cost, o.predicted, o.measured, o.parts) for o in row]
        for path, row in plan.options.items()
    }
    chosen = {path: option.name for path, option in plan.chosen.items()}
    return options, chosen, plan.cost, plan.loss, plan.predicted, plan.measured


@pytest.mark.slow
def test_a_plan_is_the_same_by_whatever_executor(pool, threads):
    alone = tfc.plan(net(), (X, Y), 0.12)
    for executor in (pool, threads):
        plan = tfc.plan(net(), (X, Y), 0.12, executor=executor)
        assert numbers(plan) == numbers(alone)
        assert same_weights(plan.model, alone.model)


RULES = {
    "conv": tfc.layers.TernaryConv2D.using(),
    "left": tfc.layers.TuckerConv2D.using(rank=0.5).then(tfc.layers.QuantizedConv2D.using(bits=8)),
    "right": tfc.layers.CPConv2D.using(rank=4),
    "fc": tfc.layers.LowRankDense.using(rank="auto"),
    "out": tfc.layers.QuantizedDense.using(bits=4),
}


@pytest.mark.parametrize("data", [None, X[:64]], ids=["", "data"])
def test_a_swap_is_the_same_by_whatever_executor(pool, threads, data):
    alone = tfc.swap(net(), RULES, data=data)
    for executor in (pool, threads):
        made = tfc.swap(net(), RULES, data=data, executor=executor)
        names = [[layer.name for layer in one.layers[1:]] for one in (made, alone)]
        assert names[0] == names[1]
        assert same_weights(made, alone)
        assert made.get_layer("right").activation is keras.activations.gelu


@keras.saving.register_keras_serializable("test_executor")
class Gated(L.Layer):
    """A composite layer whose parts have automatic names, others in each process."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.value, self.gate = L.Dense(units, "gelu"), L.Dense(units)

    def build(self, shape):
        self.value.build(shape)
        self.gate.build(shape)

    def call(self, x):
        return self.value(x) * keras.ops.sigmoid(self.gate(x))

    def get_config(self):
        return super().get_config() | {"units": self.units}


def gated_net():
    keras.utils.set_random_seed(0)
    start = keras.Input((6, 12))
    x = L.LSTM(16, return_sequences=True, name="lstm")(start)
    x = L.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = L.Lambda(lambda x: 2 * x, name="twice")(Gated(24)(x))
    return keras.Model(start, L.Dense(4, name="out")(L.GlobalAveragePooling1D()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["bits", "macs", "archive"])
def test_parts_of_composite_layers_are_found_in_workers(pool, target):
    x = RNG.normal(size=(64, 6, 12)).astype("float32")
    candidates = None
    if target == "bits":  # a chain of two layers, which `plan` puts back
        eight = tfc.layers.QuantizedDense.using(bits=8)
        candidates = [tfc.layers.LowRankDense.using(rank=0.3).then(eight), eight]
    plans = []
    for executor in (None, pool):
        plans.append(tfc.plan(gated_net(), x, 0.6, target, None, candidates, executor=executor))
    rows = [list(map(list, numbers(plan)[0].values())) for plan in plans]
    names = [[[option[:-1] for option in row] for row in one] for one in rows]
    assert names[0] == names[1]
    assert plans[0].measured == plans[1].measured and len(plans[0].options) == 9
    assert same_weights(plans[0].model, plans[1].model)


def test_a_model_that_cannot_be_saved_is_refused_by_name():
    class Local(keras.Model):
        def __init__(self, size):
            super().__init__(name="local")
            self.out = L.Dense(size, name="out")

        def call(self, x):
            return self.out(x)

    model = Local(4)
    model(X.reshape(len(X), -1))
    message = r"Layer 'out': .* could not read it|Model 'local' cannot be sent"
    with new_pool() as pool, pytest.raises((RuntimeError, ValueError), match=message):
        tfc.plan(model, X.reshape(len(X), -1), 0.5, executor=pool)


def die(shared, path):
    """Ends the process the first time that it is called."""
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(1)
    return "alive"


def die_always(shared):
    os._exit(1)


def double(shared, x):
    return shared * x


def refuse(shared):
    raise ValueError("no such layer")


def new_pool():
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@pytest.mark.slow
def test_a_worker_that_dies_is_retried_once(tmp_path):
    with new_pool() as pool, Workers(pool) as workers:
        tasks = [workers.submit("Layer 'a'", die, None, str(tmp_path / "seen"))]
        tasks += [workers.submit("Layer 'b'", double, Shared(int, 3), x) for x in (1, 2)]
        assert [task.result() for task in tasks] == ["alive", 3, 6]
        assert workers.submit("Layer 'c'", double, Shared(int, 5), 2).result() == 10


@pytest.mark.slow
def test_the_task_whose_worker_dies_twice_is_named():
    with new_pool() as pool, Workers(pool) as workers:
        tasks = [workers.submit(f"Layer {n!r}", die_always, None) for n in "ab"]
        with pytest.raises(RuntimeError, match=r"Layer 'a': the worker .* BrokenProcessPool"):
            tasks[0].result()


def test_an_error_of_a_worker_is_raised_with_where_it_came_from(pool, threads):
    for executor in (pool, threads):
        with Workers(executor) as workers, pytest.raises(ValueError, match="no such layer") as e:
            workers.submit("Layer 'a'", refuse, None).result()
        assert "in refuse" in e.value.__notes__[0]


def test_what_is_no_executor_is_refused():
    message = r"`executor` to be a `concurrent.futures.Executor`.* Received: 2"
    with pytest.raises(TypeError, match=message):
        tfc.plan(net(), X, 0.5, executor=2)
    with pytest.raises(TypeError, match=message):
        tfc.swap(net(), RULES, executor=2)


def test_a_pool_that_forks_is_refused():
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context) as pool, pytest.raises(ValueError, match="spawn"):
        tfc.swap(net(), RULES, executor=pool)


def test_a_layer_that_cannot_be_taken_is_refused_as_without_workers(threads):
    rules = {"fc": tfc.layers.LowRankDense.using(rank=500)}
    with pytest.raises(ValueError, match="'fc' cannot be swapped") as alone:
        tfc.swap(net(), rules)
    with pytest.raises(ValueError) as found:
        tfc.swap(net(), rules, executor=threads)
    assert str(found.value) == str(alone.value)
