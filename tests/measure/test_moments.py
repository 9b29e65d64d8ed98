import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfcompress.graph.intercept import altered
from tfcompress.graph.suffix import watching
from tfcompress.measure.moments import Moments, enough_positions, measure
from tfcompress.measure.rows import as_kernel, can_measure, fan_in_first, patches
from tfcompress.numerics.metric import Diagonal, Kronecker

RNG = np.random.default_rng(0)
LINE = RNG.normal(size=(3, 11, 4)).astype("float32")
IMAGE = RNG.normal(size=(3, 9, 8, 4)).astype("float32")
VOLUME = RNG.normal(size=(2, 5, 6, 7, 4)).astype("float32")


def conv2d(**arguments):
    return layers.Conv2D(6, (3, 2), use_bias=False, **arguments)


CASES = {
    "dense": (layers.Dense(5), IMAGE),
    "einsum heads": (layers.EinsumDense("abc,cde->abde", (None, 3, 5)), LINE),
    "einsum two axes": (layers.EinsumDense("abcd,cde->abe", (None, 5)), IMAGE),
    "einsum ellipsis": (layers.EinsumDense("...x,xy->...y", 7), LINE),
    "einsum middle": (layers.EinsumDense("btd,ndh->btnh", (None, 2, 3)), LINE),
    "einsum units first": (layers.EinsumDense("btd,hd->bth", (None, 3)), LINE),
    "einsum apart": (layers.EinsumDense("bhwd,nhdk->bwnk", (8, 2, 3)), IMAGE),
    "einsum steps": (layers.EinsumDense("btd,tk->bdk", (4, 3)), LINE),
    "einsum mean": (layers.EinsumDense("btd,dk->bk", 3), LINE),
    "einsum grouped": (layers.EinsumDense("bnd,ndh->bnh", (11, 3)), LINE),
    "einsum grouped, groups last": (layers.EinsumDense("...nd,dnh->...nh", (8, 3)), IMAGE),
    "causal": (layers.Conv1D(6, 3, dilation_rate=2, padding="causal", use_bias=False), LINE),
    "conv1d grouped": (layers.Conv1D(6, 4, strides=3, padding="same", groups=2), LINE),
    "conv2d valid": (conv2d(strides=2), IMAGE),
    "conv2d same": (conv2d(strides=(3, 2), padding="same"), IMAGE),
    "conv2d grouped": (conv2d(padding="same", groups=2), IMAGE),
    "conv2d dilated": (conv2d(padding="same", dilation_rate=2), IMAGE),
    "conv3d": (layers.Conv3D(6, (3, 2, 3), strides=(1, 2, 1), padding="same"), VOLUME),
    "depthwise1d": (layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same"), LINE),
    "depthwise2d": (layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2), IMAGE),
}


@pytest.mark.parametrize("name", CASES)
def test_patches_times_kernel_is_the_layer(name):
    layer, x = CASES[name]
    expected = keras.ops.convert_to_numpy(layer(x))
    rows = patches(layer, x)
    groups, _, n = rows.shape
    kernel = fan_in_first(layer, np.asarray(layer.kernel))
    found = rows @ kernel.reshape(n, groups, -1).transpose(1, 0, 2)
    if "einsum grouped" in name:  # the group is a position of the output
        found = np.moveaxis(found.reshape(groups, *expected.shape[:-2], -1), 0, -2)
    else:
        found = found.transpose(1, 0, 2).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert groups == (1 if "grouped" not in name and "depthwise" not in name else rows.shape[0])


@pytest.mark.parametrize("name", [name for name in CASES if "einsum" in name])
def test_a_kernel_comes_back_from_its_matrix(name):
    layer, x = CASES[name]
    layer(x)
    kernel = np.random.default_rng(0).normal(size=layer.kernel.shape)
    np.testing.assert_array_equal(as_kernel(layer, fan_in_first(layer, kernel)), kernel)
    layer.kernel.assign(kernel)
    moments = Moments(layer)
    moments.add(x, x + 0.0)  # nothing has moved
    np.testing.assert_allclose(moments.adapted(), np.asarray(layer.kernel), rtol=1e-6)


def test_channels_first():
    first = layers.Conv2D(3, 2, data_format="channels_first")
    last = layers.Conv2D(3, 2)
    np.testing.assert_array_equal(patches(first, np.moveaxis(IMAGE, -1, 1)), patches(last, IMAGE))


@pytest.mark.parametrize("name", ["dense", "conv2d grouped", "depthwise2d", "einsum middle"])
def test_the_form_is_half_the_change_of_the_outputs(name):
    rng = np.random.default_rng(0)
    layer, x = CASES[name]
    before = np.asarray(layer(x), "float64")
    metric = measure(layer, x)
    e = rng.normal(size=layer.kernel.shape).astype("float32")
    layer.kernel.assign_add(e)
    change = np.asarray(layer(x), "float64") - before
    layer.kernel.assign_add(-e)
    positions = change.size // math.prod(change.shape[2 if "einsum" in name else -1 :])
    e = fan_in_first(layer, e)
    assert metric.quadratic(e) == pytest.approx(np.sum(change**2) / positions / 2, rel=1e-4)


