"""Each function that relies on what Keras does not document, run alone."""

import keras
import numpy as np
import pytest

from tfcompress.graph import private_keras as private
from tfcompress.graph import private_saving as saving
from tfcompress.graph import private_training as training
from tfcompress.utils.arrays import to_numpy


def functional():
    x = keras.Input((4,), name="x")
    h = keras.layers.Dense(3, name="hidden")(x)
    return keras.Model({"x": x}, keras.layers.Dense(2, name="out")(h))


def test_functional_of():
    model = functional()
    assert private.functional_of(model) is model
    sequential = keras.Sequential([keras.layers.Dense(2)])
    assert private.functional_of(sequential) is None
    sequential.build((None, 4))
    assert isinstance(private.functional_of(sequential), private.Functional)


def test_nodes_by_depth():
    levels = private.nodes_by_depth(functional())
    (out,), (hidden,), (start,) = levels[0], levels[1], levels[2]
    assert (out.operation.name, hidden.operation.name) == ("out", "hidden")
    assert start.is_input
    assert not out.is_input
    assert out.input_tensors == hidden.outputs
    args, kwargs = out.arguments.fill_in({id(out.input_tensors[0]): "there"})
    assert (args, kwargs) == (("there",), {})


def test_run_through_graph():
    model = functional()
    names = []

    def recorded(operation):
        names.append(operation.name)
        return operation

    x = np.ones((1, 4), "float32")
    y = private.run_through_graph(model, {"x": x}, recorded)
    assert names == ["hidden", "out"]
    np.testing.assert_array_equal(y, model({"x": x}))


def test_inputs():
    model = functional()
    assert list(private.inputs_structure(model)) == ["x"]
    (array,) = private.standardized_inputs(model, {"x": np.ones((5, 4), "float64")})
    assert array.shape == (5, 4)
    assert keras.backend.standardize_dtype(array.dtype) == "float32"


def test_history_and_calls():
    model = functional()
    operation, call, index = private.history_of(model.outputs[0])
    assert (operation.name, call, index) == ("out", 0, 0)
    (node,) = private.inbound_nodes(operation)
    assert node.outputs[0] is model.outputs[0]
    private.forget_calls(operation)
    assert private.inbound_nodes(operation) == []


def test_layers_in():
    model = keras.Sequential([keras.Input((4,)), keras.Sequential([keras.layers.Dense(2)])])
    assert model in private.layers_in(model)
    below = private.layers_in(model, include_self=False)
    assert any(isinstance(layer, keras.layers.Dense) for layer in below)
    near = private.layers_in(model, include_self=False, recursive=False)
    assert not any(isinstance(layer, keras.layers.Dense) for layer in near)


def test_what_compile_was_given():
    model = functional()
    assert training.compiled_loss(model) is None
    model.compile("sgd", "mse", metrics=["mae"], loss_weights=[0.5])
    assert training.compiled_loss(model) == ("mse", [0.5])
    assert training.compiled_argument(model, "metrics") == ["mae"]
    assert training.compiled_argument(model, "weighted_metrics") is None


def test_optimizers():
    model = functional()
    optimizer = keras.optimizers.SGD(use_ema=True)
    optimizer.build(model.trainable_variables)
    assert training.trained_by(optimizer) == model.trainable_variables
    pairs = training.moving_averages(optimizer)
    assert [v for v, _ in pairs] == model.trainable_variables
    assert all(average.shape == v.shape for v, average in pairs)


def test_loss_function():
    loss = keras.losses.MeanSquaredError()
    assert training.loss_function(loss) is keras.losses.mean_squared_error
    assert training.loss_function(training.LossFunctionWrapper(abs)) is abs


def test_trusting_deserialization():
    layer = keras.layers.Lambda(lambda x: x + 1)
    config = layer.get_config()
    with private.trusting_deserialization():
        again = keras.layers.Lambda.from_config(config)
    assert int(again(np.int32(1))) == 2


