import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.layers.discrete.binary import Clip
from tfcompress.optimizers import ProxNewton
from tfcompress.project import Binary, Codebook, KSparse, Linear, Log, Projection, Ternary

PROJECTS = [Binary(), Ternary(None), Linear(3), Log(3), Codebook(8), KSparse(0.5)]
CHOSEN = (
    "on_the_latents_then and (Ternary or KSparse) or initial_weights and False or accumulated"
    " or decay or constraints or overflows or frozen or sync or reload and Ternary or by_hand"
    " or each_output and Ternary or single_filter"
)
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
x = np.random.default_rng(0).standard_normal((64, 6)).astype("float32")
y = (x @ np.random.default_rng(1).standard_normal((6, 2))).astype("float32")


def net():
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu", name="a"), layers.Dense(2, name="b")]
    )


def compiled(project=None, rate=0.01, model=None, jit_compile="auto", **options):
    model = model or net()
    optimizer = ProxNewton(rate, project or Ternary(), **options)
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def fit(model, epochs=1, **options):
    return model.fit(
        x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options
    ).history


def kernels(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights if v.path.endswith("kernel")]


def latents(optimizer):
    return [keras.ops.convert_to_numpy(v) for v in optimizer.latents]


def count(kernel):
    """The most levels that an output channel has."""
    rows = kernel.reshape(-1, kernel.shape[-1])
    return max(len(np.unique(column)) for column in rows.T)


class AfterEachBatch(keras.callbacks.Callback):
    def __init__(self, look):
        super().__init__()
        self.look, self.seen = look, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.look(self.model))


def tensor(array):
    return keras.ops.convert_to_tensor(array, "float32")


