import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import layers
from oracles_metric import best_sparse, brain_surgeon, quadratic, refit

from tfcompress import score
from tfcompress.layers import LowRankDense
from tfcompress.measure.moments import measure
from tfcompress.numerics.metric import Kronecker
from tfcompress.numerics.optimal_brain_surgeon import shares, sparsify
from tfcompress.pruning.one_shot import prune

RNG = np.random.default_rng(0)


def problem(seed, n, out, groups=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 3 * n, n)) @ rng.normal(size=(groups, n, n))
    A = x.transpose(0, 2, 1) @ x / x.shape[1]
    return rng.normal(size=(n, groups * out)), A


def damped(A):
    return A + 0.01 * np.trace(A) / len(A) * np.eye(len(A))


@given(
    seed=st.integers(0, 10**6),
    sparsity=st.floats(0, 0.99),
    n=st.integers(1, 9),
    out=st.integers(1, 4),
    groups=st.integers(1, 2),
)
@example(seed=31195, sparsity=0.25, n=3, out=3, groups=1)  # damping would choose other zeros
@settings(max_examples=40, deadline=None)
def test_the_form_is_never_above_that_of_zeroing_alone(seed, sparsity, n, out, groups):
    w, A = problem(seed, n, out, groups)
    metric = Kronecker(A)
    found = sparsify(w, metric, sparsity)
    count = min(round(sparsity * w.size), w.size - 1)
    assert np.sum(found == 0) == count
    importance = np.sqrt(metric.diagonal(w.shape)) * np.abs(w)
    plain = w.copy()
    plain.ravel()[np.argsort(importance, axis=None, kind="stable")[:count]] = 0
    assert metric.quadratic(w - found) <= metric.quadratic(w - plain) * (1 + 1e-9) + 1e-12


def test_the_weights_that_stay_are_least_squares():
    w, A = problem(0, 12, 5)
    found = sparsify(w, Kronecker(A), 0.6)
    np.testing.assert_allclose(found, refit(w, damped(A[0]), found != 0), atol=1e-4)


def test_tiny_problems_agree_with_all_there_are():
    equal, ratio = 0, []
    for seed in range(25):
        w, A = problem(seed, 4, 2)
        H = damped(A[0])
        best = quadratic(w - best_sparse(w, H, 4), H)
        found = quadratic(w - sparsify(w, Kronecker(A), 0.5), H)
        assert found >= best * (1 - 1e-9)
        equal += found < best * 1.001
        ratio.append(found / best)
    assert equal >= 15 and np.median(ratio) < 1.001


def test_it_is_as_good_as_one_weight_at_a_time():
    ratio = []
    for seed in range(8):
        w, A = problem(seed, 16, 4)
        H = damped(A[0])
        one_by_one = quadratic(w - brain_surgeon(w, H, 48), H)
        ratio.append(quadratic(w - sparsify(w, Kronecker(A), 0.75), H) / one_by_one)
    assert np.mean(ratio) < 1.05


def test_blocks_groups_and_the_share_over_the_whole_kernel():
    w, A = problem(1, 10, 3, groups=2)
    found = sparsify(w.reshape(5, 2, 6), Kronecker(A), 0.5)
    assert found.shape == (5, 2, 6) and np.mean(found == 0) == 0.5
    w, A = problem(2, 10, 3)
    blocks = Kronecker([A[0][:6, :6], A[0][6:, 6:]])
    found = sparsify(w.astype("float32"), blocks, 0.8)
    assert found.dtype == np.float32 and np.sum(found == 0) == 24
    np.testing.assert_allclose(
        found[:6], refit(w[:6], damped(A[0][:6, :6]), found[:6] != 0), atol=1e-4
    )


def test_shares_add_up_and_spare_what_matters():
    kernels, metrics = [], []
    for seed, used in ((0, 16), (1, 2)):  # the second kernel reads two inputs only
        w, A = problem(seed, 16, 6)
        A[0, used:], A[0, :, used:] = 0, 0
        kernels.append(w)
        metrics.append(Kronecker(A))
    found = shares(kernels, metrics, 0.7)
    assert np.mean(found) == pytest.approx(0.7, abs=0.01)
    assert found[1] > 0.85 > found[0]


def image_net():
    inputs = keras.Input((8, 8, 2))
    h = layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    block = keras.Sequential(
        [
            keras.Input((6, 6, 6)),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(8, 1, groups=2, activation="relu", name="grouped"),
        ],
        name="block",
    )
    h = layers.Flatten()(layers.BatchNormalization(name="norm")(block(h)))
    return keras.Model(inputs, layers.Dense(5, name="out")(h))


