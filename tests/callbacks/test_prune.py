import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import score
from tfcompress.callbacks import Prune
from tfcompress.layers import BinaryConv2D, HashedDense, LowRankDense
from tfcompress.measure import curvature
from tfcompress.pruning.masks import lowest, prunable, tighten
from tfcompress.rewriting.swap import swap
from tfcompress.schedules import Constant, Piecewise, Polynomial

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 5, 96)


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def net():
    block = keras.Sequential(
        [
            keras.Input((6, 6, 8)),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.Conv2D(8, 1, name="pointwise"),
        ],
        name="block",
    )
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            block,
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(16, activation="relu", name="fc"),
            keras.layers.Dense(5, name="out"),
        ]
    )


def dense():
    layers = keras.layers.Dense(16, activation="relu", name="fc"), keras.layers.Dense(5, name="out")
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), *layers])


def compiled(optimizer="adam", model=None, **kwargs):
    model = model or net()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(True), **kwargs)
    return model


def zeros(model, layers="*"):
    return {path: keras.ops.convert_to_numpy(v) == 0 for path, v in prunable(model, layers).items()}


def share(masks):
    return sum(m.sum() for m in masks.values()) / sum(m.size for m in masks.values())


class Watch(keras.callbacks.Callback):
    """Remembers the zeros as any callback sees them after a batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(zeros(self.model))

    def monotone(self):
        pairs = zip(self.seen, self.seen[1:], strict=False)
        return all((new[path] >= old[path]).all() for old, new in pairs for path in old)


def run(model, prune, **kwargs):
    watch = Watch()
    arguments = {"epochs": 2, "batch_size": 16, "verbose": 0} | kwargs
    history = model.fit(X, Y, callbacks=[prune, watch], **arguments)
    return watch, history


# Masks.


def slow_tighten(masks, scores, sparsity, floor):
    """Takes weight after weight, always the one with the lowest score that may go."""
    masks = {path: mask.copy() for path, mask in masks.items()}
    total = sum(mask.size for mask in masks.values())
    keep = {path: max(1, int(np.ceil(floor * mask.size - 1e-6))) for path, mask in masks.items()}
    while total - sum(mask.sum() for mask in masks.values()) < round(sparsity * total):
        best = None
        for path, mask in masks.items():
            for index in range(mask.size):
                free = mask[index] and mask.sum() > keep[path]
                if free and (best is None or scores[path][index] < scores[best[0]][best[1]]):
                    best = path, index
        if best is None:
            break
        masks[best[0]][best[1]] = False
    return masks


@given(
    scores=st.lists(st.integers(0, 4), min_size=4, max_size=12),
    cut=st.integers(1, 3),
    gone=st.sets(st.integers(0, 11)),
    sparsity=st.floats(0, 0.99),
    floor=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_tighten_is_the_greedy_one(scores, cut, gone, sparsity, floor):
    values = np.array(scores, float)
    mask = np.array([index not in gone for index in range(len(scores))])
    values = {"a": values[:cut], "b": values[cut:]}
    masks = {"a": mask[:cut], "b": mask[cut:]}
    got = tighten(masks, values, sparsity, "global", floor)
    expected = slow_tighten(masks, values, sparsity, floor)
    for path in masks:
        assert got[path].tolist() == expected[path].tolist()
        assert (got[path] <= masks[path]).all()


def test_lowest_breaks_ties_by_index():
    assert lowest(np.array([1.0, 0, 1, 1, 0]), 3).tolist() == [True, True, False, False, True]
    assert not lowest(np.ones(3), 0).any()
    assert lowest(np.ones(3), 3).all()


def test_scope_layer_prunes_each_kernel_alike():
    masks = {"a": np.ones((2, 5), bool), "b": np.ones(10, bool)}
    scores = {"a": np.arange(10.0).reshape(2, 5), "b": 100 + np.arange(10.0)}
    each = tighten(masks, scores, 0.3, scope="layer")
    assert [mask.sum() for mask in each.values()] == [7, 7]
    together = tighten(masks, scores, 0.3)
    assert [mask.sum() for mask in together.values()] == [4, 10]
    assert together["a"].tolist() == [[False] * 5, [False] + [True] * 4]


def test_prunable_leaves_biases_norms_and_frozen_layers_alone():
    model = net()
    assert list(prunable(model)) == ["conv", "block/depthwise", "block/pointwise", "fc", "out"]
    assert list(prunable(model, ["fc", "block/*"])) == ["block/depthwise", "block/pointwise", "fc"]
    assert list(prunable(model, "depthwise")) == ["block/depthwise"]
    model.get_layer("fc").trainable = False
    assert "fc" not in prunable(model)
    with pytest.raises(ValueError, match="'fc' cannot be pruned: it is frozen"):
        prunable(model, "fc")
    model.get_layer("conv").kernel.trainable = False
    assert list(prunable(model)) == ["block/depthwise", "block/pointwise", "out"]
    small = swap(model, {"out": LowRankDense.using(rank=2)})
    for part in small.get_layer("out").parts.values():
        part.trainable = False
    assert "out" not in " ".join(prunable(small))


def test_a_separable_convolution_has_two_kernels():
    layer = keras.layers.SeparableConv2D(4, 3, name="conv")
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    assert list(prunable(model)) == ["conv/depthwise_kernel", "conv/pointwise_kernel"]


def test_a_shared_kernel_is_listed_once_and_attention_has_its_parts():
    shared = keras.layers.Dense(4, name="shared")
    x = keras.Input((4, 4))
    attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
    y = attention(shared(shared(x)), x)
    model = keras.Model(x, y)
    assert list(prunable(model)) == [
        "shared",
        "attention/query",
        "attention/key",
        "attention/value",
        "attention/attention_output",
    ]
    assert list(prunable(model, "attention")) == list(prunable(model))[1:]


@pytest.mark.parametrize(
    "layers, error, message",
    [
        ("cnv", ValueError, "matches no layer.*'cnv'.*Near names: conv"),
        (["fc", "nothing/*"], ValueError, "matches no layer.*'nothing/"),
        ("norm", ValueError, "'norm' cannot be pruned: BatchNormalization has no kernel"),
        ("flat*", ValueError, "leaves nothing to prune"),
        ([], ValueError, "leaves nothing to prune"),
        (3, TypeError, "name, path or glob"),
        ([3], TypeError, "name, path or glob"),
    ],
)
def test_bad_layers(layers, error, message):
    with pytest.raises(error, match=message):
        prunable(net(), layers)


# The callback.


def test_magnitude_worked_by_hand():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False)])
    kernel = np.array([[1, -5], [0.5, 2], [-3, 0.25], [4, -0.5]], "float32")
    model.set_weights([kernel])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.ones((4, 4))
    model.fit(x, x[:, :2], callbacks=[Prune(Constant(0.5))], verbose=0)
    expected = [[0, -5], [0, 2], [-3, 0], [4, 0]]
    assert model.get_weights()[0].tolist() == expected


def optimizers():
    return {
        "momentum": keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        "adamw": keras.optimizers.AdamW(1e-2, weight_decay=0.1),
        "ema": keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9),
        "accumulation": keras.optimizers.Adam(1e-2, gradient_accumulation_steps=3),
    }


@pytest.mark.parametrize(
    "name, steps_per_execution",
    [("momentum", 1), ("adamw", 1), ("adamw", 4), ("ema", 4), ("accumulation", 4)],
)
def test_zeros_hold_at_every_batch_end(name, steps_per_execution):
    model = net() if name == "adamw" else dense()
    model = compiled(optimizers()[name], model, steps_per_execution=steps_per_execution)
    watch, history = run(model, Prune(Polynomial(0.2, 0.8, steps=10), every=2))
    shares = [share(masks) for masks in watch.seen]
    assert watch.monotone()
    assert shares[0] >= 0.2 - 1e-3
    assert shares[-1] == pytest.approx(0.8, abs=1e-3)
    assert share(zeros(model)) == pytest.approx(0.8, abs=1e-3)
    assert history.history["sparsity"][-1] == pytest.approx(0.8, abs=1e-3)
    assert np.all(model.get_layer("fc").get_weights()[1] != 0)


@pytest.mark.parametrize("kwargs", [{"jit_compile": True}, {"run_eagerly": True}])
def test_compiled_and_eager_steps(kwargs):
    model = compiled(**kwargs)
    watch, _ = run(model, Prune(Constant(0.5), every=3), epochs=1)
    assert watch.monotone()
    assert {round(share(masks), 2) for masks in watch.seen} == {0.5}


def test_mixed_precision_with_a_loss_scale():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(keras.optimizers.Adam(1e-2, use_ema=True))
    finally:
        keras.config.set_dtype_policy("float32")
    assert hasattr(model.optimizer, "inner_optimizer")
    watch, _ = run(model, Prune(Constant(0.5)), epochs=1)
    assert watch.monotone()
    assert share(zeros(model)) == pytest.approx(0.5, abs=1e-3)


def test_swapped_averages_are_pruned_when_validated():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            seen.append(share(zeros(self.model)))

    model = compiled(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9))
    callbacks = [Prune(Constant(0.7)), keras.callbacks.SwapEMAWeights(), Look()]
    model.fit(X, Y, validation_data=(X, Y), epochs=2, callbacks=callbacks, verbose=0)
    assert min(seen) == pytest.approx(0.7, abs=1e-3)
    assert share(zeros(model)) == pytest.approx(0.7, abs=1e-3)


def test_the_final_batch_reaches_the_target_before_validation_and_checkpoint(tmp_path):
    model = compiled()
    path = tmp_path / "{epoch}.keras"
    callbacks = [
        Prune(Polynomial(0.0, 0.9, steps=12), every=5),
        keras.callbacks.ModelCheckpoint(path),
    ]
    history = model.fit(X, Y, batch_size=16, epochs=2, callbacks=callbacks, verbose=0)
    saved = keras.models.load_model(tmp_path / "2.keras")
    assert share(zeros(saved)) == pytest.approx(0.9, abs=1e-3)
    assert history.history["sparsity"][1] == pytest.approx(0.9, abs=1e-3)


def test_unknown_number_of_steps():
    def batches():
        for start in range(0, 96, 16):
            yield X[start : start + 16], Y[start : start + 16]

    model = compiled()
    model.fit(batches(), callbacks=[Prune(Polynomial(0.0, 0.6, steps=6), every=4)], verbose=0)
    assert share(zeros(model)) == pytest.approx(0.6, abs=1e-3)


def test_a_resumed_fit_goes_on_with_the_same_masks(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    schedule = Polynomial(0.0, 0.8, steps=18)
    model = compiled()
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_callbacks = [Prune(schedule, every=3), backup, Stop()]
        model.fit(X, Y, batch_size=16, epochs=4, callbacks=run_callbacks, verbose=0)
    before = zeros(model)
    model, watch = compiled(), Watch()
    prune = Prune(schedule, every=3)
    history = model.fit(X, Y, batch_size=16, epochs=4, callbacks=[prune, backup, watch], verbose=0)
    assert len(history.history["sparsity"]) == 2
    assert share(before) == pytest.approx(schedule(12), abs=1e-3)
    assert all((watch.seen[0][path] >= mask).all() for path, mask in before.items())
    assert share(zeros(model)) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("score", ["magnitude", "obd", "random"])
@pytest.mark.parametrize("every, at_once", [(1, 1), (3, 1), (4, 1), (5, 2), (7, 4), (100, 1)])
def test_a_resumed_fit_is_equal_in_every_bit(tmp_path, score, every, at_once):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(*others):
        keras.utils.set_random_seed(0)
        model = compiled(model=dense(), steps_per_execution=at_once)
        data = (X[:16], Y[:16]) if score == "obd" else None
        prune = Prune(Polynomial(0.2, 0.8, steps=22), score, data, every=every)
        arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
        model.fit(X, Y, epochs=4, callbacks=[prune, *others], **arguments)
        return model

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(keras.callbacks.BackupAndRestore(tmp_path), Stop())
    resumed = run(keras.callbacks.BackupAndRestore(tmp_path))
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_second_fit_keeps_the_zeros_of_the_first():
    model = compiled()
    run(model, Prune(Constant(0.5), layers="fc"), epochs=1)
    first = zeros(model)
    run(model, Prune(Constant(0.25)), epochs=1)
    assert all((zeros(model)[path] >= mask).all() for path, mask in first.items())


def test_layers_scope_and_floor():
    model = compiled()
    run(model, Prune(Constant(0.5), layers=["fc", "out"], scope="layer"), epochs=1)
    found = zeros(model)
    assert [round(float(found[path].mean()), 2) for path in ("fc", "out", "conv")] == [0.5, 0.5, 0]
    model = compiled()
    run(model, Prune(Constant(0.85), floor=0.1), epochs=1)
    assert max(mask.mean() for mask in zeros(model).values()) <= 0.9


def test_weights_are_scored_only_when_the_target_rises():
    calls = []

    def counted(w, d):
        calls.append(w.shape)
        return abs(w)

    schedule = Piecewise({0: 0.333, 5: 0.777})  # shares that no count of weights gives exactly
    run(compiled(model=dense()), Prune(schedule, counted, layers="fc", every=1), epochs=2)
    assert len(calls) == 2


def test_each_layer_reaches_its_share_whatever_was_zero_before():
    model = compiled(model=dense())
    run(model, Prune(Constant(0.9), layers="fc"), epochs=1)
    run(model, Prune(Constant(0.5), scope="layer"), epochs=1)
    assert zeros(model)["out"].mean() == pytest.approx(0.5, abs=0.01)
    assert zeros(model)["fc"].mean() == pytest.approx(0.9, abs=0.01)


def test_a_callable_score_and_a_toolkit_schedule():
    model = compiled()
    shares = [0.25, 0.5]

    def schedule(step):  # acts at steps 1 and 4 only
        return step in (1, 4), shares[step > 1]

    def largest(w, d):
        return -abs(w)

    kernel = model.get_layer("fc").get_weights()[0]
    watch, _ = run(model, Prune(schedule, largest, layers="fc", every=1), epochs=1)
    shares = [round(share({"fc": masks["fc"]}), 2) for masks in watch.seen]
    assert shares == [0.25, 0.25, 0.25, 0.5, 0.5, 0.5]
    assert zeros(model, "fc")["fc"].ravel()[np.argmax(abs(kernel))]  # the largest went first


def test_it_runs_twice_alike():
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        model = compiled(model=dense())
        run(model, Prune(Piecewise({0: 0.5, 3: 0.8}), every=2), epochs=1)
        results.append([v.tobytes() for v in model.get_weights()])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"schedule": 0.5}, TypeError, "called on a step"),
        ({"score": "size"}, ValueError, "A score is one of.*'size'"),
        ({"score": "obd"}, ValueError, "needs `data`"),
        ({"score": "obd", "data": iter([X])}, ValueError, "generator can be used only once"),
        ({"scope": "model"}, ValueError, "scope"),
        ({"floor": 1.0}, ValueError, "`floor`"),
        ({"every": 0}, ValueError, "`every`"),
        ({"every": 1.5}, ValueError, "`every`"),
        ({"layers": 1}, TypeError, "`layers`"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Prune(**{"schedule": Constant(0.5)} | arguments)


@pytest.mark.parametrize(
    "prune, message",
    [
        (lambda: Prune(Constant(1.0)), "lies in \\[0, 1\\)"),
        (lambda: Prune(Constant(-0.1)), "lies in"),
        (lambda: Prune(Polynomial(0.8, 0.2, steps=5)), "falls from 0.8"),
        (lambda: Prune(Piecewise({0: 0.5, 9: 0.4})), "falls from 0.5 to 0.4 at step 9"),
        (lambda: Prune(Constant(0.95), floor=0.1), "allows 0.9"),
        (lambda: Prune(Constant(0.5), layers="norm"), "'norm' cannot be pruned"),
        (lambda: Prune(Constant(0.5), layers="cnv"), "Near names: conv"),
        (lambda: Prune(Constant(0.5), lambda w, d: w[0]), "must have the shape"),
        (lambda: Prune(Constant(0.5), lambda w, d: w * np.nan), "holds NaN"),
    ],
)
def test_bad_runs_leave_the_weights_alone(prune, message):
    model = compiled()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        run(model, prune())
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_kernel_of_zeros_is_refused():
    layers = [keras.Input((4,)), keras.layers.Dense(2, kernel_initializer="zeros", name="zero")]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="'zero' is all zeros"):
        model.fit(X[:, 0, 0, :1].repeat(4, 1), X[:, 0, 0, :2], callbacks=[Prune(Constant(0.5))])


# Curvature and patterns.


def test_obd_takes_the_curvature_of_the_data_anew_at_each_scoring(monkeypatch):
    calls = []
    measured = curvature.gauss_newton

    def spy(model, data, **others):
        calls.append(share(zeros(model)))
        return measured(model, data, **others)

    monkeypatch.setattr(curvature, "gauss_newton", spy)
    model = compiled()
    run(model, Prune(Piecewise({0: 0.5, 6: 0.8}), "obd", data=(X, Y), every=3))
    assert [round(value, 2) for value in calls] == [0, 0.5]
    assert share(zeros(model)) == pytest.approx(0.8, abs=1e-3)


def test_obd_removes_what_the_data_says_matters_least():
    model = compiled(keras.optimizers.SGD(0.0))
    weights = {path: keras.ops.convert_to_numpy(v) for path, v in prunable(model).items()}
    d = curvature.gauss_newton(model, (X, Y))
    saliency = np.concatenate([(d[path] * w**2).ravel() for path, w in weights.items()])
    run(model, Prune(Constant(0.6), "obd", data=(X, Y)), epochs=1)
    gone = np.concatenate([mask.ravel() for mask in zeros(model).values()])
    assert gone.mean() == pytest.approx(0.6, abs=1e-3)
    assert saliency[gone].max() <= saliency[~gone].min()
    magnitude = np.concatenate([abs(w).ravel() for w in weights.values()])
    assert magnitude[gone].max() > magnitude[~gone].min()  # another choice than by magnitude


def test_patterns():
    model = compiled()
    run(model, Prune(Constant(0.5), score.m_by_n("magnitude", 2, 4), layers="fc"), epochs=1)
    kernel = zeros(model)["fc"]
    assert (kernel.reshape(-1, 4, kernel.shape[1]).sum(axis=1) == 2).all()
    model = compiled()
    prune = Prune(Constant(0.5), score.block("obd", (1, 8)), data=(X, Y), layers="fc")
    run(model, prune, epochs=1)
    blocks = zeros(model)["fc"].reshape(-1, 8).mean(axis=1)
    assert ((blocks == 0) | (blocks == 1)).sum() >= len(blocks) - 1


def test_factors_and_banks_of_compressed_layers_are_pruned():
    rules = {"fc": LowRankDense.using(rank=4), "out": HashedDense.using(ratio=2)}
    model = compiled(model=swap(net(), rules | {"conv": BinaryConv2D.using()}))
    assert "conv" not in prunable(model)
    with pytest.raises(ValueError, match="'conv' cannot be pruned: BinaryConv2D stores nothing"):
        prunable(model, "conv")
    watch, _ = run(model, Prune(Constant(0.5), layers=["fc", "out"], scope="layer"), epochs=1)
    parts = [path for path in watch.seen[-1] if path.startswith(("fc", "out"))]
    assert len(parts) == 3
    assert all(watch.seen[-1][path].mean() == pytest.approx(0.5, abs=0.02) for path in parts)
    with pytest.raises(ValueError, match=r"No curvature is known of .'fc/"):
        run(compiled(model=model), Prune(Constant(0.9), "obd", data=(X, Y), layers=["fc", "out"]))


def test_bad_data_of_the_curvature():
    with pytest.raises(ValueError, match="needs the curvature"):
        run(compiled(), Prune(Constant(0.5), score.block("obd", (1, 8))))
    with pytest.raises(ValueError, match="hold NaN"):
        run(compiled(), Prune(Constant(0.5), "obd", data=(X * np.nan, Y)))


OTHER_RUN = """
    import json, keras
    from test_prune import X, Y, compiled, dense, optimizers, run, share, zeros
    from tfcompress.callbacks import Prune
    from tfcompress.schedules import Polynomial

    found = {}
    at_once = 4 if keras.backend.backend() == "jax" else 1  # torch takes no more
    for name, steps in (("adamw", 1), ("ema", at_once)):
        keras.utils.set_random_seed(0)
        model = compiled(optimizers()[name], dense(), steps_per_execution=steps)
        prune = Prune(Polynomial(0.2, 0.8, steps=10), every=2)
        watch, history = run(model, prune, validation_data=(X, Y))
        found[name] = [
            keras.backend.backend(),
            watch.monotone(),
            round(share(watch.seen[-1]), 2),
            round(share(zeros(model)), 2),
            round(history.history["sparsity"][-1], 2),
            bool(history.history["loss"][1] < history.history["loss"][0]),
        ]
    print(json.dumps(found))
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on_other_backends(backend):
    pytest.importorskip(backend)
    env = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    env["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), env["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OTHER_RUN)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 2
    assert all(row == [backend, True, 0.8, 0.8, 0.8, True] for row in found.values()), found


class SetTrainable(keras.callbacks.Callback):
    def __init__(self, trainable):
        super().__init__()
        self.trainable = trainable

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.layers[0].trainable = self.trainable


@pytest.mark.parametrize("at_first", [True, False])
def test_what_another_callback_freezes_or_frees_changes_nothing(at_first):
    fc = keras.layers.Dense(32, name="fc", trainable=at_first)
    model = keras.Sequential([keras.Input((16,)), fc, keras.layers.Dense(4, name="out")])
    model.compile("adam", "mse")
    callbacks = [Prune(lambda step: 0.5, every=1), SetTrainable(not at_first)]
    x = RNG.normal(size=(64, 16))
    history = model.fit(x, x[:, :4], epochs=3, verbose=0, callbacks=callbacks).history
    kernels = [model.get_layer(name).kernel.numpy() for name in ["fc", "out"][not at_first :]]
    zeros = sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
    assert history["sparsity"] == [0.5, 0.5, 0.5] and zeros == 0.5
