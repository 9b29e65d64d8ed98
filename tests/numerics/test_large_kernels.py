"""What large kernels get in place of the plain formulas, against these."""

import numpy as np
import pytest

from tfcompress.layers.discrete import latent
from tfcompress.layers.discrete.quantized import QuantizedConv2D, QuantizedEmbedding
from tfcompress.numerics import low_rank
from tfcompress.numerics.compensated_rounding import compensate
from tfcompress.numerics.metric import Kronecker, inverter
from tfcompress.numerics.optimal_brain_surgeon import sparsify


def problem(n, m, examples):
    random = np.random.default_rng(n)
    x = np.maximum(
        random.standard_normal((examples, n // 4)) @ random.standard_normal((n // 4, n)), 0
    )
    x += 0.3 * random.standard_normal(x.shape)
    return x.T @ x / examples, random.standard_normal((n, m)) / np.sqrt(n)


@pytest.mark.slow
def test_compensation_in_blocks_of_rows_is_that_of_single_rows():
    A, w = problem(200, 9, 600)
    metric, step = Kronecker(A), 0.05
    order = np.argsort(-np.diag(A), kind="stable")
    H = (A + 0.01 * np.trace(A) / 200 * np.eye(200))[np.ix_(order, order)]
    R = np.linalg.cholesky(H[::-1, ::-1])[::-1, ::-1]
    R, v = R / np.diag(R), w[order]
    q, e = np.zeros_like(v), np.zeros_like(v)
    for i in range(200):
        q[i] = step * np.round((v[i] + R[:i, i] @ e[:i]) / step)
        e[i] = v[i] - q[i]
    expected, plain = np.empty_like(w), step * np.round(w / step)
    expected[order] = q
    forms = [np.einsum("io,ij,jo->o", w - one, A, w - one) for one in (expected, plain)]
    expected = np.where(forms[0] <= forms[1], expected, plain)
    found = compensate(w, lambda row, _: step * np.round(row / step), metric)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    single = compensate(w.astype("float32"), lambda row, _: step * np.round(row / step), metric)
    assert metric.quadratic(w - single) < 1.01 * metric.quadratic(w - expected)


def test_a_very_large_kernel_gets_one_round_block_by_block(monkeypatch):
    A, w = problem(120, 10, 400)
    metric = Kronecker([A[:70, :70], A[70:, 70:]])
    near, scale = (lambda u: np.clip(np.round(u), -7, 7)), np.abs(w).max(0) / 8
    w = w.astype("float32")
    monkeypatch.setattr(latent, "ROUNDS", 1)
    grid, scales = latent.fit_grid(w, near, scale, metric)
    monkeypatch.setattr(latent, "ONE_ROUND_ABOVE", 0)
    found, fitted = latent.fit_grid(w, near, scale, metric)
    assert np.mean(found != grid) < 0.01
    assert metric.quadratic(w - fitted * found) < 1.01 * metric.quadratic(w - scales * grid)


def test_the_svd_of_a_large_matrix_in_single_precision():
    random = np.random.default_rng(0)
    low = random.standard_normal((1100, 5)) @ random.standard_normal((5, 1030))
    w = low + 0.1 * random.standard_normal(low.shape)
    u, v = low_rank.svd(w, 5)
    a, s, b = np.linalg.svd(w, full_matrices=False)
    best = np.linalg.norm(w - (a[:, :5] * s[:5]) @ b[:5])
    assert np.linalg.norm(w - u @ v) < (1 + 1e-6) * best
    np.testing.assert_allclose(np.sum(u**2, 0), np.sum(v**2, 1), rtol=1e-4)
    u, v = low_rank.svd(low.T, 5)
    assert np.linalg.norm(low.T - u @ v) < 1e-5 * np.linalg.norm(low)


@pytest.mark.slow
def test_large_tucker_parts_are_as_good_as_in_double_precision(monkeypatch):
    w = np.random.default_rng(0).standard_normal((3, 3, 176, 176))
    errors = []
    for single_from in (2**18, 2**30):
        monkeypatch.setattr(low_rank, "SINGLE_PRECISION_FROM", single_from)
        a, core, b = low_rank.tucker(w, (60, 60))
        product = np.einsum("ip,hwpq,oq->hwio", a, core, b, optimize=True)
        errors.append(np.linalg.norm(w - product))
    assert errors[0] < 1.001 * errors[1]


@pytest.mark.slow
def test_obs_in_single_precision_is_as_good_as_in_double(monkeypatch):
    A, w = problem(300, 20, 900)
    metric, forms = Kronecker(A), []
    for single_from in (1024, 100):
        monkeypatch.setattr(
            "tfcompress.numerics.optimal_brain_surgeon.SINGLE_PRECISION_FROM", single_from
        )
        forms.append(metric.quadratic(w - sparsify(w, metric, 0.6)))
    assert forms[1] < 1.01 * forms[0]


def test_the_inverter_solves_in_groups_too():
    random = np.random.default_rng(0)
    for groups in (1, 3):
        x = random.standard_normal((groups, 9, 6))
        H, b = x.transpose(0, 2, 1) @ x, random.standard_normal((groups, 6, 4))
        np.testing.assert_allclose(inverter(H.copy())(b), np.linalg.solve(H, b), rtol=1e-8)


@pytest.mark.parametrize("levels", ["linear", "log"])
def test_the_codes_of_a_large_kernel_are_made_part_by_part(monkeypatch, levels):
    table = QuantizedEmbedding(50, 7, bits=4, levels=levels)  # with a scale for each row
    conv = QuantizedConv2D(6, 3, bits=3, levels=levels)
    for layer, shape in ((table, (None, 4)), (conv, (None, 9, 9, 5))):
        layer.build(shape)
        layer.scale.assign(np.random.default_rng(0).uniform(0.01, 0.1, layer.scale.shape))
        whole = layer.stored()
        monkeypatch.setattr(latent, "AT_A_TIME", 40)
        parts = layer.stored()
        monkeypatch.undo()
        assert set(whole) == set(parts) and len(np.unique(whole["codes"])) > 3
        for name, array in whole.items():
            np.testing.assert_array_equal(parts[name], array)
            assert parts[name].dtype == array.dtype
        points = layer.decode(whole["codes"])
        np.testing.assert_array_equal(points, np.asarray(layer.grid(layer.latent, layer.scale)))
