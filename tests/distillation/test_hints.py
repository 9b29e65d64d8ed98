import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.distillation import losses as distill_losses
from tfcompress.distillation.hints import Hint, Link
from tfcompress.distillation.regressor import Regressor
from tfcompress.graph.features import Tapped, find, output_activations

X = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype("float32")


def net(width=4, name="net", size=8):
    """A nested block, a shared layer, a bare operation."""
    inputs = keras.Input((size, size, 2))
    conv = layers.Conv2D(width, 3, padding="same", activation="relu", name="conv")
    inner = keras.Sequential(
        [
            keras.Input((size, size, width)),
            layers.Conv2D(width, 3, name="deep"),
            layers.ReLU(name="act"),
        ],
        name="block",
    )
    x = conv(inputs)
    shared = layers.Conv2D(width, 1, name="shared")
    x = shared(shared(x))
    x = inner(x) + 1.0
    flat = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(flat), name=name)


def sequential(units, name):
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(units, name="fc"), layers.Dense(3, name="out")], name=name
    )


def features(model, *places):
    tapped = Tapped(model, [find(model, place) for place in places])
    return [keras.ops.convert_to_numpy(f) for f in tapped(X, training=False).features]


def test_places_can_be_named_in_each_way():
    model = net()
    block = model.get_layer("block")
    by_path, by_name, by_layer = features(model, "block/deep", "deep", block.get_layer("deep"))
    np.testing.assert_array_equal(by_path, by_name)
    np.testing.assert_array_equal(by_path, by_layer)
    first = keras.Model(model.input, model.get_layer("shared").output)(X)
    np.testing.assert_array_equal(features(model, "shared:0")[0], keras.ops.convert_to_numpy(first))
    second = model.get_layer("shared")(first)
    found, by_tensor = features(model, "shared:1", block.input)
    np.testing.assert_array_equal(found, by_tensor)
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(second), atol=1e-6)


def test_a_symbolic_tensor_is_a_place():
    model = net()
    tensor = model.get_layer("flat").output
    assert find(model, tensor).name == "flat"
    (found,) = features(model, tensor)
    expected = keras.Model(model.input, tensor)(X)
    np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(expected))


def test_the_outputs_are_those_of_the_model():
    model = net()
    tapped = Tapped(model, [find(model, "deep")])
    forward = tapped(X, training=False)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(forward.outputs), model.predict(X, verbose=0)
    )
    assert tapped.up_to.count_params() < model.count_params()


@pytest.mark.parametrize("place", ["cnov", "shared", "nothing at all", layers.Dense(3)])
def test_a_place_must_be_one(place):
    with pytest.raises(ValueError, match="places"):
        find(net(), place)


def test_near_names_are_told():
    with pytest.raises(ValueError, match=r"block/deep"):
        find(net(), "deeep")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.fc = layers.Dense(3)

    def call(self, x):
        return self.fc(x)


def test_hints_need_a_graph():
    with pytest.raises(ValueError, match=r"Subclassed.*keras.Model\(inputs, outputs\)"):
        find(Subclassed(), "fc")


def test_activations_at_the_end():
    inputs = keras.Input((4,))
    x = layers.Dense(4)(inputs)
    ends = [
        layers.Dense(4, activation="softmax")(x),
        layers.Softmax()(x),
        keras.ops.softmax(x),
        keras.ops.sigmoid(x),
        layers.Reshape((4, 1))(layers.Activation("sigmoid")(x)),
        keras.Sequential([keras.Input((4,)), layers.Dense(2, activation="softmax")])(x),
        x,
    ]
    names = [a.__name__ for a in output_activations(keras.Model(inputs, ends))]
    assert names == ["softmax", "softmax", "softmax", "sigmoid", "sigmoid", "softmax", "linear"]


def test_no_regressor_for_equal_shapes():
    link = Link(Hint(student="fc", teacher="fc"), sequential(5, "s"), sequential(5, "t"))
    assert link.regressor is None


