import numpy as np
import pytest
import scipy.stats

from tfcompress.numerics import hashing


def test_golden_vectors():
    """The hash is a file format: these numbers never change."""
    assert hashing.signed_codes(8, 8, seed=0).tolist() == GOLDEN[0]
    assert hashing.signed_codes(8, 8, seed=1).tolist() == GOLDEN[1]
    assert hashing.signed_codes(2**20, 1000, seed=7)[[0, 12345, 2**20 - 1]].tolist() == GOLDEN[2]
    assert hashing.random_signs(8, seed=3).tolist() == GOLDEN[3]


GOLDEN = [
    [12, 6, 4, 11, 0, 8, 11, 12],
    [14, 9, 10, 12, 6, 14, 7, 4],
    [303, 136, 1596],
    [1, -1, -1, 1, -1, 1, 1, 1],
]


def slow_code(position, buckets, seed):
    """The same hash in Python integers, one position at a time."""

    def int32(v):
        return (v + 2**31) % 2**32 - 2**31

    def mix(v, word):
        v = int32(v * -1640531527) ^ word
        v ^= v >> 16  # Python's shift is arithmetic
        v = int32(v * -2048144789)
        v ^= v >> 13
        v = int32(v * -1028477387)
        return v ^ (v >> 16)

    return mix(position, mix(seed, 0x3C6EF372)) % (2 * buckets)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_agrees_with_the_slow_oracle(seed):
    codes = hashing.signed_codes(5000, 123, seed)
    assert codes.tolist() == [slow_code(p, 123, seed) for p in range(5000)]


@pytest.mark.parametrize("buckets", [100, 4096, 12250])
@pytest.mark.parametrize("seed", [0, 1])
def test_uniform_and_signs_independent(buckets, seed):
    codes = hashing.signed_codes(784 * 1000, buckets, seed)
    counts = np.bincount(codes, minlength=2 * buckets)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    # The sum of n random signs is of the size sqrt(n): a bucket whose signs are tied to it has n.
    signs = np.bincount(codes % buckets, np.where(codes < buckets, 1, -1))
    sizes = np.bincount(codes % buckets)
    assert 0.6 < np.mean(np.abs(signs) / np.sqrt(sizes)) < 1.0


def test_seeds_differ():
    a, b = (hashing.signed_codes(100_000, 50, seed) for seed in (0, 1))
    assert abs(np.mean(a == b) - 1 / 100) < 0.002


def test_refusals():
    with pytest.raises(ValueError, match="virtual weights"):
        hashing.signed_codes(hashing.MAX_WEIGHTS + 1, 10)
    with pytest.raises(ValueError, match="buckets"):
        hashing.signed_codes(10, 11)