@pytest.mark.parametrize("project", PROJECTS, ids=repr)
def test_a_step_is_adam_on_the_latents_then_the_projection(project):
    """Against a plain loop: gradient at the projected weights, Adam in NumPy on the latents."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, use_bias=False)])
    w, m, v = model.get_weights()[0].astype("float64"), 0, 0
    compiled(project, 0.05, model)
    keeps = isinstance(project, Projection)
    latent, d = tensor(w), tensor(np.ones(w.shape))
    levels = project.fit(latent, d) if keeps else None
    value = np.asarray(project.nearest(latent, levels) if keeps else project(w))
    for step in range(1, 9):
        batch = slice(16 * ((step - 1) % 4), 16 * ((step - 1) % 4) + 16)
        gradient = 2 * x[batch].T @ (x[batch] @ value - y[batch]) / y[batch].size
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.05 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        w = w - rate * m / (np.sqrt(v) + 1e-7)
        latent, d = tensor(w), tensor(np.sqrt(v) + 1e-7)
        if keeps:
            levels = project.refine(latent, d, levels)
        value = np.asarray(project.nearest(latent, levels) if keeps else project(latent, d))
        model.train_on_batch(x[batch], y[batch])
        assert np.allclose(latents(model.optimizer)[0], w, atol=1e-5)
        assert np.allclose(kernels(model)[0], value, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_latents_are_the_initial_weights(jit_compile):
    model = compiled(rate=0.0, jit_compile=jit_compile)
    before = kernels(model)
    fit(model)
    for kernel, latent, start in zip(kernels(model), latents(model.optimizer), before, strict=True):
        assert np.array_equal(latent, start)
        assert count(kernel) == 3 and not np.array_equal(kernel, start)


@pytest.mark.parametrize(
    "project, jit_compile",
    [*((project, False) for project in PROJECTS), (Ternary(), True), (Codebook(8), True)],
    ids=repr,
)
def test_the_variables_always_hold_the_projection(project, jit_compile):
    model = compiled(project, jit_compile=jit_compile)
    most = {Binary: 2, Ternary: 3, Linear: 7, Log: 7, Codebook: 8}.get(type(project), 99)
    look = AfterEachBatch(lambda model: [count(k) for k in kernels(model)])
    losses = fit(model, 3, callbacks=[look])["loss"]
    assert losses[-1] < losses[0]
    assert np.max(look.seen) <= most
    if isinstance(project, KSparse):
        assert all(np.mean(k == 0) >= 0.5 for k in kernels(model))


def outputs(layer, kernel):
    """A kernel as a matrix with a column for each output of its layer."""
    if isinstance(layer, layers.EinsumDense):  # i o p
        return kernel.reshape(len(kernel), -1)
    if isinstance(layer, layers.Conv2DTranspose):  # h w o i
        return np.moveaxis(kernel, -2, -1).reshape(-1, kernel.shape[-2])
    return kernel.reshape(np.prod(kernel.shape[:-2]), -1)  # h w c m


@pytest.mark.parametrize("project", [Binary(), Ternary(), Linear(3), Codebook(4)], ids=repr)
@pytest.mark.parametrize(
    "layer, shape",
    [
        (layers.DepthwiseConv2D(3, name="d"), (8, 8, 6)),
        (layers.DepthwiseConv1D(5, depth_multiplier=2), (8, 4)),
        (layers.SeparableConv2D(4, 3, use_bias=False), (8, 8, 6)),
        (layers.Conv2DTranspose(5, 3), (6, 6, 3)),
        (layers.EinsumDense("abc,cde->abde", (6, 2, 3)), (6, 7)),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_each_output_has_a_scale_of_its_own(layer, shape, project):
    """Wherever the outputs lie in the kernel: as if it had them along its last axis."""
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([keras.Input(shape), layer, layers.Flatten(), layers.Dense(2)])
    inputs = np.random.default_rng(0).standard_normal((16, *shape)).astype("float32")
    model.compile(ProxNewton(1e-3, project, variables=f"*{layer.name}/*kernel"), "mse")
    model.fit(inputs, np.ones((16, 2)), epochs=2, verbose=0)
    kernel = keras.ops.convert_to_numpy(layer.weights[0])
    latent = outputs(layer, latents(model.optimizer)[0])
    levels = keras.ops.convert_to_numpy(model.optimizer._levels[0])
    expected = project.nearest(latent, levels)
    np.testing.assert_allclose(
        outputs(layer, kernel), keras.ops.convert_to_numpy(expected), rtol=1e-6
    )
    if project.axis == -1:
        assert levels.shape == (1, latent.shape[1])
        scales = np.abs(outputs(layer, kernel)).max(0)
        assert len(np.unique(scales)) == latent.shape[1]


def test_each_output_has_a_share_of_its_own():
    """Of a transposed convolution, whose outputs are not along the last axis."""
    layer = layers.Conv2DTranspose(5, 3)
    model = keras.Sequential([keras.Input((6, 6, 4)), layer])
    optimizer = ProxNewton(1e-3, KSparse(0.25, axis=-1))
    optimizer.build(model.trainable_variables)
    kernel = outputs(layer, keras.ops.convert_to_numpy(layer.kernel))
    assert np.count_nonzero(kernel, axis=0).tolist() == [9] * 5


def test_a_single_filter_has_a_single_scale():
    model = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(1, 3), layers.Flatten()])
    model.compile(ProxNewton(1e-3, Binary()), "mse")
    model.fit(np.ones((4, 8, 8, 4)), np.ones((4, 36)), verbose=0)
    assert len(np.unique(np.abs(kernels(model)[0]))) == 1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_model_that_fit_builds(jit_compile):
    """It learns as one that was built before."""
    found = []
    for start in ([keras.Input((6,))], []):
        keras.utils.set_random_seed(0)
        stack = [*start, layers.Dense(8, "relu", name="a"), layers.Dense(2, name="b")]
        model = compiled(model=keras.Sequential(stack), jit_compile=jit_compile)
        losses = fit(model, 3)["loss"]
        found.append((losses, *kernels(model), *latents(model.optimizer)))
    for built, unbuilt in zip(*found, strict=True):
        np.testing.assert_array_equal(built, unbuilt)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="others build it before the first batch")
def test_in_eager_mode_no_gradient_is_taken_at_the_float_weights():
    graph, early, late = compiled(), compiled(), compiled()
    for model in (early, late):
        model.set_weights(graph.get_weights())
        model.compile(model.optimizer, "mse", run_eagerly=True)
    early.optimizer.build(early.trainable_variables)
    start = latents(early.optimizer)
    batch = x[:16], y[:16]
    with pytest.warns(UserWarning, match="leaves out its first gradient"):
        late.train_on_batch(*batch)
    for latent, before in zip(latents(late.optimizer), start, strict=True):
        np.testing.assert_array_equal(latent, before)
    for model in (graph, early, late):
        model.train_on_batch(*batch)
    states = [latents(model.optimizer) + model.get_weights() for model in (graph, early, late)]
    for expected, *others in zip(*states, strict=True):
        for other in others:
            np.testing.assert_allclose(other, expected, atol=1e-6)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="others build it before the first batch")
@pytest.mark.parametrize("overflow", [False, True])
def test_in_eager_mode_under_mixed_float16(overflow):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        early, late = compiled(rate=0.05), compiled(rate=0.05)
    finally:
        keras.config.set_dtype_policy("float32")
    late.set_weights(early.get_weights())
    for model in (early, late):
        model.compile(model.optimizer, "mse", run_eagerly=True)
    early.optimizer.build(early.trainable_variables)
    if overflow:  # which Keras leaves out itself
        late.train_on_batch(x, 1e6 * y)
        early.train_on_batch(x, 1e6 * y)
    else:
        with pytest.warns(UserWarning, match="leaves out its first gradient"):
            late.train_on_batch(x, y)
    for model in (early, late):
        model.train_on_batch(x, y)
    inner = [model.optimizer.inner_optimizer for model in (early, late)]
    for a, b in zip(*map(latents, inner), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [int(one.iterations) for one in inner] == [1, 1]


def test_the_first_gradient_is_taken_at_the_projection():
    model = compiled(Ternary(None), 0.0, weighted=False)
    logs = model.train_on_batch(x, y)
    assert logs == pytest.approx(model.test_on_batch(x, y), rel=1e-5)


def test_unweighted_is_the_plain_projection():
    model = compiled(Binary(), 0.05, weighted=False)
    fit(model, 2)
    for kernel, latent in zip(kernels(model), latents(model.optimizer), strict=True):
        assert np.allclose(kernel, Binary()(latent))
        assert np.allclose(np.abs(kernel), np.abs(latent).mean(0))


def test_accumulated_gradients_project_at_the_end_of_a_window():
    one, many = compiled(Linear(3)), compiled(Linear(3), gradient_accumulation_steps=4)
    one(x), many(x)
    many.set_weights(one.get_weights())
    look = AfterEachBatch(lambda model: np.concatenate([k.ravel() for k in kernels(model)]))
    one.fit(x, y, batch_size=64, epochs=2, shuffle=False, verbose=0)
    fit(many, 2, callbacks=[look])
    first, last = look.seen[:4], look.seen[4:]
    for window in (first[:3], [first[3], *last[:3]]):
        assert all(np.array_equal(value, window[0]) for value in window)
    assert not np.array_equal(first[2], first[3])
    for a, b in zip(latents(one.optimizer), latents(many.optimizer), strict=True):
        assert np.allclose(a, b, atol=1e-5)
    assert max(map(count, kernels(many))) <= 7


def test_weight_decay_acts_on_the_latents():
    model = compiled(rate=0.1, weight_decay=0.5, beta_1=0.0, epsilon=1e6)  # hardly a gradient step
    model.optimizer.exclude_from_weight_decay(var_names=["bias"])
    before = kernels(model)
    fit(model)  # 4 steps
    for latent, start in zip(latents(model.optimizer), before, strict=True):
        assert np.allclose(latent, start * 0.95**4, atol=1e-5)


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_gradients_are_clipped(clip):
    model, plain = compiled(**{clip: 1e-9}), compiled()
    for one in (model, plain):
        one.before = kernels(one)
        one.train_on_batch(x, y)
    moved = [
        max(np.abs(a - b).max() for a, b in zip(latents(m.optimizer), m.before, strict=True))
        for m in (model, plain)
    ]
    assert moved[0] < 0.02 * moved[1]  # Adam's epsilon outweighs such gradients


def test_constraints_act_on_the_latents():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, kernel_constraint=Clip(0.1))])
    compiled(Binary(), 0.05, model)
    fit(model, 3)
    assert np.abs(latents(model.optimizer)[0]).max() <= np.float32(0.1)
    assert count(kernels(model)[0]) == 2


def test_schedules_and_reduce_on_plateau():
    halves = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    model = compiled(rate=halves)
    fit(model)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 / 16)
    model = compiled(rate=0.1)
    reduce = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    fit(model, 3, callbacks=[reduce])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.025)
    assert max(map(count, kernels(model))) == 3


def test_mixed_float16_skips_a_step_that_overflows():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = net()
    finally:
        keras.config.set_dtype_policy("float32")
    before = kernels(model)
    compiled(rate=0.05, model=model)
    huge = (1e6 * y).astype("float32")
    model.train_on_batch(x, huge)
    inner = model.optimizer.inner_optimizer
    assert isinstance(inner, ProxNewton)
    assert all(np.array_equal(a, b) for a, b in zip(latents(inner), before, strict=True))
    assert max(map(count, kernels(model))) == 3
    losses = fit(model, 15)["loss"]
    assert losses[-1] < losses[0]
    assert max(map(count, kernels(model))) == 3
    assert not np.array_equal(latents(inner)[0], before[0])


def test_frozen_and_shared_layers_and_chosen_variables():
    shared, frozen = layers.Dense(6, name="shared"), layers.Dense(6, name="frozen")
    inputs = keras.Input((6,))
    block = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="inner")], name="block")
    outputs = layers.Dense(2, name="out")(block(frozen(shared(shared(inputs)))))
    model = keras.Model(inputs, outputs)
    frozen.trainable = False
    before = keras.ops.convert_to_numpy(frozen.kernel)
    compiled(model=model, variables=["shared/*kernel", "*inner/kernel"])
    fit(model)
    optimizer = model.optimizer
    assert len(optimizer.latents) == 2
    assert count(np.asarray(shared.kernel)) == count(np.asarray(block.layers[0].kernel)) == 3
    assert np.array_equal(np.asarray(frozen.kernel), before)
    assert count(np.asarray(model.get_layer("out").kernel)) == 6


@pytest.mark.parametrize("project", [Ternary(), KSparse(0.5)], ids=repr)
@pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras' step on JAX takes all variables, or none")
def test_a_layer_that_is_frozen_after_a_fit_stands_still(project):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.Dense(2)])
    model.compile(ProxNewton(0.1, project), "mse")
    x = np.random.default_rng(0).standard_normal((16, 4))
    model.fit(x, x[:, :2], epochs=2, verbose=0)
    model.layers[0].trainable = False
    model.make_train_function(force=True)
    before = model.get_weights()
    model.fit(x, x[:, :2], epochs=2, verbose=0)
    same = [np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("pattern", ["b/kernel", "*b/kernel", ["b/*"], "*/b/kernel"])
def test_a_pattern_matches_the_end_of_a_path(pattern):
    model = compiled(model=keras.Sequential([net()]), variables=pattern)
    model.optimizer.build(model.trainable_variables)
    assert [w.shape[-1] for w in model.optimizer.latents][:1] == [2]


def test_sync_takes_weights_that_were_set_from_outside():
    model = compiled(rate=0.0)
    fit(model)
    other = net().get_weights()
    model.set_weights(other)
    model.optimizer.sync(model)
    assert max(map(count, kernels(model))) == 3
    fit(model)
    for latent, start in zip(latents(model.optimizer), [other[0], other[2]], strict=True):
        assert np.array_equal(latent, start)
    assert max(map(count, kernels(model))) == 3
    with pytest.raises(ValueError, match="another model"):
        model.optimizer.sync(net())
    fresh = ProxNewton(0.1, Ternary())
    fresh.sync(net())  # not built: nothing to do
    assert fresh.latents == []


@pytest.mark.parametrize("project", [Ternary(), Linear(4), Codebook(8), KSparse(0.5)], ids=repr)
def test_training_goes_on_bit_for_bit_after_a_reload(project, tmp_path):
    model = compiled(project, 0.02, weight_decay=0.01)
    fit(model, 2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(a, b)
    for one in (model, again):
        fit(one, 2)
    assert again.optimizer.get_config() == model.optimizer.get_config()
    states = [one.get_weights() + latents(one.optimizer) for one in (model, again)]
    for a, b in zip(*states, strict=True):
        assert np.array_equal(a, b)


def test_a_model_saved_before_its_first_step(tmp_path):
    model = compiled(rate=0.0)
    before = kernels(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    fit(again)
    assert all(np.array_equal(a, b) for a, b in zip(latents(again.optimizer), before, strict=True))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="export needs TensorFlow")
@pytest.mark.parametrize(
    "project, encoding", [(Binary(), "INT2"), (Ternary(None), "INT2"), (Linear(4), "INT4")]
)
def test_levels_are_in_the_tflite_file(project, encoding):
    from tfcompress.tflite.stored_tensors import stored_tensors

    image = keras.Input((12, 12, 1))
    z = layers.BatchNormalization()(layers.Conv2D(8, 3, name="conv")(image))
    z = layers.Dense(64, "relu", name="fc")(layers.Flatten()(layers.ReLU()(z)))
    model = keras.Model(image, layers.Dense(10, name="out")(z))
    pixels = np.random.default_rng(0).random((64, 12, 12, 1)).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(ProxNewton(0.01, project), loss)
    model.fit(pixels, np.arange(64) % 4, epochs=2, verbose=0)
    blob = tfc.to_tflite(model, check=pixels[:8])
    found = {row.layer: row.encoding for row in stored_tensors(blob)}
    assert found["fc/kernel"] == found["out/kernel"] == encoding


def test_pruning_is_refused():
    model = compiled()
    prune = tfc.callbacks.Prune(tfc.schedules.Constant(0.5))
    with pytest.raises(ValueError, match="ProxNewton"):
        fit(model, callbacks=[prune])


def test_bad_arguments():
    with pytest.raises(ValueError, match="use_ema"):
        ProxNewton(0.1, Binary(), use_ema=True)
    with pytest.raises(TypeError, match="Received: project='binary'"):
        ProxNewton(0.1, "binary")
    with pytest.raises(TypeError, match=r"tfc.project.Ternary\(\)"):
        ProxNewton(0.1, Binary)
    with pytest.raises(TypeError, match="globs"):
        ProxNewton(0.1, Binary(), variables=[net])
    model = compiled(variables="*gamma")
    for _ in range(2):  # not built by halves
        with pytest.raises(ValueError, match="a/kernel"):
            fit(model)


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="this is the process on another backend")
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_some_of_this_on_other_backends(backend):
    pytest.importorskip(backend)
    here = pathlib.Path(__file__)
    files = [str(here), str(here.parent / "project" / "test_project.py")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", *files, "-k", CHOSEN],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