X = RNG.normal(size=(60, 8, 8, 2)).astype("float32")


def kernels_of(model):
    block = model.get_layer("block")
    found = [model.get_layer("conv"), *block.layers, model.get_layer("out")]
    return {layer.name: np.asarray(layer.kernel) for layer in found}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("method", ["magnitude", "obs", "obd", "random"])
def test_each_score_reaches_the_sparsity_and_leaves_the_model_alone(method, scope):
    model = image_net()
    model.compile("sgd", "mse")
    before = model.get_weights()
    data = None if method == "magnitude" else X
    new = prune(model, 0.6, data, score=method, scope=scope)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    zeros = {name: np.mean(w == 0) for name, w in kernels_of(new).items()}
    sizes = [w.size for w in kernels_of(new).values()]
    if scope == "layer":
        assert all(abs(share - 0.6) < 0.02 for share in zeros.values())
    assert np.average(list(zeros.values()), weights=sizes) == pytest.approx(0.6, abs=0.01)
    assert [w.name for w in new.weights] == [w.name for w in model.weights]


def change(model, new):
    return float(np.mean((np.asarray(model(X)) - np.asarray(new(X))) ** 2))


def test_the_surgeon_keeps_the_outputs_best():
    model = image_net()
    found = {how: change(model, prune(model, 0.5, X, score=how)) for how in ("obs", "random")}
    found["magnitude"] = change(model, prune(model, 0.5))
    assert found["obs"] < 0.5 * found["magnitude"] < found["random"]


def test_a_layer_is_fitted_to_what_it_gets_in_the_pruned_model():
    rng = np.random.default_rng(0)
    inputs = keras.Input((20,))
    h = layers.Dense(12, activation="relu", name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="b")(h))
    x = rng.normal(size=(200, 20)).astype("float32") @ rng.normal(size=(20, 20)).astype("float32")
    new = prune(model, 0.6, x, score="obs")
    hidden = np.asarray(model.get_layer("a")(x))
    alone = sparsify(
        np.asarray(model.get_layer("b").kernel), measure(model.get_layer("b"), hidden), 0.6
    )
    naive = keras.models.clone_model(model)
    naive.set_weights(new.get_weights())
    naive.get_layer("b").kernel.assign(alone)
    wanted = np.asarray(model(x))
    errors = [np.mean((np.asarray(m(x)) - wanted) ** 2) for m in (new, naive)]
    assert errors[0] < errors[1]


def test_callables_patterns_and_chosen_layers():
    model = image_net()
    new = prune(model, 0.5, score=score.m_by_n("magnitude", 2, 4), layers=["out", "block/grouped"])
    found = kernels_of(new)
    assert (found["conv"] != 0).all() and (found["depthwise"] != 0).all()
    assert np.mean(found["out"] == 0) == 0.5
    rows = (found["out"] != 0).reshape(-1, 4, 5).sum(1)
    assert (rows == 2).all()


def test_same_data_same_zeros():
    model = image_net()
    first, second = (prune(model, 0.7, X, score="obs", scope="global") for _ in range(2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_input():
    model = image_net()
    thin = LowRankDense(3, rank=1, name="thin")
    low_rank = keras.Sequential([keras.Input(X.shape[2:]), thin])
    for call, message in (
        (lambda: prune(model, 1.0), r"\[0, 1\)"),
        (lambda: prune(model, 0.5, scope="all"), "'all'"),
        (lambda: prune(model, 0.5, score="obs"), "needs `data`"),
        (lambda: prune(model, 0.5, score="obd"), "give `data`"),
        (lambda: prune(model, 0.5, X, score="obd"), "not compiled"),
        (lambda: prune(model, 0.5, score="size"), "'size'"),
        (lambda: prune(model, 0.5, layers="fc"), "matches no layer"),
        (lambda: prune(model, 0.5, iter([X]), score="obs"), "only once"),
        (lambda: prune(low_rank, 0.5, X[:, 0], score="obs"), r"\['thin/u', 'thin/v'\]"),
        (lambda: sparsify(np.ones((2, 2)), None, 0.5), "Kronecker"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="number"):
        prune(model, "half")


@pytest.mark.parametrize("sparsity", [0.99, 0.999])
def test_each_kernel_keeps_a_weight_by_surgery_too(sparsity):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    parts = [keras.layers.Dense(64, "relu"), keras.layers.Dense(1), keras.layers.Dense(5)]
    model = keras.Sequential([keras.Input((16,)), *parts])
    small = prune(model, sparsity, x, score="obs", scope="global")
    assert all(np.count_nonzero(layer.kernel.numpy()) for layer in small.layers)