def test_streams_and_chunks_add_up(monkeypatch):
    layer = conv2d(padding="same")
    whole = measure(layer, IMAGE).blocks[0]
    np.testing.assert_allclose(measure(layer, (x[None] for x in IMAGE)).blocks[0], whole, atol=1e-5)
    monkeypatch.setattr("tfcompress.measure.moments.PATCH_NUMBERS", 1)
    np.testing.assert_allclose(measure(layer, IMAGE).blocks[0], whole, atol=1e-5)


def test_a_large_fan_in_is_cut_into_blocks():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 10)).astype("float32")
    metric = measure(layers.Dense(3), x, block=4, g=np.ones(3))
    assert [block.shape for block in metric.blocks] == [(1, 4, 4), (1, 4, 4), (1, 2, 2)]
    np.testing.assert_allclose(metric.blocks[1][0], x[:, 4:8].T @ x[:, 4:8] / 50, rtol=1e-5)
    assert metric.g.tolist() == [1.0, 1.0, 1.0]


def test_an_embedding_counts_its_rows():
    layer = layers.Embedding(5, 2)
    metric = measure(layer, np.array([[1, 1], [4, 1]]), g=[1.0, 2.0])
    assert isinstance(metric, Diagonal)
    assert metric.d.tolist() == [[0, 0], [0.75, 1.5], [0, 0], [0, 0], [0.25, 0.5]]


@pytest.mark.parametrize("name", ["dense", "conv2d grouped"])
def test_the_adapted_kernel_is_least_squares_on_what_came_before(name):
    rng = np.random.default_rng(0)
    layer, before = CASES[name]
    outputs = np.asarray(layer(before), "float64")
    x = before + 0.3 * rng.normal(size=before.shape).astype("float32")
    moments = Moments(layer)
    for part in (slice(0, 1), slice(1, 3)):
        moments.add(x[part], before[part])
    found = moments.adapted()
    rows = patches(layer, x).astype("float64")
    outputs = outputs.reshape(-1, len(rows), outputs.shape[-1] // len(rows)).transpose(1, 0, 2)
    split = Kronecker.split
    errors = []
    best = np.stack(
        [np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(rows, outputs, strict=True)]
    )
    for kernel in (best, split(moments.metric(), found), split(moments.metric(), layer.kernel)):
        errors.append(np.sum((rows @ kernel - outputs) ** 2))
    assert errors[0] <= errors[1] < errors[0] + 0.02 * (errors[2] - errors[0])


def test_unchanged_inputs_leave_the_kernel():
    layer, x = CASES["dense"]
    layer(x)
    moments = Moments(layer)
    moments.add(x, x)
    np.testing.assert_allclose(moments.adapted(), np.asarray(layer.kernel), atol=1e-12)


def test_inputs_are_seen_at_any_depth_and_nothing_stays_behind():
    rng = np.random.default_rng(0)
    shared = layers.Dense(4, name="shared")
    block = keras.Sequential([keras.Input((4,)), layers.ReLU(), layers.Dense(4, name="fc")])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(block(shared(inputs))))
    x = rng.normal(size=(2, 4)).astype("float32")
    seen = []
    fc = block.layers[-1]
    watching(model, [shared, fc], lambda layer, array: seen.append((layer.name, array)))(x)
    assert [name for name, _ in seen] == ["shared", "fc", "shared"]
    np.testing.assert_array_equal(seen[0][1], x)
    np.testing.assert_allclose(seen[1][1], np.maximum(np.asarray(shared(x)), 0), rtol=1e-6)
    assert "call" not in vars(shared)


def test_another_thread_may_use_the_model_meanwhile():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="fc")])
    x = rng.normal(size=(2, 4)).astype("float32")
    expected = np.asarray(model(x))

    def doubled(call, x, *args, **kwargs):
        np.testing.assert_array_equal(model(x), expected)  # the model itself, in the middle of it
        return 2 * call(x, *args, **kwargs)

    changed = altered(model, {model.layers[0]: doubled})
    np.testing.assert_array_equal(changed(x), 2 * expected)
    assert changed.layers[0].kernel is model.layers[0].kernel
    np.testing.assert_array_equal(model(x), expected)


def test_an_input_given_by_name_is_seen():
    rng = np.random.default_rng(0)

    class ByName(layers.Layer):
        def __init__(self):
            super().__init__()
            self.part = layers.BatchNormalization()

        def call(self, x):
            return self.part(inputs=x)

    model = keras.Sequential([keras.Input((4,)), ByName()])
    x, seen = rng.normal(size=(2, 4)).astype("float32"), []
    watching(model, [model.layers[0].part], lambda _, array: seen.append(array))(x)
    np.testing.assert_array_equal(seen, [x])


class InAGraph(layers.Layer):
    """Runs its part inside a graph of its own."""

    def __init__(self):
        super().__init__()
        self.part = layers.Dense(2)

    def call(self, x):
        return tf.function(self.part)(x)


