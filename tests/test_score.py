import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import score
from tfcompress.pruning.masks import tighten


def kept(scores, sparsity):
    mask = {"w": np.ones(scores.shape, bool)}
    return tighten(mask, {"w": scores}, sparsity)["w"]


def test_the_optimal_brain_damage_saliency_by_hand():
    w, d = np.array([[3.0, -1.0]]), np.array([[0.5, 8.0]])
    assert score.obd(w, d).tolist() == [[2.25, 4.0]]  # the smaller weight matters more
    assert score.magnitude(w, d).tolist() == [[3.0, 1.0]]
    with pytest.raises(ValueError, match="give `data`"):
        score.obd(w, None)


def test_random_is_the_same_each_time_and_prunes_the_gone_first():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 6))
    w[2] = 0
    np.testing.assert_array_equal(score.random(w), score.random(w.copy()))
    assert (score.random(w)[2] == 0).all()
    assert not np.array_equal(score.random(w), score.random(w + 1))


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_block_gives_each_weight_the_mean_of_its_block(rows, columns, shape):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(rows, columns))
    found = score.block("magnitude", shape)(w)
    for i in range(rows):
        for j in range(columns):
            a, b = i // shape[0] * shape[0], j // shape[1] * shape[1]
            expected = np.abs(w[a : a + shape[0], b : b + shape[1]]).mean()
            assert found[i, j] == pytest.approx(expected)


def test_blocks_go_as_a_whole():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 2, 4, 32))  # (16, 32)
    mask = kept(score.block("magnitude", (1, 16))(w), 0.75).reshape(16, 2, 16)
    assert (mask.all(2) | ~mask.any(2)).all() and mask.mean() == 0.25


@given(
    m=st.integers(1, 3), more=st.integers(1, 3), rows=st.integers(1, 14), seed=st.integers(0, 99)
)
def test_m_of_each_n_stay(m, more, rows, seed):
    w = np.random.default_rng(seed).normal(size=(rows, 3))
    n = m + more
    found = score.m_by_n("magnitude", m, n)(w)
    for start in range(0, rows, n):
        part, scores = np.abs(w[start : start + n]), found[start : start + n]
        for o in range(3):
            best = np.sort(part[:, o])[-m:]
            assert np.isinf(scores[np.isin(part[:, o], best), o]).all()
            assert np.isfinite(scores[:, o]).sum() == max(len(part) - m, 0)


def test_two_of_four_by_the_pruner():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 3, 8, 5))
    mask = kept(score.m_by_n("magnitude", 2, 4)(w), 0.5)
    assert (mask.reshape(18, 4, 5).sum(1) == 2).all()
    mask = kept(score.m_by_n("magnitude", 2, 4)(w), 0.9)  # no more than the pattern allows
    assert mask.mean() == 0.5


def test_a_score_uses_the_curvature_and_survives_saving():
    rng = np.random.default_rng(0)
    w, d = rng.normal(size=(8, 6)), rng.random((8, 6))
    for one in (
        score.block("obd", (2, 3)),
        score.m_by_n("obd", 1, 4),
        score.block(score.random, (1, 2)),
    ):
        data = keras.saving.serialize_keras_object(one)
        again = keras.saving.deserialize_keras_object(data)
        np.testing.assert_array_equal(again(w, d), one(w, d))
    one = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(score.obd))
    assert one is score.obd


def test_bad_input():
    with pytest.raises(ValueError, match="'size'"):
        score.block("size", (1, 2))
    for shape in (3, (0, 1), (1, 2, 3), (1.5, 2)):
        with pytest.raises(ValueError, match="pair of positive"):
            score.block("obd", shape)
    for m, n in ((2, 2), (0, 4), (4, 2), (1.0, 2)):
        with pytest.raises(ValueError, match="0 < m < n"):
            score.m_by_n("obd", m, n)
