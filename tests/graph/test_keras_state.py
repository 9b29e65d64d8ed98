"""Each use of private Keras in a copy, alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.ops.function import make_node_key

from tfcompress.graph import chain, keras_state


def model():
    start = keras.Input((4,))
    shared = layers.Dense(4, name="a")
    return keras.Model(start, layers.Dense(2, name="b")(shared(shared(start))))


def test_an_empty_layer_builds_and_quantizes_itself():
    layer = layers.Dense(3)
    new = keras_state.empty(layer)
    assert type(new) is layers.Dense and set(vars(new)) == {"build", "quantize"}
    assert new.build.__wrapped__.__self__ is new and new.quantize.__wrapped__.__self__ is new


def test_attributes_leave_out_places_in_graphs_and_training():
    net = model()
    net.compile("adam", "mse")
    kept = keras_state.attributes(net)
    assert {"_operations", "name", "_tracker"} <= kept.keys()
    assert kept.keys().isdisjoint({"optimizer", "loss", "_inbound_nodes", "build", "_losses"})
    assert "_keras_history" not in keras_state.attributes(net.outputs[0])


def test_attributes_in_slots():
    class Slotted:
        __slots__ = ("__hidden", "plain")

        def __init__(self):
            self.plain, self.__hidden = 1, 2

    new = Slotted()
    for name, value in keras_state.attributes(new).items():
        keras_state.put(new, name, value + 10)
    assert keras_state.attributes(new) == {"plain": 11, "_Slotted__hidden": 12}


def test_plain_objects():
    class Reduced:
        def __reduce__(self):
            return Reduced, ()

    plain = (layers.Dense, keras.metrics.Mean, keras.optimizers.Adam, keras.regularizers.L2)
    assert all(map(keras_state.is_plain, plain))
    assert not keras_state.is_plain(Reduced)


def test_a_variable_gets_a_value_of_its_own():
    variable = keras.Variable(np.arange(3.0), name="v")
    new = object.__new__(type(variable))
    vars(new).update({k: v for k, v in vars(variable).items() if k != "_value"})
    keras_state.new_value(variable, new)
    new.assign([9, 9, 9])
    assert ops.convert_to_numpy(variable.value).tolist() == [0, 1, 2]


def test_calls_outside_of_the_copied_graph_are_left_out():
    net = model()
    old, new = net.get_layer("a"), layers.Dense(4)
    node = old._inbound_nodes[1]
    keras_state.connect([(old, new)], {id(node): "copy"})
    assert new._inbound_nodes == ["copy"] and new._outbound_nodes == ["copy"]


def test_ids_are_made_again():
    net = model()
    keys = set(net._nodes)
    net._nodes = set()
    keras_state.renew_keys(net)
    assert net._nodes == keys and make_node_key(net.get_layer("a"), 1) in keys
    tracker = net.get_layer("a")._tracker
    stored = {name: set(ids) for name, ids in tracker.stored_ids.items()}
    tracker.stored_ids = {}
    keras_state.renew_keys(tracker)
    assert tracker.stored_ids == stored


def test_an_optimizer_knows_its_variables():
    net, other = model(), model()
    one, two = keras.optimizers.Adam(), keras.optimizers.Adam()
    one.exclude_from_weight_decay(var_list=[net.variables[1]])
    one.build(net.variables)
    two.build(net.variables)
    pairs = zip(net.variables, other.variables, strict=True)
    keras_state.renew_variable_keys(one, two, pairs)
    assert [two._get_variable_index(v) for v in other.variables] == [0, 1, 2, 3]
    assert two._exclude_from_weight_decay == {two._var_key(other.variables[1])}


def test_training_is_forgotten():
    net = model()
    net.compile("adam", "mse", run_eagerly=True)
    keras_state.forget_training(net)
    assert not net.compiled and not net.run_eagerly and net.train_function is None


def test_one_call_becomes_several():
    net = model()
    old = net.get_layer("b")
    output = old.output
    first, last = layers.Dense(3, name="first"), layers.Dense(2, name="last")
    chain.replace_call(old._inbound_nodes[0], [first, last])
    chain.rebuild_graph(net)
    chain.replace_in_list(old, [first, last], net)
    assert [layer.name for layer in net.layers[1:]] == ["a", "first", "last"]
    assert last.output is output is net.output
    assert [layer.name for layer in net._flatten_layers(include_self=False)][2:] == [
        "first",
        "last",
    ]
    assert net(np.ones((1, 4), "float32")).shape == (1, 2)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own objects")
def test_objects_of_tensorflow():
    import tensorflow as tf

    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    table.insert(["a"], [1])
    found, new = keras_state.backend_copy(table)
    new.insert(["a"], [2])
    assert found and table.lookup(tf.constant(["a"])).numpy() == [1]
    for shared in (tf.constant(1), tf.float32, tf.TensorShape([1]), tf.TensorSpec([1])):
        assert keras_state.backend_copy(shared) == (True, shared)
    assert keras_state.backend_copy(tf.Variable(1.0)) == (False, None)
    function = tf.function(lambda x: x)
    assert keras_state.is_traced(function) and keras_state.backend_copy(function) == (False, None)
    with pytest.raises(TypeError, match="traced or loaded"):
        keras_state.backend_copy(function.get_concrete_function(tf.TensorSpec([1])))


def test_a_dict_inside_the_proxy_of_tensorflow():
    plain = {"a": 1}
    assert keras_state.inside(plain) is plain and keras_state.inside((1,)) == (1,)
    proxy = vars(model()).get("_call_has_context_arg")
    assert type(keras_state.inside(proxy)) is dict
