"""Low rank of transposed convolutions and in three dimensions."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.measure.moments import Moments

L, forms = keras.layers, tfc.layers
KINDS = {
    "1d": (L.Conv1DTranspose(6, 4, strides=2, name="up"), (9, 5)),
    "2d": (L.Conv2DTranspose(6, (2, 3), padding="same", name="up"), (7, 6, 5)),
    "3d": (L.Conv3DTranspose(4, 2, strides=2, name="up"), (3, 4, 3, 5)),
    "plain 3d": (L.Conv3D(6, 2, name="up"), (4, 4, 3, 5)),
}


def built(kind):
    keras.utils.set_random_seed(0)
    plain, shape = KINDS[kind]
    layer = type(plain).from_config(plain.get_config())
    layer.build((None, *shape))
    x = np.random.default_rng(0).normal(size=(8, *shape)).astype("float32")
    x[..., 1:] *= 0.1  # one channel says most
    return layer, getattr(forms, f"LowRank{type(layer).__name__}"), x


@pytest.mark.parametrize("kind", KINDS)
def test_full_rank_is_exact(kind):
    layer, cls, x = built(kind)
    full = cls.ranks(layer.kernel.shape)[-1]
    np.testing.assert_allclose(cls.from_layer(layer, rank=full)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_and_macs_worked_by_hand(kind):
    layer, cls, x = built(kind)
    small = cls.from_layer(layer, rank=2)
    *taps, a, b = layer.kernel.shape
    assert small.bits == 32 * 2 * (np.prod(taps) * a + b)
    each = np.prod(layer.compute_output_shape(x.shape)[1:-1] if "plain" in kind else x.shape[1:-1])
    assert small.macs(x.shape) == each * small.bits // 32
    model = tfc.to_ordinary(
        tfc.swap(keras.Sequential([keras.Input(x.shape[1:]), layer]), {"up": cls.using(rank=2)})
    )
    assert [type(one) for one in model.layers][-1] is type(layer)
    np.testing.assert_allclose(model(x), small(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_measured_on_inputs_the_outputs_are_nearer(kind):
    layer, cls, x = built(kind)
    moments = Moments(layer)
    moments.add(x)
    errors = [
        np.square(cls.from_layer(layer, metric, rank=2)(x) - layer(x)).mean()
        for metric in (None, moments.metric())
    ]
    assert errors[1] < 0.8 * errors[0]


def test_many_inputs_whose_moments_are_cut_into_blocks():
    layer, cls, x = built("2d")
    moments = Moments(layer, block=11)
    moments.add(x)
    small = cls.from_layer(layer, moments.metric(), rank=2)
    plain = cls.from_layer(layer, rank=2)
    error, of_plain = (np.square(one(x) - layer(x)).mean() for one in (small, plain))
    assert error < of_plain


def test_shares_and_automatic_ranks():
    layer, cls, x = built("2d")
    assert cls.from_layer(layer, rank=0.5).rank == 2  # 2 * (5 + 36) of 180 weights
    moments = Moments(layer)
    moments.add(x)
    assert 1 <= cls.from_layer(layer, moments.metric(), rank="auto").rank <= 5
    with pytest.raises(ValueError, match="full rank"):
        cls.from_layer(layer, rank=6)
