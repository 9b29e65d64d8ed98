import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tfcompress.project import Binary, Codebook, KSparse, Linear, Log, Projection, Ternary
from tfcompress.schedules import Linear as Schedule

ALL = [Binary(), Binary(None), Ternary(), Ternary(None), Linear(3), Linear(4, None), Log(3), Log(4)]
ALL += [Linear(6), Codebook(5), KSparse(0.4), KSparse(0.4, -1)]
LEVELS = [p for p in ALL if isinstance(p, Projection)]
GRIDS = {
    Binary(None): [-1, 1],
    Ternary(None): [-1, 0, 1],
    Linear(3, None): [-3, -2, -1, 0, 1, 2, 3],
    Log(3, None): [-4, -2, -1, 0, 1, 2, 4],
}
quick = settings(max_examples=25, deadline=None)
weights = st.integers(-40, 40).map(lambda k: k / 8)
masses = st.integers(0, 20).map(lambda k: k / 4)


def kernels(shape):
    return st.tuples(
        arrays("float64", shape, elements=weights), arrays("float64", shape, elements=masses)
    )


def damage(w, d, v):
    return float(np.sum(d * (w - np.asarray(v)) ** 2))


def least(w, d, grid):
    """The least damage over all codes on a grid, each with its best scale."""
    codes = np.array(list(itertools.product(grid, repeat=w.size)))
    gain, size = codes @ (d * w), codes**2 @ d
    saved = np.where(gain > 0, gain**2 / np.where(size > 0, size, 1), 0)
    return float(np.sum(d * w**2) - saved.max())


def best_codebook(w, d, size):
    """The least damage of a codebook, exactly: the classes are intervals of the sorted weights."""
    order = np.argsort(w)
    w, d = w[order], d[order]

    def alone(i, j):
        mass = d[i:j].sum()
        mean = d[i:j] @ w[i:j] / mass if mass else 0
        return d[i:j] @ (w[i:j] - mean) ** 2

    cost = np.array([alone(0, j) for j in range(len(w) + 1)])
    for _ in range(size - 1):
        cost = np.array(
            [min(cost[i] + alone(i, j) for i in range(j + 1)) for j in range(len(w) + 1)]
        )
    return float(cost[-1])


