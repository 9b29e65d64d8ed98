import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.numerics import codecs

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7)
ARRAYS = st.one_of(
    hnp.arrays(np.int8, SHAPES, elements=st.sampled_from([-1, 1])),
    hnp.arrays(np.int8, SHAPES, elements=st.integers(-1, 1)),
    hnp.arrays(np.int8, SHAPES),
    hnp.arrays(np.uint8, SHAPES),
    hnp.arrays(np.int32, SHAPES),
    hnp.arrays(np.float32, SHAPES),
    hnp.arrays(np.float16, SHAPES),
)


@settings(max_examples=200, deadline=None)
@given(ARRAYS)
def test_pack_is_exact(array):
    packed = codecs.pack(array)
    back = packed.decode()
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()  # NaN and -0.0 too
    assert packed.bits == 8 * len(packed.payload) <= 8 * array.nbytes


@pytest.mark.parametrize(
    "values, bits",
    [([-1, 1], 1), ([-1, 0, 1], 2), ([-3, 3], 3), ([-7, 7], 4), ([-8, 7], 4), ([-127, 127], 8)],
)
def test_smallest_width(values, bits):
    array = np.resize(np.array(values, "int8"), 64)
    assert codecs.pack(array).bits == 64 * bits


def test_hand_worked_bytes():
    # +1 -1 -1 +1 +1 +1 -1 -1, the first in the lowest bit: 0b00111001
    signs = codecs.pack(np.array([1, -1, -1, 1, 1, 1, -1, -1], "int8"))
    assert signs.payload == bytes([0b00111001])
    # two bits each, two's complement, the first in the lowest bits: 1 = 01, 0 = 00, -1 = 11
    assert codecs.pack(np.array([1, 0, -1, 1], "int8")).payload == bytes([0b01110001])


def test_a_codec_refuses_what_it_cannot_hold():
    assert codecs.Signs().encode(np.array([1, 0], "int8")) is None
    assert codecs.Integers(2).encode(np.array([2], "int8")) is None
    assert codecs.Integers(8).encode(np.array([0.5], "float32")) is None
    with pytest.raises(TypeError, match="floats or integers"):
        codecs.pack(np.array(["a"]))


SPARSE = st.one_of(
    hnp.arrays(np.int8, SHAPES, elements=st.sampled_from([0] * 9 + [-1, 1, 5, -128])),
    hnp.arrays(np.uint8, SHAPES, elements=st.sampled_from([0] * 9 + [1, 255])),
    hnp.arrays(np.float32, SHAPES, elements=st.sampled_from([0.0] * 9 + [-0.0, 1.5, np.nan])),
)


@settings(max_examples=200, deadline=None)
@given(SPARSE)
def test_arrays_of_zeros_are_exact(array):
    test_pack_is_exact.hypothesis.inner_test(array)
    masked = codecs.Nonzeros(8 * array.itemsize).encode(array)
    assert masked.decode().tobytes() == array.tobytes()
    assert codecs.pack(array).bits <= masked.bits or np.count_nonzero(array) > array.size / 4


def test_nonzeros_by_hand():
    # The third and the eighth entry, +1 and -1: mask 0b10000100, then the signs 0b01.
    packed = codecs.pack(np.array([0, 0, 1, 0, 0, 0, 0, -1] + 8 * [0], "int8"))
    assert packed.codec == codecs.Nonzeros(1)
    assert packed.payload == bytes([0b10000100, 0, 0b01])
    floats = np.zeros(64, "float32")
    floats[5] = 1.5
    assert codecs.pack(floats).bits == 64 + 32
    assert codecs.pack(np.zeros(64, "float32")).bits == 64


def test_a_pruned_kernel_takes_a_bit_and_its_nonzero_weights():
    random = np.random.default_rng(0)
    w = random.standard_normal((100, 80)).astype("float32")
    w[random.random(w.shape) >= 0.1] = 0
    assert codecs.pack(w).bits == 8000 + 32 * np.count_nonzero(w)
