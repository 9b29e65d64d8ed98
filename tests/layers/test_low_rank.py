import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc
from tfcompress import layers
from tfcompress.layers.core.ordinary import ordinary_layer
from tfcompress.measure.macs import layer_macs
from tfcompress.numerics.low_rank import svd_in_metric
from tfcompress.numerics.metric import Kronecker

RANKED = [
    (layers.LowRankConv2D, {}),
    (layers.SpatialConv2D, {}),
    (layers.CPConv2D, {}),
    (layers.CPConv2D, {"ways": 4}),
    (layers.TuckerConv2D, {}),
]


def dense(inputs, units):
    layer = keras.layers.Dense(units, name="fc")
    layer.build((None, inputs))
    return layer


def conv(channels, filters, size, image=8, **options):
    layer = keras.layers.Conv2D(filters, size, **options)
    layer.build((None, image, image, channels))
    return layer


def test_full_rank_is_exact():
    layer = dense(12, 7)
    low = layers.LowRankDense.from_layer(layer, rank=7)
    np.testing.assert_allclose(low.kernel, layer.kernel, atol=1e-6)


def test_options_resolve_to_an_int():
    rng = np.random.default_rng(0)
    layer = dense(100, 60)
    share = layers.LowRankDense.from_layer(layer, rank=0.25)
    assert share.get_config()["rank"] == int(0.25 * 6000 / 160) == 9
    layer.kernel.assign(rng.random((100, 1)) * rng.random((1, 60)))
    assert layers.LowRankDense.from_layer(layer, rank="auto").get_config()["rank"] == 1
    assert layers.LowRankDense.from_layer(dense(100, 60), rank=1e-6).rank == 1


def test_cost():
    low = layers.LowRankDense(60, rank=4)
    low.build((None, 5, 100))
    assert low.bits == 32 * 4 * 160 and low.macs((None, 5, 100)) == 5 * 4 * 160
    first, last = low.to_ordinary()
    assert (first.name, last.name) == (low.name + "_in", low.name)
    assert first.bias is None and last.bias is not None


def close(received, expected, tolerance=1e-5):
    received, expected = np.asarray(received), np.asarray(expected)
    scale = np.sqrt(np.mean(expected**2))
    assert np.max(np.abs(received - expected)) <= tolerance * max(scale, 1e-6)


@pytest.mark.parametrize("ranked", RANKED)
@settings(max_examples=15, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)).filter(lambda k: k != (1, 1)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilated=st.booleans(),
    padding=st.sampled_from(["same", "valid"]),
    bias=st.booleans(),
)
def test_agrees_with_the_convolution_with_its_kernel(
    ranked, kernel, strides, dilation, dilated, padding, bias
):
    rng = np.random.default_rng(0)
    cls, options = ranked
    if cls is layers.CPConv2D:
        strides = strides[:1] * 2
    step = {"dilation_rate": dilation} if dilated else {"strides": strides}
    layer = cls(5, kernel, padding=padding, use_bias=bias, rank=2, **step, **options)
    x = rng.standard_normal((2, 14, 15, 3)).astype("float32")
    y = layer(x)
    ordinary = ordinary_layer(layer, layer.own_arguments(), np.asarray(layer.kernel))
    close(y, ordinary(x))
    assert layer.compute_output_shape(x.shape) == y.shape
    for part in layer.to_ordinary():
        x = part(x)
    close(y, x)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([(1, 1), (2, 1), (1, 3)]),
    st.sampled_from(["same", "valid", "causal"]),
)
def test_conv1d_agrees_with_the_convolution_with_its_kernel(kernel, step, padding):
    rng = np.random.default_rng(0)
    layer = layers.LowRankConv1D(
        5, kernel, strides=step[0], dilation_rate=step[1], padding=padding, rank=2
    )
    x = rng.standard_normal((2, 14, 3)).astype("float32")
    y = layer(x)
    close(y, ordinary_layer(layer, layer.own_arguments(), np.asarray(layer.kernel))(x))
    for part in layer.to_ordinary():
        x = part(x)
    close(y, x)


