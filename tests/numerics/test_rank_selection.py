import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.numerics import rank_selection
from tfcompress.numerics.low_rank import svd_in_metric
from tfcompress.numerics.metric import Diagonal, Kronecker


def moment(rng, n, samples=200):
    x = rng.standard_normal((samples, n)) @ rng.standard_normal((n, n))
    return x.T @ x / samples


def test_energy_rank():
    assert rank_selection.energy_rank(np.diag([3.0, 1.0, 0.0]), 0.89) == 1
    assert rank_selection.energy_rank(np.diag([3.0, 1.0, 0.0]), 0.95) == 2


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 60), st.integers(20, 60), st.integers(0, 6), st.integers(0, 1000))
def test_evbmf_finds_a_planted_rank(rows, columns, rank, seed):
    random = np.random.default_rng(seed)
    planted = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
    left, _, right = np.linalg.svd(planted, full_matrices=False)
    strong = 6 * np.sqrt(max(rows, columns)) * left[:, :rank] @ right[:rank]
    assert rank_selection.evbmf_rank(strong + random.standard_normal((rows, columns))) == rank


def test_evbmf_of_a_square_matrix_has_the_constant_of_the_paper():
    assert rank_selection._least_tau(1.0) == pytest.approx(2.5129, abs=1e-4)
    assert rank_selection._least_tau(0.1) == pytest.approx(2.5129 * np.sqrt(0.1), rel=0.05)


def test_evbmf_without_noise_and_of_nothing():
    rng = np.random.default_rng(0)
    assert rank_selection.evbmf_rank(np.outer(np.arange(1, 9), np.arange(1, 5))) == 1
    assert rank_selection.evbmf_rank(np.zeros((4, 5))) == 0
    w = rng.standard_normal((30, 40))
    padded = np.zeros((60, 50))
    padded[:30, :40] = w + np.arange(40)
    assert rank_selection.evbmf_rank(padded) == rank_selection.evbmf_rank(w + np.arange(40)) == 1


def test_weakened_rank_leaves_a_fifth():
    rng = np.random.default_rng(0)
    assert rank_selection.weakened_rank(rng.standard_normal((40, 60))) == 8
    assert rank_selection.weakened_rank(np.ones((1, 1))) == 1


def test_rank_within():
    assert rank_selection.rank_within(30, lambda rank: rank * 7, range(1, 10)) == 4
    assert rank_selection.rank_within(28, lambda rank: rank * 7, range(1, 10)) == 4
    assert rank_selection.rank_within(1, lambda rank: rank * 7, range(1, 10)) == 1
    assert rank_selection.rank_within(1e9, lambda rank: rank * 7, range(1, 10)) == 9


@pytest.mark.parametrize("blocks", [1, 2])
def test_unfolded_in_a_metric_the_rest_of_the_svd_is_the_loss(blocks):
    rng = np.random.default_rng(0)
    w, A = rng.standard_normal((3, 2, 4, 6)), moment(rng, 24)
    A = A if blocks == 1 else [A[:10, :10], A[10:, 10:]]
    metric = Kronecker(A, rng.random(6), damping=0)
    matrix = rank_selection.unfold(w, "hwi", metric)
    u, v = svd_in_metric(w.reshape(24, 6), 3, metric)
    rest = np.linalg.svd(matrix, compute_uv=False)[3:]
    loss = metric.quadratic(w - (u @ v).reshape(w.shape))
    np.testing.assert_allclose(0.5 * np.sum(rest**2), loss, rtol=1e-5)


@pytest.mark.parametrize("rows", ["i", "hi", "hwi"])
def test_unfolded_in_a_separable_metric_the_squares_are_the_form(rows):
    """All letters independent: the marginals are the metric itself, up to a constant."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 2, 4, 5))
    one = {letter: np.diag(rng.random(n) + 0.1) for letter, n in zip("hwi", (3, 2, 4), strict=True)}
    one["i"] = moment(rng, 4)
    flat = {k: v if k in rows else np.eye(len(v)) for k, v in one.items()}
    A = np.einsum("hH,wW,iI->hwiHWI", flat["h"], flat["w"], flat["i"]).reshape(24, 24)
    metric = Kronecker(A, rng.random(5), damping=0)
    matrix = rank_selection.unfold(w, rows, metric)
    np.testing.assert_allclose(0.5 * np.sum(matrix**2), metric.quadratic(w))
    plain = rank_selection.unfold(w, rows)
    assert plain.shape == matrix.shape and np.sum(plain**2) == pytest.approx(np.sum(w**2))


def test_unfolded_in_a_separable_diagonal():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 2, 4, 5))
    d = np.einsum("i,o->io", rng.random(4), rng.random(5)) * np.ones((3, 2, 1, 1))
    matrix = rank_selection.unfold(w, "i", Diagonal(d))
    np.testing.assert_allclose(0.5 * np.sum(matrix**2), Diagonal(d).quadratic(w))
