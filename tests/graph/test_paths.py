import keras
import pytest

from tfcompress.graph.paths import walk


def test_layers_of_equal_names_in_nested_models():
    def block(name):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="d")], name=name)

    a, b = block("a"), block("b")
    model = keras.Sequential([keras.Input((4,)), a, b, keras.layers.Dense(2, name="out")])
    found = walk(model)
    assert list(found) == ["a/d", "b/d", "out"]
    assert found["a/d"] == (a.layers[0], a) and found["out"] == (model.layers[-1], model)


def test_shared_layers_come_once_and_parts_have_their_owner():
    x = keras.Input((6, 4))
    shared = keras.layers.Dense(4, name="shared")
    y = keras.layers.Bidirectional(keras.layers.LSTM(3, name="lstm"), name="both")(
        shared(shared(x))
    )
    found = walk(keras.Model(x, y))
    assert [path for path in found if "/" not in path] == ["shared", "both"]
    assert found["both/forward_lstm"][1].name == "both"


def test_subclassed_models_are_walked():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = keras.layers.Dense(3, name="fc")

    assert list(walk(Net())) == ["fc"]


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match=r"keras.Model"):
        walk(keras.layers.Dense(2))