def test_each_step_is_seen_and_a_call_without_values_is_passed_over():
    model = keras.Sequential([keras.Input((3, 4)), layers.TimeDistributed(layers.Dense(2))])
    seen = []
    watching(model, [model.layers[0].layer], lambda _, x: seen.append(x))(LINE[:, :3])
    np.testing.assert_array_equal(np.stack(seen, 1), LINE[:, :3])
    model = keras.Sequential([keras.Input((4,)), InAGraph()])
    watching(model, [model.layers[0].part], lambda _, x: seen.append(x))(LINE[:, 0])
    assert len(seen) == 3


def test_as_many_positions_are_enough_as_tell_the_inputs_apart():
    plain, spread = layers.Conv2D(6, 12), layers.Conv2DTranspose(6, 12, strides=(1, 3))
    dense, steps = layers.Dense(6), layers.EinsumDense("btd,ndh->btnh", (None, 2, 3))
    for layer, x in ((plain, (1, 12, 12, 4)), (spread, (1, 3, 3, 4)), (dense, (1, 600))):
        layer.build(x)
    steps.build((1, 2, 600))
    inputs = 12 * 12 * 4
    assert enough_positions(plain, 9) == 16 * inputs // 9
    assert enough_positions(spread, 9) == 3 * 16 * inputs // 9  # a third of the taps meet zeros
    assert enough_positions(dense, 9600) == 1
    assert enough_positions(steps, 600) == 16
    assert enough_positions(layers.Dense(2), 4) == 1024 // 4  # not built


def test_what_cannot_be_measured_says_so():
    for layer in (
        layers.SeparableConv2D(3, 3),
        layers.LSTM(3),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.EinsumDense("abc,dcb->adb", (3, 11)),  # groups that lie apart
        layers.EinsumDense("ab,bcc->ac", 3),
    ):
        assert not can_measure(layer)
        with pytest.raises(ValueError, match=type(layer).__name__):
            measure(layer, IMAGE)
    with pytest.raises(ValueError, match="no inputs"):
        measure(layers.Dense(2), [])


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv1DTranspose(3, 4, strides=2, use_bias=False),
        layers.Conv2DTranspose(3, (2, 3), strides=(1, 2), use_bias=False),
        layers.Conv2DTranspose(3, 2, dilation_rate=2, use_bias=False),
        layers.Conv3DTranspose(2, 2, use_bias=False),
    ],
    ids=["strided", "two strides", "dilated", "3d"],
)
def test_the_moments_of_a_transposed_convolution_give_its_outputs(layer):
    space = len(layer.kernel_size)
    x = np.random.default_rng(0).standard_normal((3, *(5, 4, 3)[:space], 2)).astype("float32")
    try:
        outputs = np.array(layer(x), "float64")
    except tf.errors.InvalidArgumentError as error:  # on processors without oneDNN
        if "not yet support dilation" not in str(error):
            raise
        pytest.skip("Keras' own layer does not run here: TensorFlow has no dilated kernel for it")
    kernel = np.swapaxes(np.array(layer.kernel), -1, -2).reshape(-1, layer.filters)
    form = measure(layer, x).blocks[0][0]
    expected = np.einsum("io,ij,jo->o", kernel, form, kernel)
    positions = tuple(range(outputs.ndim - 1))
    np.testing.assert_allclose(np.mean(outputs**2, positions), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["conv1d grouped", "conv2d same", "conv3d", "depthwise2d"])
def test_drawn_positions_are_some_of_all_rows(name):
    layer, x = CASES[name]
    layer(x)
    some, every = patches(layer, x, positions=3, seed=1), patches(layer, x)
    assert some.shape == (every.shape[0], 3 * len(x), every.shape[2])
    places = every.shape[1] // len(x)
    for group, wanted in zip(some, every, strict=True):
        rows = [np.flatnonzero((wanted == row).all(1)) for row in group]
        assert all(len(found) for found in rows)
        at = {int(found[0]) % places for found in rows if len(found) == 1}
        assert len(at) <= 3  # the same for all examples
    np.testing.assert_array_equal(patches(layer, x, positions=10**6), every)


def test_the_kernel_is_adapted_at_the_positions_drawn():
    layer = conv2d(padding="same")
    layer(IMAGE)
    moments = Moments(layer, positions=40)
    for _ in range(8):
        moments.add(0.5 * IMAGE, IMAGE)
    np.testing.assert_allclose(moments.adapted(), 2 * np.asarray(layer.kernel), atol=0.05)
    assert moments.count == 8 * 3 * 40


def test_a_reversible_embedding_is_measured_in_both_directions():
    table = layers.ReversibleEmbedding(9, 4)
    ids, moments = np.array([[1, 1, 2]]), Moments(table)
    table.build()
    moments.add(ids)
    moments.add(LINE)
    counts = np.array([0, 2, 1, 0, 0, 0, 0, 0, 0]) / 3
    expected = counts[:, None] + (LINE.astype("float64") ** 2).mean((0, 1))
    np.testing.assert_allclose(moments.metric().d, Diagonal(expected).d)