@pytest.mark.parametrize("cls", [cls for cls, _ in RANKED])
def test_a_1x1_convolution_takes_the_svd_form(cls):
    rng = np.random.default_rng(0)
    ordinary = conv(6, 8, 1, strides=2)
    layer = cls.from_layer(ordinary, rank=6)
    assert type(layer) is layers.LowRankConv2D
    x = rng.standard_normal((2, 8, 8, 6)).astype("float32")
    close(layer(x), ordinary(x))
    model = keras.Sequential([keras.Input((8, 8, 6)), ordinary, conv(8, 12, 3)])
    small = tfc.swap(model, {keras.layers.Conv2D: cls.using(macs=0.5)})
    assert [type(layer) for layer in small.layers] == [layers.LowRankConv2D, cls]


@pytest.mark.parametrize("cls", [cls for cls, _ in RANKED])
def test_groups_are_refused(cls):
    with pytest.raises(ValueError, match="grouped convolution"):
        cls(4, 3, groups=2, rank=1)
    with pytest.raises(ValueError, match="grouped convolution"):
        cls.from_layer(conv(6, 8, 3, groups=2), rank=1)


@pytest.mark.parametrize("ranked", RANKED)
@pytest.mark.parametrize(
    "options, size",
    [({"padding": "same"}, 16), ({"strides": 2, "padding": "same"}, 15), ({}, 7)],
)
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_macs_is_the_largest_rank_within_the_share(ranked, options, size, share):
    cls, form = ranked
    ordinary = conv(12, 20, 3, size, **options)
    shape = (None, size, size, 12)
    limit = share * layer_macs(ordinary, shape)
    layer = cls.from_layer(ordinary, macs=share, **form)
    assert layer.macs(shape) <= limit
    ladder = list(cls.ranks((3, 3, 12, 20), **form))
    above = ladder[ladder.index(layer.rank) + 1]
    assert cls.from_layer(ordinary, rank=above, **form).macs(shape) > limit
    config = layer.get_config()
    assert config["macs"] is None and config["rank"] == layer.rank
    fresh = cls(20, 3, macs=share, **options, **form)
    fresh.build(shape)
    assert fresh.rank == layer.rank


def test_macs_of_a_chain_are_those_of_its_parts():
    layer = layers.CPConv2D(20, (3, 2), strides=2, rank=5)
    layer.build((None, 11, 12, 6))
    shape, total = (None, 11, 12, 6), 0
    for part in layer.to_ordinary():
        total += layer_macs(part, shape)
        shape = part.compute_output_shape(shape)
    assert layer.macs((None, 11, 12, 6)) == total


def test_macs_needs_the_input_size_and_excludes_a_rank():
    with pytest.raises(ValueError, match="known input size"):
        layers.CPConv2D(8, 3, macs=0.5).build((None, None, None, 4))
    for options in ({}, {"rank": 2, "macs": 0.5}):
        with pytest.raises(ValueError, match="either `rank` or `macs`"):
            layers.SpatialConv2D(8, 3, **options)
        with pytest.raises(ValueError, match="either `rank` or `macs`"):
            layers.SpatialConv2D.from_layer(conv(6, 8, 3), **options)
    for wrong in (4, 1.0, 0.0, "auto"):
        with pytest.raises(ValueError, match=r"share .* in \(0, 1\)"):
            layers.LowRankDense(8, macs=wrong)


@pytest.mark.parametrize("ranked", RANKED)
def test_automatic_ranks_are_saved_as_numbers(ranked):
    cls, form = ranked
    ordinary = conv(6, 8, 3)
    for rank in ("auto", "evbmf"):
        found = cls.from_layer(ordinary, rank=rank, **form).get_config()["rank"]
        numbers = found if isinstance(found, tuple) else (found,)
        assert all(type(number) is int and number >= 1 for number in numbers)
        with pytest.raises(ValueError, match="trained kernel"):
            cls(6, 3, rank=rank, **form).build((None, 8, 8, 4))
    with pytest.raises(ValueError, match="rank"):
        cls(6, 3, rank="automatic", **form)


def test_auto_rank_looks_through_the_metric():
    """Only one direction of the inputs ever occurs: one component keeps nearly all."""
    rng = np.random.default_rng(0)
    layer, direction = dense(12, 9), rng.standard_normal(12)
    metric = Kronecker(np.outer(direction, direction), damping=1e-4)
    assert layers.LowRankDense.from_layer(layer, metric=metric, rank="auto").rank == 1
    assert layers.LowRankDense.from_layer(layer, rank="auto").rank > 3
    assert layers.LowRankDense.from_layer(layer, metric=np.ones((12, 9)), rank="auto").rank > 3
    image, inputs = conv(4, 9, 3), np.kron(np.eye(9), np.ones((4, 4)))
    metric = Kronecker(inputs, damping=1e-4)
    assert layers.TuckerConv2D.from_layer(image, rank="auto").rank[0] > 1
    assert layers.TuckerConv2D.from_layer(image, metric=metric, rank="auto").rank[0] == 1


