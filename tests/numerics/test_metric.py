import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_metric import best_rounding, quadratic

from tfcompress.numerics.compensated_rounding import compensate
from tfcompress.numerics.metric import Diagonal, Kronecker, as_metric

SEEDS = st.integers(0, 10**6)


def problem(seed, n=None, out=None, groups=1):
    """A kernel and the second moment of correlated inputs."""
    rng = np.random.default_rng(seed)
    n, out = n or rng.integers(1, 12), out or rng.integers(1, 6)
    mix = rng.normal(size=(groups, n, n))
    x = rng.normal(size=(groups, rng.integers(1, 3 * n + 1), n)) @ mix
    A = x.transpose(0, 2, 1) @ x / x.shape[1]
    return rng.normal(size=(n, groups * out)), A


def to_levels(levels):
    levels = np.asarray(levels)
    return lambda row, place: levels[np.abs(row[..., None] - levels).argmin(-1)]


def to_grid(w, bits=3):
    top = 2 ** (bits - 1) - 1
    scale = np.abs(w).max(0) / top
    return lambda row, place: np.clip(np.round(row / scale), -top, top) * scale


def test_a_diagonal_by_hand():
    metric = Diagonal([[2.0, 0.0], [1.0, -3.0]])  # a negative entry counts as 0
    assert metric.quadratic([[1.0, 5.0], [2.0, 1.0]]) == 3.0
    assert metric.apply([[1.0, 5.0], [2.0, 1.0]]).tolist() == [[2.0, 0.0], [2.0, 0.0]]
    assert metric.diagonal((2, 2)) is metric.d


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_quadratic_is_the_sum_over_outputs(seed):
    w, A = problem(seed)
    g = np.random.default_rng(seed).random(w.shape[1])
    metric = Kronecker(A[0], g)
    np.testing.assert_allclose(metric.quadratic(w), quadratic(w, A[0], g), atol=1e-9)
    d = metric.diagonal(w.shape)
    np.testing.assert_allclose(d, np.diag(A[0])[:, None] * g, atol=1e-12)
    np.testing.assert_allclose(metric.apply(w), A[0] @ w * g, atol=1e-9)


def test_groups_and_blocks_are_larger_matrices_with_zeros():
    w, A = problem(0, n=4, out=3, groups=2)
    grouped = Kronecker(A, g=np.arange(6.0))
    apart = [Kronecker(A[i], g=np.arange(3.0) + 3 * i) for i in range(2)]
    halves = [w[:, :3], w[:, 3:]]
    expected = [m.quadratic(half) for m, half in zip(apart, halves, strict=True)]
    assert grouped.quadratic(w.reshape(2, 2, 6)) == pytest.approx(sum(expected))
    applied = np.hstack([m.apply(half) for m, half in zip(apart, halves, strict=True)])
    np.testing.assert_allclose(grouped.apply(w), applied)

    whole = np.zeros((8, 8))
    whole[:4, :4], whole[4:, 4:] = A
    tall = np.vstack(halves)
    blocks, full = Kronecker(list(A), damping=0.0), Kronecker(whole, damping=0.0)
    assert blocks.quadratic(tall) == pytest.approx(full.quadratic(tall))
    for of in (Kronecker.apply, Kronecker.solve, Kronecker.whiten):
        np.testing.assert_allclose(of(blocks, tall), of(full, tall), atol=1e-7)
    assert blocks.fan_in == 8 and len(blocks.blocks) == 2


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_whitening_makes_the_damped_form_a_sum_of_squares(seed):
    w, A = problem(seed)
    damped = A[0] + 0.01 * np.trace(A[0]) / len(A[0]) * np.eye(len(A[0]))
    metric = Kronecker(A[0])
    white = metric.whiten(w)
    np.testing.assert_allclose(np.sum(white**2) / 2, quadratic(w, damped))
    np.testing.assert_allclose(metric.unwhiten(white), w, atol=1e-8)
    np.testing.assert_allclose(damped @ metric.solve(w), w, atol=1e-7)


def test_low_rank_by_whitening_beats_a_plain_svd():
    w, A = problem(1, n=10, out=8)

    def cut(matrix, rank=3):
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        return (u[:, :rank] * s[:rank]) @ v[:rank]

    metric = Kronecker(A)
    assert metric.quadratic(w - metric.unwhiten(cut(metric.whiten(w)))) < metric.quadratic(
        w - cut(w)
    )


def test_compensation_by_hand():
    metric = Kronecker([[1.0, 0.9], [0.9, 1.0]], damping=0.0)
    w = np.array([[0.4], [0.4]])  # two inputs that nearly say the same: 0.8 in all is about 1
    found = compensate(w, lambda row, i: np.round(row), metric)
    assert found.ravel().tolist() == [0.0, 1.0]  # 0.4 + 0.9 * 0.4 = 0.76 rounds up


