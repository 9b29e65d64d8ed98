import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_factors import relative_error

from tfcompress.numerics import cp
from tfcompress.numerics.cp import cp_noise_sensitivity

CP, CP4 = "sr,ir,or->sio", "hr,wr,ir,or->hwio"


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("seed", range(4))
def test_cp_finds_an_exact_decomposition(seed):
    truth = np.einsum(CP, *(noise(side, 2, seed=10 * seed + side) for side in (9, 6, 7)))
    assert relative_error(truth, cp.cp(truth, 2), CP) < 1e-3


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=3, max_size=4), st.integers(0, 100), st.integers(1, 6))
def test_cp_is_a_stationary_point(shape, seed, rank):
    """Each factor solves least squares given the others, however small the array."""
    w, rank = noise(*shape, seed=seed), min(rank, cp.max_cp_rank(shape))
    factors = cp.cp(w, rank, sweeps=500)
    letters = "xyzt"[: len(shape)]
    expression = ",".join(letter + "r" for letter in letters) + "->" + letters
    error = relative_error(w, factors, expression)
    for k, factor in enumerate(factors):
        basis = np.einsum(
            ",".join(n + "r" for m, n in enumerate(letters) if m != k)
            + "->"
            + letters.replace(letters[k], "")
            + "r",
            *(f for m, f in enumerate(factors) if m != k),
        ).reshape(-1, rank)
        flat = np.moveaxis(w, k, 0).reshape(len(factor), -1)
        best = np.linalg.lstsq(basis, flat.T, rcond=None)[0].T
        trial = [best if m == k else f for m, f in enumerate(factors)]
        assert error <= relative_error(w, trial, expression) + 2e-3


@pytest.mark.parametrize("shape, rank, expression", [((9, 12, 16), 8, CP), ((3, 3, 8, 10), 6, CP4)])
def test_cp_is_as_good_as_an_independent_one(shape, rank, expression):
    tensorly = pytest.importorskip("tensorly.decomposition")
    w = noise(*shape)
    ours = relative_error(w, cp.cp(w, rank), expression)
    theirs = []
    for seed in range(5):
        _, factors = tensorly.parafac(w, rank, 500, init="random", random_state=seed)
        theirs.append(relative_error(w, factors, expression))
    assert ours < 1.01 * min(theirs)


def test_cp_does_not_depend_on_the_scale_and_is_the_same_each_time():
    w = noise(9, 5, 6)
    one, other = cp.cp(w, 4), cp.cp(1e-6 * w, 4)
    product = np.einsum(CP, *one)
    np.testing.assert_allclose(np.einsum(CP, *other), 1e-6 * product, rtol=1e-3, atol=1e-9)
    np.testing.assert_array_equal(np.einsum(CP, *cp.cp(w, 4)), product)


def test_factors_are_balanced():
    factors = cp.cp(noise(9, 8, 10), 5)
    norms = [np.linalg.norm(factor, axis=0) for factor in factors]
    np.testing.assert_allclose(norms[0], norms[1])
    np.testing.assert_allclose(norms[0], norms[2])


@pytest.mark.parametrize("shape, rank, expression", [((9, 16, 16), 6, CP), ((3, 3, 8, 10), 9, CP4)])
def test_correction_preserves_the_error_and_lowers_the_sensitivity(shape, rank, expression):
    w = noise(*shape)
    plain = cp.cp(w, rank)
    better = cp.correct(w, plain, slack=0.01)
    error = relative_error(w, plain, expression)
    assert relative_error(w, better, expression) <= 1.01 * error * (1 + 1e-6)
    assert cp_noise_sensitivity(better, expression) < 0.7 * cp_noise_sensitivity(plain, expression)


def test_correction_of_cancelling_components():
    """x and -x in two components are worth nothing, and cost nothing once corrected."""
    a, b, c = (noise(n, 1, seed=n) for n in (4, 5, 6))
    w = np.einsum(CP, a, b, c)
    big = [np.hstack([f, 30 * f, 30 * f]) for f in (a, b, c)]
    big[2][:, 2] *= -1
    better = cp.correct(w + 0.01 * noise(4, 5, 6), big, slack=0.01)
    one = cp.balance([a, b, c])
    assert cp_noise_sensitivity(better, CP) < 1.2 * cp_noise_sensitivity(one, CP)


def test_a_ridge_lowers_the_sensitivity():
    w = noise(9, 16, 16)
    plain, ridged = cp.cp(w, 6), cp.cp(w, 6, ridge=0.01)
    assert cp_noise_sensitivity(ridged, CP) < cp_noise_sensitivity(plain, CP)


def test_zero_arrays_and_bad_ranks():
    zero = cp.cp(np.zeros((9, 4, 4)), 2)
    np.testing.assert_array_equal(np.einsum(CP, *zero), 0)
    np.testing.assert_array_equal(np.einsum(CP, *cp.correct(np.zeros((9, 4, 4)), zero)), 0)
    for rank in (0, 7):
        with pytest.raises(ValueError, match="rank"):
            cp.cp(np.ones((9, 2, 3)), rank)
