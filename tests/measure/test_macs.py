import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.layers import BinaryConv2D, HashedDense
from tfcompress.measure.macs import layer_macs, macs
from tfcompress.rewriting.opening import opened

L = keras.layers


def conv_oracle(layer, shape):
    """Counts products of a convolution by running it on ones, with a kernel of ones: in "valid"
    padding each output is the number of its products per output channel group."""
    layer.build((None, *shape))
    layer.set_weights([np.ones_like(w) for w in layer.get_weights()])
    return int(keras.ops.convert_to_numpy(keras.ops.sum(layer(np.ones((1, *shape), "float32")))))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (L.Dense(5, use_bias=False), (7,)),
        (L.Dense(5, use_bias=False), (3, 2, 7)),
        (L.Conv1D(4, 3, strides=2, use_bias=False), (9, 3)),
        (L.Conv2D(4, (3, 2), dilation_rate=2, use_bias=False), (9, 8, 3)),
        (L.Conv2D(4, 3, groups=2, use_bias=False), (6, 6, 4)),
        (L.Conv3D(2, 2, use_bias=False), (3, 4, 3, 2)),
        (L.DepthwiseConv1D(3, depth_multiplier=2, use_bias=False), (6, 3)),
        (L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), (6, 5, 3)),
        (L.Conv1DTranspose(4, 3, strides=2, use_bias=False), (5, 3)),
        (L.Conv2DTranspose(4, 3, strides=2, use_bias=False), (5, 4, 3)),
        (L.Conv3DTranspose(2, 2, use_bias=False), (2, 3, 2, 2)),
        (L.EinsumDense("abc,cde->abde", (None, 4, 2)), (3, 5)),
        (L.EinsumDense("...x,xy->...y", 4), (3, 2, 5)),
        (L.EinsumDense("abc,bcd->ad", 6), (3, 5)),
        (HashedDense(5, ratio=2, use_bias=False), (7,)),
        (BinaryConv2D(4, 3, use_bias=False), (5, 5, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, L.Layer) else "",
)
def test_one_layer_against_counted_products(layer, shape):
    if hasattr(layer, "macs"):
        ordinary = layer.ordinary(**{name: getattr(layer, name) for name in layer.arguments})
        ordinary.use_bias = False
        layer.build((None, *shape))
        assert layer_macs(layer, (None, *shape)) == conv_oracle(ordinary, shape)
    else:
        expected = conv_oracle(layer, shape)
        assert layer_macs(layer, (None, *shape)) == expected


def test_a_separable_convolution_worked_by_hand():
    layer = L.SeparableConv2D(5, 3, strides=2, use_bias=True)
    layer.build((None, 9, 9, 2))
    assert layer_macs(layer, (None, 9, 9, 2)) == 16 * (9 * 2 + 2 * 5)


def test_channels_first():
    layer = L.Conv2D(4, 3, data_format="channels_first")
    layer.build((None, 2, 6, 7))
    assert layer_macs(layer, (None, 2, 6, 7)) == 4 * 5 * 9 * 2 * 4


def test_uses_nesting_and_unknown_sizes():
    shared = L.Dense(4, name="shared", use_bias=False)
    block = keras.Sequential([keras.Input((None, 4)), L.Conv1D(2, 1, name="conv")], name="block")
    x = keras.Input((5, 4))
    y = block(shared(shared(x)))
    y = L.Concatenate(name="join")([y, L.Embedding(10, 3, name="words")(keras.ops.argmax(x, -1))])
    model = keras.Model(x, L.LSTM(3, name="lstm")(y))
    found = macs(model)
    assert found["shared"] == 2 * 5 * 16
    assert found["block/conv"] == 5 * 4 * 2  # the size comes from outside the block
    assert found["words"] == found["join"] == found["lstm"] == 0
    assert found["lstm/lstm_cell"] == 5 * (5 * 12 + 3 * 12)  # at each of five steps
    parts = macs(opened(model))
    assert parts["lstm/lstm_cell"] == 0
    assert parts["lstm/lstm_cell/kernel"] == 5 * 5 * 12
    assert parts["lstm/lstm_cell/recurrent_kernel"] == 5 * 3 * 12
    before = len(shared._inbound_nodes)
    macs(model)
    assert len(shared._inbound_nodes) == before


def test_steps_worked_by_hand():
    films = keras.Input((4, 7, 6, 2))
    model = keras.Model(films, L.ConvLSTM2D(3, (3, 2), strides=2, name="films")(films))
    # 3 x 3 positions at each of 4 steps; 4 gates of 3 channels, from 2 channels and from 3
    kernel, inner = 4 * 9 * (3 * 2 * 2 * 12), 4 * 9 * (3 * 2 * 3 * 12)
    assert sum(macs(model).values()) == kernel + inner
    parts = {path.rpartition("/")[2]: n for path, n in macs(opened(model)).items()}
    assert (parts["kernel"], parts["recurrent_kernel"]) == (kernel, inner)
    x = keras.Input((6, 5))
    both = keras.Model(x, L.Bidirectional(L.GRU(3))(x))
    assert sum(macs(both).values()) == 2 * 6 * (5 * 9 + 3 * 9)
    parts = macs(opened(both))
    assert sum(parts.values()) == 2 * 6 * (5 * 9 + 3 * 9)
    stacked = keras.Model(x, L.RNN([L.LSTMCell(3), L.SimpleRNNCell(2)])(x))
    assert sum(macs(stacked).values()) == 6 * (5 * 12 + 3 * 12 + 3 * 2 + 2 * 2)


def test_attention_worked_by_hand():
    query, value = keras.Input((6, 5)), keras.Input((4, 3))
    model = keras.Model([query, value], L.MultiHeadAttention(2, 7, value_dim=8)(query, value))
    found = {path.rpartition("/")[2]: n for path, n in macs(model).items()}
    expected = {"query": 6 * 5 * 14, "key": 4 * 3 * 14, "value": 4 * 3 * 16}
    expected["attention_output"] = 6 * 16 * 5
    assert {name: found[name] for name in expected} == expected
    grouped = keras.Model(query, L.GroupQueryAttention(7, 4, 2)(query, query))
    found = {path.rpartition("/")[2]: n for path, n in macs(grouped).items()}
    assert (found["key"], found["attention_output"]) == (6 * 5 * 14, 6 * 28 * 5)


def test_unknown_input_size():
    model = keras.Sequential([keras.Input((None, None, 1)), L.Conv2D(2, 3, name="conv")])
    assert macs(model) == {"conv": None}


def test_a_subclassed_model_counts_on_built_shapes():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = L.Dense(4, name="fc")

        def call(self, x):
            return self.fc(x)

    model = Net()
    model(np.ones((1, 3)))
    assert macs(model) == {"fc": 12}


def test_vectors_that_come_back_meet_the_whole_table():
    table = L.ReversibleEmbedding(100, 16, name="table")
    ids = keras.Input((5,), dtype="int32")
    model = keras.Model(ids, table(table(ids), reverse=True))
    assert macs(model) == {"table": 5 * 16 * 100}
    layers = tfc.layers
    makers = layers.QuantizedReversibleEmbedding, layers.LowRankReversibleEmbedding.using(rank=4)
    found = [macs(tfc.swap(model, {"table": maker}))["table"] for maker in makers]
    assert found == [5 * 16 * 100, 5 * 4 * 16 + 5 * 4 * (16 + 100)]