@pytest.mark.parametrize("ranked", RANKED)
def test_a_fresh_kernel_has_the_variance_of_glorot(ranked):
    cls, form = ranked
    squares = []
    for seed in range(20):
        keras.utils.set_random_seed(seed)
        layer = cls(60, 3, rank=(9, 9) if cls is layers.TuckerConv2D else 12, **form)
        layer.build((None, 8, 8, 40))
        squares.append(np.mean(np.square(layer.kernel)))
    assert np.mean(squares) == pytest.approx(2 / (9 * (40 + 60)), rel=0.15)


@pytest.mark.parametrize("ranked", RANKED)
def test_weight_decay_is_on_the_product(ranked):
    cls, form = ranked
    layer = cls(6, 3, rank=2, kernel_regularizer=keras.regularizers.L2(0.1), **form)
    layer(np.ones((1, 8, 8, 4), "float32"))
    expected = 0.1 * np.sum(np.square(layer.kernel))
    assert float(layer.losses[0]) == pytest.approx(expected, rel=1e-5)


def test_a_kernel_fitted_in_a_metric_loses_less():
    rng = np.random.default_rng(0)
    ordinary = conv(6, 8, 3)
    x = rng.standard_normal((400, 54)) * np.geomspace(1, 10, 54)[rng.permutation(54)]
    metric = Kronecker(x.T @ x / 400)
    w = np.asarray(ordinary.kernel)
    for cls, form in RANKED:
        plain, fitted = (cls.from_layer(ordinary, m, rank=3, **form) for m in (None, metric))
        losses = [metric.quadratic(w - np.asarray(layer.kernel)) for layer in (plain, fitted)]
        assert losses[1] < 0.9 * losses[0], cls


def test_cp_of_a_cp_kernel_and_cost():
    teacher = layers.CPConv2D(6, 3, rank=2, name="c")
    teacher.build((None, 8, 8, 4))
    student = layers.CPConv2D.from_layer(teacher, rank=2)
    error = np.linalg.norm(np.asarray(student.kernel) - np.asarray(teacher.kernel))
    assert error < 0.02 * np.linalg.norm(np.asarray(teacher.kernel))
    assert teacher.bits == 32 * 2 * (9 + 4 + 6)
    assert teacher.macs((None, 8, 8, 4)) == 2 * (64 * 4 + 36 * (9 + 6))
    assert layers.CPConv2D.from_layer(teacher, rank="auto").rank == 2


@pytest.mark.parametrize("form", ["Dense", "Conv1D", "Conv2D"])
def test_a_diagonal_metric_in_every_guise(form):
    """As an array, a list or a `Diagonal`, of the kernel's own shape: the same factors."""
    random = np.random.default_rng(0)
    arguments, shape = {"Dense": ((8,), (2, 6)), "Conv1D": ((8, 3), (2, 9, 4))}.get(
        form, ((8, 3), (2, 8, 8, 4))
    )
    plain = getattr(keras.layers, form)(*arguments)
    plain.build(shape)
    make = getattr(tfc.layers, f"LowRank{form}").from_layer
    d = random.uniform(0.1, 1, plain.kernel.shape)
    kernels = [
        np.asarray(make(plain, metric, rank=3).kernel)
        for metric in (d, d.tolist(), tfc.metric.Diagonal(d))
    ]
    for kernel in kernels[1:]:
        np.testing.assert_array_equal(kernel, kernels[0])
    flat = np.asarray(plain.kernel).reshape(-1, 8)
    u, v = svd_in_metric(flat, 3, d.reshape(flat.shape))
    np.testing.assert_allclose(kernels[0].reshape(flat.shape), u @ v, atol=1e-5)
    with pytest.raises(ValueError, match="like the kernel"):
        make(plain, tfc.metric.Diagonal(np.ones((6, 1))), rank=2)
    with pytest.raises(ValueError, match="does not fit"):
        make(plain, tfc.metric.Kronecker(np.eye(3)), rank=2)