def test_a_matrix_for_vectors():
    link = Link(Hint(student="fc", teacher="fc"), sequential(2, "s"), sequential(5, "t"))
    assert [tuple(v.shape) for v in link.regressor.trainable_variables] == [(2, 5), (5,)]
    found = keras.ops.convert_to_numpy(link.value(np.ones((3, 5)), np.zeros((3, 2))))
    np.testing.assert_array_equal(found, np.ones(3))


def test_a_1x1_convolution_for_maps_with_the_teachers_activation():
    link = Link(Hint(student="deep", teacher="act"), net(2, "s"), net(4, "t"))
    assert tuple(link.regressor.matrix.shape) == (1, 1, 2, 4)
    assert link.regressor.activation is keras.activations.relu


def test_fitnets_convolution_without_padding():
    hint = Hint(student="conv", teacher="deep", regressor="valid")
    regressor = Link(hint, net(2, "s"), net(4, "t")).regressor
    assert tuple(regressor.matrix.shape) == (3, 3, 2, 4)
    assert regressor(np.ones((1, 8, 8, 2), "float32")).shape == (1, 6, 6, 4)


@pytest.mark.parametrize("own, wanted", [("conv", "deep"), ("deep", "conv")])
def test_maps_are_resized(own, wanted):
    link = Link(Hint(student=own, teacher=wanted), net(2, "s"), net(4, "t"))
    x = np.ones((1, *link.student.shape[1:]), "float32")
    assert link.regressor(x).shape[1:] == link.teacher.shape[1:]


def test_a_map_is_averaged_where_the_sizes_divide():
    regressor = Regressor(1, size=(2, 2))
    regressor.build((None, 4, 4, 1))
    regressor.matrix.assign([[[[1.0]]]])
    x = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    found = keras.ops.convert_to_numpy(regressor(x))[0, :, :, 0]
    np.testing.assert_array_equal(found, [[2.5, 4.5], [10.5, 12.5]])


def test_a_regressor_keeps_its_config():
    again = Regressor.from_config(Regressor(3, (2, 2), (1, 1), "relu").get_config())
    assert (again.units, again.size, again.window) == (3, (2, 2), (1, 1))


@pytest.mark.parametrize(
    "hint",
    [
        {"student": "flat", "teacher": "conv"},
        {"student": "out", "teacher": "deep"},
        {"student": "deep", "teacher": "conv", "regressor": "valid"},
        {"student": "deep", "teacher": "conv", "regressor": None},
        {"student": "deep", "teacher": "conv", "regressor": layers.Dense(5)},
    ],
)
def test_shapes_that_do_not_match_are_told_at_once(hint):
    with pytest.raises(ValueError, match=r"\(None, .*cannot be matched .*\(None, "):
        Link(Hint(**hint), net(2, "s"), net(4, "t"))


def test_your_own_regressor_and_loss():
    regressor = layers.Conv2DTranspose(4, 3)
    hint = Hint(student="deep", teacher="conv", regressor=regressor, loss=keras.losses.Huber())
    link = Link(hint, net(2, "s"), net(4, "t"))
    assert link.value(np.ones((2, 8, 8, 4)), np.ones((2, 6, 6, 2))).shape == (2, 8, 8)


def test_attention_transfer_needs_no_regressor():
    hint = Hint(
        student="deep", teacher="conv", regressor=None, loss=distill_losses.attention_transfer
    )
    link = Link(hint, net(2, "s"), net(4, "t"))
    assert link.value(np.ones((2, 8, 8, 4)), np.ones((2, 6, 6, 2))).shape == (2,)


@pytest.mark.parametrize(
    "arguments", [{"regressor": "conv"}, {"weight": 0}, {"loss": "no such loss"}, {"loss": None}]
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError):
        Hint(**({"student": "a", "teacher": "b"} | arguments))