def random_kernel(shape=(30, 4), seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal(shape), random.uniform(0.1, 2, shape) ** 3


def test_worked_by_hand():
    w, d = np.array([4.0, -2.0, 1.0]), np.array([1.0, 2.0, 1.0])
    assert np.allclose(Binary(None)(w, d), [9 / 4, -9 / 4, 9 / 4])
    # k = 1: 16; k = 2: 8^2 / 3 = 21.3; k = 3: 9^2 / 4 = 20.25
    assert np.allclose(Ternary(None)(w, d), [8 / 3, -8 / 3, 0])
    # codes 4, -2, 1 in units of 1: no error at all
    assert np.allclose(Log(3, None)(w, d), w)
    assert np.allclose(Linear(4, None)(w, d), w)
    # codes 3, -2, 1: (12 + 8 + 1) / (9 + 8 + 1) = 7 / 6 each
    assert np.allclose(Linear(3, None)(w, d), np.array([3, -2, 1]) * 7 / 6)
    assert np.allclose(Codebook(2)(w, d), [4, -1, -1])
    assert np.allclose(KSparse(0.34)(w, np.array([1.0, 9.0, 1.0])), [0, -2, 0])


def test_an_output_channel_has_its_own_scale():
    w = np.array([[1.0, -10.0], [-3.0, 30.0]])
    assert np.allclose(Binary()(w), [[2, -20], [-2, 20]])
    assert np.allclose(Binary(None)(w), [[11, -11], [-11, 11]])
    assert np.allclose(Ternary()(w), [[0, 0], [-3, 30]])
    assert np.allclose(KSparse(0.5, -1)(w), [[0, 0], [-3, 30]])
    assert np.allclose(KSparse(0.5)(w), [[0, -10], [0, 30]])


@quick
@given(kernels(4))
def test_equals_brute_force(case):
    w, d = case
    d = d if d.any() else np.ones_like(d)
    for project, grid in GRIDS.items():
        found, known = damage(w, d, project(w, d)), least(w, d, grid)
        assert found == pytest.approx(known, rel=1e-6, abs=1e-6), project


@pytest.mark.parametrize("seed", range(5))
def test_four_bits_equal_a_search_over_scales(seed):
    w, d = random_kernel((40,), seed)
    for project in (Linear(4, None), Log(4, None)):
        n = 7 if isinstance(project, Linear) else 64
        steps = np.arange(1, 8) if isinstance(project, Linear) else 2.0 ** np.arange(7)
        levels = np.concatenate([-steps, [0], steps]) / n
        scales = np.linspace(0.2, 6, 20_000)
        known = min(
            damage(w, d, a * levels[np.abs(w[:, None] / a - levels).argmin(1)])
            for a in scales[::20]
        )
        assert damage(w, d, project(w, d)) <= known + 1e-9


@quick
@given(kernels(7), st.integers(2, 4))
def test_codebook_against_dynamic_programming(case, size):
    w, d = case
    d = d if d.any() else np.ones_like(d)
    found, known = damage(w, d, Codebook(size)(w, d)), best_codebook(w, d, size)
    assert found >= known - 1e-6
    if len(np.unique(w)) <= size:
        assert found == pytest.approx(0, abs=1e-6)


def test_codebook_is_near_the_best_one():
    ratios = []
    for seed in range(6):
        w, d = random_kernel((60,), seed)
        ratios.append(damage(w, d, Codebook(6)(w, d)) / best_codebook(w, d, 6))
    assert np.mean(ratios) < 1.25 and min(ratios) >= 1 - 1e-6


@quick
@given(kernels(6), st.integers(1, 6))
def test_k_sparse_keeps_the_best_k(case, k):
    w, d = case
    d = d if d.any() else np.ones_like(d)
    v = np.asarray(KSparse(k / 6)(w, d))
    known = min(np.sum(np.delete(d * w**2, kept)) for kept in itertools.combinations(range(6), k))
    assert np.count_nonzero(v) <= k
    assert damage(w, d, v) == pytest.approx(known)


@pytest.mark.parametrize("project", ALL, ids=repr)
@pytest.mark.parametrize("shape", [(30, 4), (3, 3, 5, 4), (12, 1)])
def test_a_projection_is_idempotent_and_sees_ratios_of_d_only(project, shape):
    w, d = random_kernel(shape)
    v = np.asarray(project(w, d))
    assert np.allclose(project(v, d), v, rtol=1e-6, atol=1e-9)
    assert np.allclose(project(w, 1e-3 * d), v, rtol=1e-6, atol=1e-9)
    assert np.allclose(project(w), project(w, np.full(shape, 7.0)), rtol=1e-6, atol=1e-9)
    assert not np.allclose(project(w), v)  # d matters


def alternated(project, w, d):
    """The damage after each of 25 steps from a start that is 1.7 times too wide."""
    levels = project.fit(w, np.ones_like(d)) * np.float32(1.7)
    for _ in range(25):
        yield damage(w, d, project.nearest(w, levels))
        levels = project.refine(w, d, levels)


@pytest.mark.parametrize("project", LEVELS, ids=repr)
def test_an_alternation_never_makes_it_worse(project):
    w, d = (one.astype("float32") for one in random_kernel((40, 3)))
    found = np.array(list(alternated(project, w, d)))
    assert np.all(found[1:] <= found[:-1] * (1 + 1e-6))


@pytest.mark.parametrize("project", [p for p in LEVELS if p != Codebook(5)], ids=repr)
def test_no_alternation_ends_below_the_projection(project):
    """A codebook's projection is a local minimum, and is compared with the best one above."""
    w, d = (one.astype("float32") for one in random_kernel((40, 3)))
    *_, last = alternated(project, w, d)
    assert last >= damage(w, d, project(w, d)) * (1 - 1e-6)


@pytest.mark.parametrize("project", LEVELS, ids=repr)
def test_levels_are_exact(project):
    w, d = random_kernel((200, 3))
    v = np.asarray(project(w.astype("float32"), d.astype("float32")))
    assert v.dtype == np.float32
    most = {Binary: 2, Ternary: 3, Codebook: 5}.get(type(project))
    most = most or 2**project.bits - 1
    channels = v.T if project.axis == -1 else [v]
    assert all(len(np.unique(channel)) <= most for channel in channels)


@pytest.mark.parametrize("project", [Ternary(), Linear(3), Log(3)], ids=repr)
def test_a_scale_that_is_too_large_or_zero_starts_again(project):
    w, d = np.float32([[0.1], [-0.02]]), np.ones((2, 1), "float32")
    for scale in (0.0, 1e6):
        levels = np.full((1, 1), scale, "float32")
        for _ in range(2):
            levels = project.refine(w, d, levels)
        assert np.any(np.asarray(project.nearest(w, levels)))
    zeros = np.zeros_like(w)
    assert np.array_equal(project.nearest(zeros, project.refine(zeros, d, levels)), zeros)


@pytest.mark.parametrize("project", ALL, ids=repr)
def test_zeros_and_half_precision(project):
    zeros = np.zeros((4, 3), "float32")
    assert np.array_equal(project(zeros), zeros)
    w = random_kernel((4, 3))[0]
    assert np.array_equal(project(w, zeros), project(w))  # no curvature at all counts as 1
    large = keras.ops.cast(300 * w, "float16")  # squares overflow float16
    v = project(large)
    assert keras.backend.standardize_dtype(v.dtype) == "float16"
    assert np.all(np.isfinite(np.asarray(v)))


@pytest.mark.parametrize("project", ALL, ids=repr)
def test_config_round_trip(project):
    config = keras.saving.serialize_keras_object(project)
    assert keras.saving.deserialize_keras_object(config) == project


def test_schedules_of_the_same_name_stay_apart():
    for one in (Linear(3), Schedule(0.0, 1.0, steps=4)):
        config = keras.saving.serialize_keras_object(one)
        assert keras.saving.deserialize_keras_object(config) == one


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Binary(axis=0), "axis=0"),
        (lambda: Ternary(axis=1), "axis=1"),
        (lambda: Linear(1), "`bits`.*from 2 to 8.*Received: 1"),
        (lambda: Linear(True), "whole number"),
        (lambda: Log(6), "from 2 to 5"),
        (lambda: Codebook(1), "`size`.*from 2 to 256.*Received: 1"),
        (lambda: KSparse(0), "share=0"),
        (lambda: KSparse(1.5), "share=1.5"),
        (lambda: Binary()(np.float32(1)), "one axis or more"),
        (lambda: Binary()(np.ones(3), np.ones(4)), r"shape \(4,\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
