"""Every verb on every family of models: it works, or says which layer it cannot take and why."""

import functools
import random

import keras
import models_of_all_kinds as kinds
import numpy as np
import pytest
from keras import layers
from model_families import FAMILIES

import tfcompress as tfc

KERNELS = (
    *(layers.Dense, layers.EinsumDense, layers.Embedding),
    *(layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
    *(layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell),
)
PARTS = ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel")
PACKAGES = ("families>", "kinds>", "keras_hub>")


@functools.cache
def made(name):
    """A model of a family with inputs and targets of twenty examples."""
    keras.utils.set_random_seed(0)
    if name in FAMILIES:
        model, x = FAMILIES[name]()
    else:
        model, x = kinds.HUB[name](pytest.importorskip("keras_hub").models)
    y = keras.tree.map_structure(lambda a: np.float32(0.9) * to_array(a) + 0.1, model(x))
    return model, x, y


@functools.cache
def swapped(name):
    return tfc.swap(made(name)[0], tfc.layers.rounding(8))


def to_array(x):
    return keras.ops.convert_to_numpy(x)


def arrays(tree):
    return [to_array(x) for x in keras.tree.flatten(tree)]


def twenty(tree):
    return keras.tree.map_structure(lambda a: np.concatenate([a] * (20 // len(a))), tree)


def weights_in_kernels(model):
    """How many weights ordinary layers hold in kernels and tables, by path."""
    return {
        path: sum(v.shape.num_elements() for v in layer.trainable_variables if len(v.shape) > 1)
        for path, (layer, _) in tfc.walk(model).items()
        if isinstance(layer, KERNELS) and not type(layer).__module__.startswith("tfcompress")
    }


def same(model, other, x):
    return all(map(np.array_equal, arrays(model(x)), arrays(other(x))))


def names_its_parts(found, model):
    """Every Dense layer is there; the rest are layers, or kernels of cells and separable ones."""
    walked = tfc.walk(model)
    kernels = {f"{path}/{name}" for path in walked for name in PARTS}
    dense = {path for path, (layer, _) in walked.items() if type(layer) is layers.Dense}
    assert dense <= set(found) <= set(walked) | kernels


def zeros(variables):
    return sum((to_array(v) == 0).sum() for v in variables)


def swap(name, tmp_path):
    model, x, _ = made(name)
    small = swapped(name)
    assert isinstance(small, type(model)) and type(small).__name__ == type(model).__name__
    left = sum(weights_in_kernels(small).values())
    assert left <= 0.05 * sum(weights_in_kernels(model).values())
    for new, old in zip(arrays(small(x)), arrays(model(x)), strict=True):
        if old.dtype == bool:  # a mask
            assert np.array_equal(new, old)
        else:
            assert 0 < np.abs(new - old).max() < 0.1 * np.abs(old).max()


def swap_on_data(name, tmp_path):
    model, x, _ = made(name)
    small = tfc.swap(model, tfc.layers.rounding(4), data=x)
    left = sum(weights_in_kernels(small).values())
    assert left <= 0.05 * sum(weights_in_kernels(model).values())
    assert all(np.isfinite(a).all() for a in arrays(small(x)))


def prune(name, tmp_path):
    model, _, _ = made(name)
    new = tfc.prune(model, 0.5)
    for path, (layer, _) in tfc.walk(new).items():
        if type(layer) in (layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D):
            assert zeros([layer.kernel]) == round(0.5 * np.prod(layer.kernel.shape)), path


def prune_obs(name, tmp_path):
    model, x, _ = made(name)
    new = tfc.prune(model, 0.5, data=x, score="obs")
    pruned = [v for v in new.trainable_variables if v.name == "kernel"]
    assert zeros(pruned) > 0 and all(np.isfinite(v).all() for v in map(to_array, pruned))


def prune_in_fit(name, tmp_path):
    model, x, y = made(name)
    new = tfc.swap(model, {})
    none = {"metrics": [], "weighted_metrics": None}  # KerasHub's tasks bring some of both
    new.compile("sgd", "mse", jit_compile=False, **none)
    callback = tfc.callbacks.Prune(tfc.schedules.Constant(0.5), scope="layer", every=1)
    new.fit(x, y, batch_size=2, verbose=0, callbacks=[callback])
    dense = [layer for layer, _ in tfc.walk(new).values() if type(layer) is layers.Dense]
    assert all(zeros([d.kernel]) >= round(0.5 * np.prod(d.kernel.shape)) for d in dense)


def curvature(name, tmp_path):
    model, x, y = made(name)
    found = tfc.curvature.gauss_newton(model, (x, y), loss="mse")
    names_its_parts(found, model)
    assert all((d >= 0).all() and np.isfinite(d).all() for d in found.values())


def kronecker(name, tmp_path):
    model, x, _ = made(name)
    found = tfc.curvature.kronecker(model, x)
    names_its_parts(found, model)


def report(name, tmp_path):
    model, _, _ = made(name)
    found = tfc.report(swapped(name), baseline=model)
    dense = [p for p, (layer, _) in tfc.walk(model).items() if type(layer) is layers.Dense]
    assert set(dense) <= {row.path for row in found.rows}


def save(name, tmp_path):
    _, x, _ = made(name)
    small = swapped(name)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert isinstance(again, type(small)) and same(again, small, x)


def archive(name, tmp_path):
    _, x, _ = made(name)
    tfc.archive.save(swapped(name), tmp_path / "small.tfc")
    named = [n for n in keras.saving.get_custom_objects() if n.startswith(PACKAGES)]
    again = tfc.archive.load(tmp_path / "small.tfc", allow=named)
    for new, old in zip(arrays(again(x)), arrays(swapped(name)(x)), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


def export(name, tmp_path):
    _, x, _ = made(name)
    blob = tfc.to_tflite(swapped(name), check=x)  # which compares what the file computes
    assert blob[4:8] == b"TFL3"


def to_ordinary(name, tmp_path):
    _, x, _ = made(name)
    plain = tfc.to_ordinary(swapped(name))
    kept = [layer for layer, _ in tfc.walk(plain).values()]
    assert not any(isinstance(layer, tfc.layers.CompressedLayer) for layer in kept)
    for new, old in zip(arrays(plain(x)), arrays(swapped(name)(x)), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-3 * np.abs(old).max())


def sensitivity(name, tmp_path):
    model, x, y = made(name)
    makers = [tfc.layers.QuantizedDense.using(bits=4), tfc.layers.QuantizedConv1D.using(bits=4)]
    makers += [tfc.layers.QuantizedConv2D.using(bits=4)]
    makers += [tfc.layers.QuantizedEinsumDense.using(bits=4)]
    found = tfc.sensitivity(model, (x, y), candidates=makers, loss="mse")
    assert found.rows and all(np.isfinite(row.measured) for row in found.rows)


def plan(name, tmp_path):
    model, x, _ = made(name)
    four = {"4 bits": [m for m in tfc.layers.rounding(4).values() if m]}
    found = tfc.plan(model, twenty(x), budget=0.8, candidates=four)
    small = tfc.swap(model, found.rules)
    taken = [x for x, _ in tfc.walk(small).values() if isinstance(x, tfc.layers.CompressedLayer)]
    assert len(taken) == len(found.rules) and found.cost <= 0.8 * found.float_cost


def compress(name, tmp_path):
    model, x, y = made(name)
    data = twenty(x), twenty(y)
    found = tfc.compress(
        model, data, budget=0.95, fine_tune=0, metric=lambda new: 1.0, loss="mse", target="tflite"
    )
    assert isinstance(found.model, type(model)) and found.size == len(found.tflite)


def recalibrate(name, tmp_path):
    model, x, _ = made(name)
    new = tfc.swap(model, {})
    tfc.recalibrate_batch_norm(new, x)
    norms = [n for n, _ in tfc.walk(new).values() if type(n) is layers.BatchNormalization]
    assert all(to_array(norm.moving_mean).any() for norm in norms)


def distil(name, tmp_path):
    model, x, _ = made(name)
    student = tfc.swap(model, {})
    before = model.get_weights()
    squared = tfc.distill_losses.squared_error
    distiller = tfc.Distiller(student=student, teacher=model, soft_loss=squared)
    distiller.compile("adam", jit_compile=False)
    loss = distiller.fit(x, batch_size=2, verbose=0).history["loss"][0]
    assert np.isfinite(loss)
    assert all(map(np.array_equal, model.get_weights(), before))


VERBS = (
    *(swap, swap_on_data, prune, prune_obs, prune_in_fit, curvature, kronecker, report),
    *(save, archive, export, to_ordinary, sensitivity, plan, compress, recalibrate, distil),
)
VERBS = {verb.__name__: verb for verb in VERBS}
PAIRS = [(name, verb) for name in [*FAMILIES, *kinds.HUB] for verb in VERBS]
QUICK = ("swap", "save", "prune", "report", "to_ordinary", "kronecker")
FAST = {(name, verb) for name in ("own_step", "text_average") for verb in VERBS} - {
    ("own_step", "compress"),
    ("text_average", "compress"),
    ("text_average", "distil"),
}
FAST |= {("text_blocks", verb) for verb in QUICK}
SMALL = ("gpt2", "residual_blocks", "transformer", "dilated_convolutions", "bidirectional")
FAST |= set(random.Random(0).sample([(n, v) for n in SMALL for v in QUICK], 6))
ALL = [pytest.mark.slow, pytest.mark.matrix]


@pytest.mark.parametrize(
    ("name", "verb"),
    [pytest.param(*p, marks=[] if p in FAST else ALL, id="-".join(p)) for p in PAIRS],
)
def test_the_verb(name, verb, tmp_path):
    before = [to_array(w).copy() for w in made(name)[0].weights]
    VERBS[verb](name, tmp_path)
    if name != "segformer":  # KerasHub calls its normalization in training mode always
        assert all(map(np.array_equal, map(to_array, made(name)[0].weights), before))


def test_gpt2_generates_after_a_swap():
    model, x, _ = made("gpt2")
    prompt = {"token_ids": x["token_ids"], "padding_mask": np.tile([1] * 6 + [0] * 6, (2, 1))}
    small = swapped("gpt2")
    small.compile(sampler="greedy")
    tokens = small.generate(prompt, stop_token_ids=None)["token_ids"]
    assert tokens.shape == (2, 12)
    np.testing.assert_array_equal(tokens[:, :6], x["token_ids"][:, :6])
    assert model.generate_function is None
