"""Arrays to about their entropy in bytes and back."""

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfcompress.archive import entropy

pytest.importorskip("constriction")


def round_trip(array):
    record, blobs = entropy.encode(array)
    return entropy.decode(record, iter(blobs)), sum(map(len, blobs))


def shannon(array):
    """Empirical entropy of all entries, in bytes."""
    counts = np.unique(array, return_counts=True)[1]
    return -np.sum(counts * np.log2(counts / array.size)) / 8


@given(
    hnp.arrays(
        st.sampled_from([name for name in entropy.DTYPES if name != "bfloat16"]),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=9),
        fill=st.nothing(),
    )
)
@settings(max_examples=200, deadline=None)
def test_every_array_comes_back_bit_for_bit(array):
    back, _ = round_trip(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(st.integers(0, 2**32), st.sampled_from([0.001, 0.02, 0.3]), st.sampled_from([2, 5, 200]))
@settings(max_examples=40, deadline=None)
def test_few_values_take_their_entropy(seed, peak, count):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(count, peak + 0.05))
    codes = rng.choice(rng.integers(-100, 100, count), 20_000, p=p).astype("int8")
    back, size = round_trip(codes)
    assert np.array_equal(back, codes)
    assert size <= 1.02 * shannon(codes) + 3 * count + 16


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_zeros_of_pruned_weights_cost_a_mask(dtype):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((300, 200)).astype(dtype)
    w[rng.random(w.shape) < 0.9] = 0
    back, size = round_trip(w)
    assert np.array_equal(back, w)
    assert size < 1.01 * (shannon(w != 0) + np.count_nonzero(w) * w.itemsize)


def test_exponents_of_weights_are_coded_and_noise_is_left():
    w = np.random.default_rng(0).standard_normal(50_000).astype("float32")
    (_, _, streams), blobs = entropy.encode(w)
    assert [counts is None for _, counts in streams] == [False, True, True, True, False]
    assert len(blobs[0]) == 0  # no zeros: nothing to tell
    assert len(blobs[-1]) < 0.5 * 50_000


def test_a_ternary_array_by_hand():
    (dtype, shape, streams), blobs = entropy.encode(np.array([[-1, 0], [1, -1]] * 8, "int8"))
    assert (dtype, shape) == ("int8", [16, 2])
    assert np.frombuffer(blobs[0], "int8").tolist() == [0, 1, -1]  # as unsigned: 0, 1, 255
    assert streams[1] == [12, [8, 8, 16]]
    assert len(blobs[1]) == 12  # 48 bits and the coder's state, in words of four bytes


def test_long_streams_are_coded_in_parts(monkeypatch):
    codes = np.random.default_rng(0).integers(0, 3, 1000).astype("uint8")
    whole = entropy.encode(codes)
    monkeypatch.setattr(entropy, "CHUNK", 7)
    assert entropy.encode(codes) == whole
    assert np.array_equal(round_trip(codes)[0], codes)


def test_bfloat16_and_odd_bits():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for array in (
        np.arange(1000, dtype="uint16").view(ml_dtypes.bfloat16),
        np.array([0.0, -0.0, np.nan, np.inf, 1e-45] * 3, "float32"),
        np.asfortranarray(np.arange(600.0).reshape(20, 30)),
    ):
        back, _ = round_trip(array)
        assert back.dtype == array.dtype
        assert back.tobytes() == np.ascontiguousarray(array).tobytes()


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="Received: complex64"):
        entropy.encode(np.ones(3, "complex64"))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record[2][1].__setitem__(1, [1, -1]),
        lambda record: record[2][1].__setitem__(1, [1] * 257),
        lambda record: record[2][1].__setitem__(1, [0.5, 1]),
        lambda record: record[2][1].__setitem__(1, None),
        lambda record: record.__setitem__(1, [15]),
        lambda record: record.__setitem__(0, "object"),
    ],
)
def test_wrong_records_are_refused(change):
    record, blobs = entropy.encode(np.array([1, 2, 1, 1] * 40, "int8"))
    change(record)
    with pytest.raises(ValueError):
        entropy.decode(record, iter(blobs))


def test_without_constriction_the_error_tells_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "constriction":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install constriction"):
        entropy.encode(np.array([1, 2] * 100))