@given(seed=SEEDS)
@settings(max_examples=80, deadline=None)
def test_compensation_never_raises_the_form_of_any_output(seed):
    w, A = problem(seed, groups=seed % 2 + 1)
    metric = Kronecker(A)
    rounding = to_grid(w) if seed % 3 else to_levels([-0.7, 0.7])
    plain = w - compensate(w, rounding, None)
    found = w - compensate(w, rounding, metric)
    of_outputs = [np.sum(e * metric.apply(e), 0) for e in (plain, found)]
    assert (of_outputs[1] <= of_outputs[0] * (1 + 1e-9) + 1e-12).all()


def test_compensation_agrees_with_brute_force_on_tiny_problems():
    levels, equal, ratio = [-1.0, 0.0, 1.0], 0, []
    for seed in range(40):
        w, A = problem(seed, n=4, out=3)
        metric = Kronecker(A[0] + 0.3 * np.eye(4) * np.trace(A[0]) / 4, damping=0.0)
        best = best_rounding(w, metric.blocks[0][0], levels)
        plain = metric.quadratic(w - compensate(w, to_levels(levels), None))
        found = metric.quadratic(w - compensate(w, to_levels(levels), metric))
        lowest = metric.quadratic(w - best)
        assert lowest <= found + 1e-9
        equal += found < lowest * (1 + 1e-9)
        ratio.append((found - lowest) / max(plain - lowest, 1e-9))
    assert equal >= 20 and np.mean(ratio) < 0.33


def test_values_are_the_rounding_functions_own_and_places_the_rows():
    w, A = problem(3, n=150, out=4)  # more rows than one run between matrix products
    seen = set()

    def rounding(row, place):
        seen.update(np.ravel(place))
        return np.where(row >= 0, 1.0, -1.0) * np.asarray(1 + place)[..., None]

    found = compensate(w, rounding, Kronecker([A[0][:100, :100], A[0][100:, 100:]]))
    assert seen == set(range(150))
    np.testing.assert_array_equal(np.abs(found), 1.0 + np.arange(150)[:, None] * np.ones(4))


def test_longer_problems_gain_more():
    w, A = problem(4, n=130, out=20)
    metric = Kronecker(A)
    plain, compensated = (
        metric.quadratic(w - compensate(w, to_grid(w), given)) for given in (None, metric)
    )
    assert plain > 2 * compensated


def test_dead_inputs_and_single_precision():
    w, A = problem(5, n=6, out=3)
    A[:, 2], A[:, :, 2] = 0, 0
    w = w.astype("float32")
    for metric in (Kronecker(A.astype("float32")), Kronecker(np.zeros((6, 6)))):
        found = compensate(w, to_grid(w), metric)
        assert found.dtype == np.float32 and np.isfinite(found).all()
        np.testing.assert_allclose(found[2], to_grid(w)(w[2], 2), rtol=1e-6)


def test_what_users_pass_becomes_a_metric():
    assert as_metric(None, (2, 3)).d.tolist() == np.ones((2, 3)).tolist()
    assert as_metric(np.full((2, 3), 4.0), (2, 3)).d[0, 0] == 4.0
    metric = Kronecker(np.eye(6))
    assert as_metric(metric, (2, 3, 5)) is metric


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Diagonal([np.nan]), "NaN"),
        (lambda: Diagonal(np.ones(3)).quadratic(np.ones(2)), r"shape \(2,\)"),
        (lambda: Kronecker(np.ones((2, 3))), "square"),
        (lambda: Kronecker(np.full((2, 2), np.inf)), "infinite"),
        (lambda: Kronecker([np.ones((1, 2, 2)), np.ones((2, 2, 2))]), "same number of groups"),
        (lambda: Kronecker(np.eye(3)).quadratic(np.ones((4, 2))), r"kernel of shape \(4, 2\)"),
        (lambda: Kronecker(np.eye(3), g=[1.0]).quadratic(np.ones((3, 2))), "1 outputs"),
        (lambda: as_metric(np.ones(3), (2, 3)), r"shape \(2, 3\)"),
        (lambda: as_metric(Kronecker(np.eye(4)), (2, 3)), "does not fit"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("fan_in, groups, shape, fits", [
    (6, 1, (6, 4), True), (3, 1, (6, 4), False), (12, 1, (6, 4), False), (2, 1, (6, 4), False),
    (18, 1, (3, 3, 2, 4), True), (6, 1, (3, 3, 2, 4), False), (9, 2, (3, 3, 2, 4), True),
    (18, 2, (3, 3, 2, 4), True), (18, 3, (3, 3, 2, 4), False), (18, 1, (3, 3, 2, 0), False),
])  # fmt: skip
def test_a_metric_of_another_fan_in_is_refused(fan_in, groups, shape, fits):
    metric = Kronecker(np.stack([np.eye(fan_in)] * groups))
    if fits:
        metric.check(shape)
        return
    with pytest.raises(ValueError, match="does not fit a kernel"):
        metric.check(shape)


def test_a_metric_of_a_kernel_whose_outputs_lie_elsewhere():
    turned = Kronecker(np.eye(5))  # of "...x,yx->...y": (y, x)
    assert as_metric(turned, (7, 5), (0,)) is turned
    with pytest.raises(ValueError, match="does not fit a kernel"):
        as_metric(turned, (7, 5))
    with pytest.raises(ValueError, match="shape"):
        as_metric(Diagonal(np.ones((5, 7))), (7, 5), (0,))
