import numpy as np
import pytest
from oracles_factors import relative_error

from tfcompress.numerics import cp, low_rank
from tfcompress.numerics.metric import Diagonal, Kronecker


def moment(rng, n, samples=200):
    x = rng.standard_normal((samples, n)) @ rng.standard_normal((n, n))
    return x.T @ x / samples


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (1100, 1030)])
def test_svd_is_the_best_of_its_rank(shape):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(shape)
    u, v = low_rank.svd(w, 5)
    assert u.shape == (shape[0], 5) and v.shape == (5, shape[1])
    rest = np.linalg.svd(w, compute_uv=False)[5:]
    np.testing.assert_allclose(np.linalg.norm(w - u @ v), np.linalg.norm(rest), rtol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=1))


def test_svd_of_a_singular_matrix():
    w = np.zeros((1100, 1100))
    w[0, 0] = 2.0
    u, v = low_rank.svd(w, 3)
    np.testing.assert_allclose(u @ v, w, atol=1e-9)


def test_svd_in_metric_beats_every_other_matrix_of_its_rank():
    rng = np.random.default_rng(0)
    w, metric = rng.standard_normal((12, 7)), Kronecker(moment(rng, 12), rng.random(7), damping=0)
    u, v = low_rank.svd_in_metric(w, 3, metric)
    best = metric.quadratic(w - u @ v)
    plain = low_rank.svd(w, 3)
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
    rng = np.random.default_rng(0)
    w, rows, columns = rng.standard_normal((9, 6)), rng.random(9) + 0.1, rng.random(6) + 0.1
    metric = Diagonal(np.outer(rows, columns))
    u, v = low_rank.svd_in_metric(w, 2, metric)
    whitened = np.sqrt(rows)[:, None] * w * np.sqrt(columns)
    rest = np.linalg.svd(whitened, compute_uv=False)[2:]
    np.testing.assert_allclose(metric.quadratic(w - u @ v), 0.5 * np.sum(rest**2))


def test_zero_kernels():
    u, v = low_rank.svd(np.zeros((4, 4)), 2)
    np.testing.assert_array_equal(u @ v, 0)


def test_bad_ranks():
    for rank in (0, 5):
        with pytest.raises(ValueError, match="rank"):
            low_rank.svd(np.ones((4, 6)), rank)


def test_least_squares_agrees_with_a_dense_solve():
    rng = np.random.default_rng(0)
    E, H = rng.standard_normal((20, 6)), moment(rng, 20)
    w = rng.standard_normal(20)
    p = low_rank.least_squares(
        lambda e: H @ e, lambda p: E @ p, lambda v: E.T @ v, w, np.zeros(6), steps=200
    )
    np.testing.assert_allclose(p, np.linalg.solve(E.T @ H @ E, E.T @ H @ w), rtol=1e-3, atol=1e-4)


def test_spatial_and_tucker_are_exact_at_full_rank_and_refine_in_a_metric():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 2, 4, 5))
    metric = Kronecker(moment(rng, 24, 400))
    spatial, tucker = "hir,wro->hwio", "ip,hwpq,oq->hwio"
    np.testing.assert_allclose(np.einsum(spatial, *low_rank.spatial(w, 10)), w, atol=1e-9)
    np.testing.assert_allclose(np.einsum(tucker, *low_rank.tucker(w, (4, 5))), w, atol=1e-9)
    for expression, parts in (
        (spatial, low_rank.spatial(w, 3)),
        (tucker, low_rank.tucker(w, (2, 3))),
        ("hr,wr,ir,or->hwio", cp.cp(w, 4)),
    ):
        refined = low_rank.refine(w, parts, expression, metric)
        before, after = (metric.quadratic(w - np.einsum(expression, *p)) for p in (parts, refined))
        assert after < 0.9 * before
    with pytest.raises(ValueError, match="ranks"):
        low_rank.tucker(w, (5, 5))


def test_tucker_is_as_good_as_an_independent_one():
    rng = np.random.default_rng(0)
    tensorly = pytest.importorskip("tensorly.decomposition")
    w = rng.standard_normal((3, 3, 8, 10))
    (core, (a, b)), _ = tensorly.partial_tucker(w, (3, 4), modes=[2, 3], n_iter_max=200)
    theirs = relative_error(w, [a, core, b], "ip,hwpq,oq->hwio")
    ours = relative_error(w, low_rank.tucker(w, (3, 4)), "ip,hwpq,oq->hwio")
    assert ours < 1.01 * theirs


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(
    "expression, inner, shapes",
    [
        ("ip,hwpq,oq->hwio", "ip,hwpq->hwiq", [(4, 2), (2, 2, 2, 3), (6, 3)]),
        ("hwr,ir,or->hwio", "hwr,ir->hwir", [(2, 2, 3), (4, 3), (6, 3)]),
    ],
)
def test_no_other_factor_of_the_outputs_is_nearer(expression, inner, shapes, blocks, scaled):
    rng = np.random.default_rng(0)
    w, parts = rng.standard_normal((2, 2, 4, 6)), [rng.standard_normal(s) for s in shapes]
    metric = Kronecker(
        [moment(rng, 16 // blocks) for _ in range(blocks)], rng.random(6) + 0.1 if scaled else None
    )

    def damage(last):
        return metric.quadratic(w - np.einsum(expression, *parts[:-1], last))

    basis = np.einsum(inner, *parts[:-1])
    found = low_rank._output_factor(w, basis, Kronecker(metric.blocks).apply)
    for _ in range(20):
        assert damage(found) <= damage(found + 1e-3 * rng.standard_normal(found.shape))
    refined = low_rank.refine(w, parts, expression, metric)
    ends = [metric.quadratic(w - np.einsum(expression, *p)) for p in (parts, refined)]
    assert ends[1] < damage(found) < ends[0]


@pytest.mark.parametrize(
    "expression, shapes",
    [
        ("sr,ir,or->sio", [(4, 3), (5, 3), (6, 3)]),
        ("hr,wr,ir,or->hwio", [(2, 3), (3, 3), (4, 3), (5, 3)]),
        ("ip,hwpq,oq->hwio", [(5, 2), (2, 3, 2, 3), (4, 3)]),
        ("hir,wro->hwio", [(2, 4, 3), (3, 3, 5)]),
    ],
)
def test_sensitivity_is_what_noise_in_the_parts_does(expression, shapes):
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(shape) for shape in shapes]
    product, small, total = np.einsum(expression, *parts), 1e-4, 0.0
    for _ in range(2000):
        noisy = [part + small * rng.standard_normal(part.shape) for part in parts]
        total += np.sum((np.einsum(expression, *noisy) - product) ** 2) / small**2
    assert cp.cp_noise_sensitivity(parts, expression) == pytest.approx(total / 2000, rel=0.1)


def test_sensitivity_of_cp_is_the_formula_of_the_paper():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, 3)) for n in (4, 5, 6)]
    grams = [part.T @ part for part in parts]
    expected = (
        6 * np.trace(grams[0] * grams[1])
        + 4 * np.trace(grams[1] * grams[2])
        + 5 * np.trace(grams[0] * grams[2])
    )
    assert cp.cp_noise_sensitivity(parts, "sr,ir,or->sio") == pytest.approx(expected)
