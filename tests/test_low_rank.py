import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress.layers.base import ordinary_layer

rng = np.random.default_rng(0)


def dense(inputs, units):
    layer = keras.layers.Dense(units, name="fc")
    layer.build((None, inputs))
    return layer


def test_full_rank_is_exact():
    layer = dense(12, 7)
    low = tfc.layers.LowRankDense.from_layer(layer, rank=7)
    np.testing.assert_allclose(low.kernel, layer.kernel, atol=1e-6)


def test_options_resolve_to_an_int():
    layer = dense(100, 60)
    share = tfc.layers.LowRankDense.from_layer(layer, rank=0.25)
    assert share.get_config()["rank"] == int(0.25 * 6000 / 160) == 9
    layer.kernel.assign(rng.random((100, 1)) * rng.random((1, 60)))
    assert tfc.layers.LowRankDense.from_layer(layer, rank="auto").get_config()["rank"] == 1
    assert tfc.layers.LowRankDense.from_layer(dense(100, 60), rank=1e-6).rank == 1


def test_cost():
    low = tfc.layers.LowRankDense(60, rank=4)
    low.build((None, 5, 100))
    assert low.bits == 32 * 4 * 160 and low.macs((None, 5, 100)) == 5 * 4 * 160
    first, last = low.to_ordinary()
    assert (first.name, last.name) == (low.name + "_in", low.name)
    assert first.bias is None and last.bias is not None


@pytest.mark.parametrize(
    "cls, options",
    [
        (tfc.layers.CPConv2D, {}),
        (tfc.layers.CPConv2D, {"ways": 4}),
        (tfc.layers.SpatialConv2D, {}),
        (tfc.layers.TuckerConv2D, {}),
        (tfc.layers.LowRankConv2D, {}),
    ],
)
@settings(max_examples=8, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)).filter(lambda k: k != (1, 1)),
    step=st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]),
    padding=st.sampled_from(["same", "valid"]),
)
def test_chains_equal_the_convolution_with_their_kernel(cls, options, kernel, step, padding):
    strides, dilation = step
    layer = cls(
        5, kernel, strides=strides, dilation_rate=dilation, padding=padding, rank=2, **options
    )
    x = rng.random((2, 14, 15, 3), "float32")
    y = layer(x)
    ordinary = ordinary_layer(layer, layer.own_arguments(), np.asarray(layer.kernel))
    np.testing.assert_allclose(y, ordinary(x), rtol=1e-4, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == y.shape
    for part in layer.to_ordinary():
        x = part(x)
    np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


def test_cp_of_a_cp_kernel_and_cost():
    teacher = tfc.layers.CPConv2D(6, 3, rank=2, name="c")
    teacher.build((None, 8, 8, 4))
    student = tfc.layers.CPConv2D.from_layer(teacher, rank=2)
    error = np.linalg.norm(np.asarray(student.kernel) - np.asarray(teacher.kernel))
    assert error < 0.02 * np.linalg.norm(np.asarray(teacher.kernel))
    assert teacher.bits == 32 * 2 * (9 + 4 + 6)
    assert teacher.macs((None, 8, 8, 4)) == 2 * (64 * 4 + 36 * (9 + 6))
    assert tfc.layers.CPConv2D.from_layer(teacher, rank="auto").rank == 2


def test_cp_auto_rank_needs_weights():
    with pytest.raises(ValueError, match="trained kernel"):
        tfc.layers.CPConv2D(6, 3, rank="auto").build((None, 8, 8, 4))