def test_variables_without_values():
    with private.variables_without_values() as made:
        layer = keras.layers.Dense(3)
        layer.build((None, 10**12))  # 12 TB
        small = keras.layers.Dense(3)
        small.build((None, 4))
    assert [tuple(v.shape) for v in made] == [(10**12, 3), (3,), (4, 3), (3,)]
    private.initialize(small.kernel, keras.initializers.Ones())
    private.initialize(small.bias)
    np.testing.assert_array_equal(small(np.ones((1, 4))), np.full((1, 3), 4))
    with pytest.raises(RuntimeError), private.variables_without_values():
        keras.layers.Dense(3).build((None, 4))
        raise RuntimeError
    later = keras.layers.Dense(1)
    later.build((None, 1))
    assert to_numpy(later.kernel).shape == (1, 1)  # nothing is left of the others


def test_print_message(capsys):
    training.print_message("one line")
    assert capsys.readouterr().out == "one line\n"


def test_compute_output_spec():
    spec = private.compute_output_spec(lambda x: x, private.KerasTensor((2, 3)))
    assert spec.shape == (2, 3)


def test_mask_of():
    masked = keras.layers.Masking()(np.zeros((1, 2, 3), "float32"))
    assert private.mask_of(masked).shape == (1, 2)
    assert private.mask_of(keras.ops.ones((1,))) is None


def test_has_value():
    assert private.has_value(keras.Variable([1.0]))


def test_with_mask():
    mask = [[True, False]]
    x = private.with_mask(np.ones((1, 2, 3), "float32"), mask)
    assert to_numpy(private.mask_of(keras.layers.Dense(1)(x))).tolist() == mask


def test_calls_are_taken_over():
    model = functional()
    old, new = model.get_layer("out"), keras.layers.Dense(2, name="out")
    private.take_over_calls(old, new)
    assert private.history_of(model.outputs[0])[0] is new
    assert private.inbound_nodes(old) == [] and private.inbound_nodes(new)[0].operation is new


def test_replace_in():
    class Owner(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.Dense(1)
            self.more = {"list": [keras.layers.Dense(2)], "tuple": (keras.layers.Dense(3),)}

    owner, new = Owner(), [keras.layers.Dense(4) for _ in range(3)]
    old = [owner.one, owner.more["list"][0], owner.more["tuple"][0]]
    private.replace_in(owner, dict(zip(map(id, old), new, strict=True)))
    assert owner.one is new[0] and owner.more["list"][0] is new[1]
    assert owner.more["tuple"][0] is new[2]
    assert private.layers_in(owner, include_self=False) == new


def test_forget_compiled():
    model = functional()
    model.compile("sgd", "mse")
    private.forget_compiled(model)
    assert not model.compiled and getattr(model, "optimizer", None) is None
    model.compile("sgd", "mse")


def test_saved_forms():
    dense = saving.class_config(keras.layers.Dense, {"units": 2})
    assert dense["module"] == "keras.layers" and dense["registered_name"] is None
    own = saving.class_config(WithArguments, {"size": 3})
    assert own["class_name"] == "WithArguments" and own["module"] == WithArguments.__module__
    saving.register_under(WithArguments, "package>Other")
    assert saving.class_config(WithArguments, {})["registered_name"] == "package>Other"


class WithArguments(keras.layers.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size


def test_a_default_config_has_the_constructor_s_arguments():
    class Marked(WithArguments):
        get_config = saving.default_like(
            lambda self: WithArguments.get_config(self), WithArguments.get_config
        )

    assert Marked(3).get_config()["size"] == 3


def test_has_graph_config():
    class Own(keras.Model):
        def __init__(self, width):
            x = keras.Input((width,))
            super().__init__(x, keras.layers.Dense(1)(x))

    assert saving.has_graph_config(functional())
    assert saving.has_graph_config(keras.Sequential([keras.layers.Dense(1)]))
    assert not saving.has_graph_config(Own(2))
    assert not saving.has_graph_config(keras.layers.Dense(1))


def test_derived_state():
    norm = keras.layers.Normalization()
    norm.build((None, 2))
    norm.set_weights([np.ones(2), np.full(2, 4.0), np.array(1)])
    private.derive_state(norm)
    np.testing.assert_allclose(norm(np.array([[5.0, 3]])), [[2.0, 1]])
    private.derive_state(keras.layers.ReLU())
    bins = keras.layers.Discretization(num_bins=3)
    bins.bin_boundaries = [4.0, 7.0]  # as its config gives them
    private.derive_state(bins)
    assert bins.bin_boundaries == [4.0, 7.0]
