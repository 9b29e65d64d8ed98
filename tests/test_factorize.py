import numpy as np
import pytest

from tfcompress import factorize
from tfcompress.metric import Diagonal, Kronecker

rng = np.random.default_rng(0)


def moment(n, samples=200):
    x = rng.standard_normal((samples, n)) @ rng.standard_normal((n, n))
    return x.T @ x / samples


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (1100, 1030)])
def test_svd_is_the_best_of_its_rank(shape):
    w = rng.standard_normal(shape)
    u, v = factorize.svd(w, 5)
    assert u.shape == (shape[0], 5) and v.shape == (5, shape[1])
    rest = np.linalg.svd(w, compute_uv=False)[5:]
    np.testing.assert_allclose(np.linalg.norm(w - u @ v), np.linalg.norm(rest), rtol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=1))


def test_svd_of_a_singular_matrix():
    w = np.zeros((1100, 1100))
    w[0, 0] = 2.0
    u, v = factorize.svd(w, 3)
    np.testing.assert_allclose(u @ v, w, atol=1e-9)


def test_energy_rank():
    assert factorize.energy_rank(np.diag([3.0, 1.0, 0.0]), 0.89) == 1
    assert factorize.energy_rank(np.diag([3.0, 1.0, 0.0]), 0.95) == 2


def test_svd_in_metric_beats_every_other_matrix_of_its_rank():
    w, metric = rng.standard_normal((12, 7)), Kronecker(moment(12), rng.random(7), damping=0)
    u, v = factorize.svd_in_metric(w, 3, metric)
    best = metric.quadratic(w - u @ v)
    plain = factorize.svd(w, 3)
    assert best < metric.quadratic(w - plain[0] @ plain[1])
    for _ in range(50):  # a minimum: no small step goes lower
        du, dv = rng.standard_normal(u.shape), rng.standard_normal(v.shape)
        assert metric.quadratic(w - (u + 1e-3 * du) @ (v + 1e-3 * dv)) >= best
    # Alternating least squares, the slow way, from the plain start.
    u, A, G = plain[0], metric.blocks[0][0], np.diag(metric.g)
    for _ in range(3000):
        v = np.linalg.solve(u.T @ A @ u, u.T @ A @ w)
        u = w @ G @ v.T @ np.linalg.inv(v @ G @ v.T)
    np.testing.assert_allclose(metric.quadratic(w - u @ v), best, rtol=1e-6)


def test_svd_in_a_separable_diagonal_is_exact():
    w, rows, columns = rng.standard_normal((9, 6)), rng.random(9) + 0.1, rng.random(6) + 0.1
    metric = Diagonal(np.outer(rows, columns))
    u, v = factorize.svd_in_metric(w, 2, metric)
    whitened = np.sqrt(rows)[:, None] * w * np.sqrt(columns)
    rest = np.linalg.svd(whitened, compute_uv=False)[2:]
    np.testing.assert_allclose(metric.quadratic(w - u @ v), 0.5 * np.sum(rest**2))


def build(factors):
    return np.einsum("sr,ir,or->sio", *factors)


@pytest.mark.parametrize("seed", range(4))
def test_cp_finds_an_exact_decomposition(seed):
    rng = np.random.default_rng(seed)
    truth = build([rng.standard_normal((side, 2)) for side in (9, 6, 7)])
    error = np.linalg.norm(build(factorize.cp(truth, 2)) - truth)
    assert error < 0.01 * np.linalg.norm(truth)


def test_cp_factors_are_balanced():
    factors = factorize.cp(rng.standard_normal((9, 8, 10)), 5)
    norms = [np.linalg.norm(factor, axis=0) for factor in factors]
    np.testing.assert_allclose(norms[0], norms[1])
    np.testing.assert_allclose(norms[0], norms[2])


def test_cp_leaves_the_backend_of_tensorly_alone():
    import tensorly

    tensorly.set_backend("numpy")
    factorize.cp(rng.standard_normal((4, 3, 3)), 2)
    assert tensorly.get_backend() == "numpy"


def test_cp_in_metric_lowers_the_form():
    w = rng.standard_normal((3, 3, 5, 6))
    metric = Kronecker(moment(45, 400), rng.random(6))
    plain = factorize.cp(w.reshape(9, 5, 6), 4)
    refined = factorize.refine(w.reshape(9, 5, 6), plain, "sr,ir,or->sio", metric)

    def form(factors):
        return metric.quadratic(w - build(factors).reshape(w.shape))

    assert form(refined) < 0.9 * form(plain)


def test_zero_kernels():
    np.testing.assert_array_equal(build(factorize.cp(np.zeros((9, 4, 4)), 2)), 0)
    u, v = factorize.svd(np.zeros((4, 4)), 2)
    np.testing.assert_array_equal(u @ v, 0)


def test_bad_ranks():
    for rank in (0, 5):
        with pytest.raises(ValueError, match="rank"):
            factorize.svd(np.ones((4, 6)), rank)
    with pytest.raises(ValueError, match="rank"):
        factorize.cp(np.ones((9, 2, 3)), 7)


def test_least_squares_agrees_with_a_dense_solve():
    E, H = rng.standard_normal((20, 6)), moment(20)
    w = rng.standard_normal(20)
    p = factorize.least_squares(
        lambda e: H @ e, lambda p: E @ p, lambda v: E.T @ v, w, np.zeros(6), steps=200
    )
    np.testing.assert_allclose(p, np.linalg.solve(E.T @ H @ E, E.T @ H @ w), rtol=1e-3, atol=1e-4)


def test_spatial_and_tucker_are_exact_at_full_rank_and_refine_in_a_metric():
    w = rng.standard_normal((3, 2, 4, 5))
    metric = Kronecker(moment(24, 400))
    spatial, tucker = "hir,wro->hwio", "ip,hwpq,oq->hwio"
    np.testing.assert_allclose(np.einsum(spatial, *factorize.spatial(w, 10)), w, atol=1e-9)
    np.testing.assert_allclose(np.einsum(tucker, *factorize.tucker(w, (4, 5))), w, atol=1e-9)
    for expression, parts in (
        (spatial, factorize.spatial(w, 3)),
        (tucker, factorize.tucker(w, (2, 3))),
        ("hr,wr,ir,or->hwio", factorize.cp(w, 4)),
    ):
        refined = factorize.refine(w, parts, expression, metric)
        before, after = (metric.quadratic(w - np.einsum(expression, *p)) for p in (parts, refined))
        assert after < 0.9 * before
    with pytest.raises(ValueError, match="ranks"):
        factorize.tucker(w, (5, 5))
