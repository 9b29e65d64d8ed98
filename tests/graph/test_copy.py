"""A copy of a model of any kind: equal in every bit, and nothing of it shared."""

import collections
import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
import types
import weakref

import keras
import models_of_all_kinds as kinds
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.graph.chain import Chain
from tfcompress.graph.copy import copied
from tfcompress.graph.paths import walk
from tfcompress.graph.replace import replace_in_place

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def arrays(outputs):
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def state(model):
    return [ops.convert_to_numpy(v.value).copy() for v in model.variables]


def same(a, b):
    return len(a) == len(b) and all(
        p.dtype == q.dtype and p.tobytes() == q.tobytes() for p, q in zip(a, b, strict=True)
    )


def described(model):
    """All that a copy must have in common with its original."""
    parts = [
        (type(p), p.name, p.path, p.built, p.trainable, p.dtype_policy.name)
        for p in model._flatten_layers()
    ]
    variables = [
        (type(v), v.name, v.path, tuple(v.shape), v.dtype, v.trainable, type(v.regularizer))
        for v in model.variables
    ]
    return parts, variables, [v.path for v in model.trainable_variables]


def owned(model):
    """Ids of whatever two models must not share."""
    parts = model._flatten_layers()
    seeds = [s for p in parts for s in p._seed_generators]
    return {id(x) for x in [*parts, *model.variables, *seeds, *model.metrics]}


def check_copy(model, x, train=True):
    before = state(model)
    new = copied(model)
    assert described(new) == described(model)
    assert owned(new).isdisjoint(owned(model))
    assert same(state(new), before)
    for training in (True, False) if train else (False,):  # equal seeds give equal noise
        keras.utils.set_random_seed(0)  # dropout without a seed draws from torch's own generator
        of_new = arrays(new(x, training=training))
        keras.utils.set_random_seed(0)
        assert same(of_new, arrays(model(x, training=training)))
    assert same(state(new), state(model))
    kept = state(model)
    for variable in new.variables:
        if "seed" not in variable.path and variable.dtype != "bool":
            variable.assign(ops.ones(variable.shape, variable.dtype))
    assert same(state(model), kept)
    return new


@pytest.mark.parametrize("name", kinds.KINDS)
def test_a_copy_is_equal_and_owns_its_state(name):
    check_copy(*kinds.KINDS[name]())


APPLICATIONS = {
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "ConvNeXtTiny": 32,
    "EfficientNetV2B0": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "NASNetMobile": 32,
    "VGG16": 32,
}
SLOW = set(APPLICATIONS) - {"MobileNetV3Small"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.matrix] * (n in SLOW)) for n in APPLICATIONS]
)
def test_keras_applications(name):
    size = APPLICATIONS[name]
    x = kinds.R.random((1, size, size, 3)).astype("float32")
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=5)
    check_copy(model, x, train=False)


@pytest.mark.parametrize("name", kinds.HUB)
def test_keras_hub(name):
    hub = pytest.importorskip("keras_hub").models
    check_copy(*kinds.HUB[name](hub))


def test_keras_hub_gpt2_still_generates():
    model, x = kinds.gpt2(pytest.importorskip("keras_hub").models)
    prompt = {"token_ids": x["token_ids"], "padding_mask": np.tile([1] * 6 + [0] * 6, (2, 1))}
    model.compile(sampler="greedy")
    expected = model.generate(prompt, stop_token_ids=None)["token_ids"]
    new = copied(model)
    assert new.generate_function is None and not new.compiled
    new.compile(sampler="greedy")
    assert np.array_equal(new.generate(prompt, stop_token_ids=None)["token_ids"], expected)
    assert new.backbone is not model.backbone
    assert new.backbone.token_embedding in new._flatten_layers()


TRAINED = ["functional", "subclassed", "custom_blocks", "recurrent", "tied", "lora"]


@pytest.mark.parametrize("name", TRAINED)
def test_training_one_leaves_the_other(name):
    model, x = kinds.KINDS[name]()
    new = copied(model)
    y = [np.zeros_like(a) for a in arrays(model(x))]
    for trained, other in ((new, model), (model, new)):
        kept, before = state(other), state(trained)
        trained.compile("sgd", "mse", run_eagerly=True)
        trained.fit(x, y if len(y) > 1 else y[0], verbose=0)
        assert same(state(other), kept)
        assert not same(state(trained), before)


def test_a_compiled_model_gives_an_uncompiled_copy_that_trains_the_same():
    model, x = kinds.KINDS["nested"]()
    y = np.zeros((4, 2))
    model.compile(keras.optimizers.Adam(), "mse", metrics=["mae"])
    model.fit(x, y, verbose=0)
    model.predict(x, verbose=0)
    new = copied(model)
    assert not new.compiled and getattr(new, "optimizer", None) is None
    assert new.train_function is None and new.predict_function is None
    assert new.losses == [] and len(new.variables) == len(model.variables)
    for each in (model, new):
        each.compile("sgd", "mse")
        keras.utils.set_random_seed(0)  # as above
        each.fit(x, y, verbose=0, shuffle=False)
    assert same(state(new), state(model))


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="its train_step is another one there")
def test_call_and_train_step_of_a_functional_subclass():
    model, x = kinds.KINDS["functional_subclass"]()
    new = copied(model)
    before = state(new)
    new.compile("sgd", "mse", jit_compile=False)
    assert "steps" in new.fit(x, np.zeros((4, 3)), verbose=0).history
    assert same(state(new)[:1], before[:1])
    assert np.array_equal(state(new)[1], before[1] + 1)


def test_tied_stays_tied():
    model, _ = kinds.KINDS["tied"]()
    new = copied(model)
    assert new.layers[-1].table is new.get_layer("table")
    assert new.count_params() == model.count_params()


def test_an_optimizer_in_an_attribute_goes_on_with_its_own_state():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = layers.Dense(2)
            self.second = keras.optimizers.Adam(0.1)

        def call(self, x):
            return self.fc(x)

    model = Two()
    model(kinds.FLAT)
    model.second.build(model.trainable_variables)
    gradients = [ops.ones(v.shape) for v in model.trainable_variables]
    model.second.apply(gradients)
    new = copied(model)
    for each in (model, new):
        each.second.apply(gradients, each.trainable_variables)
    assert same(state(new), state(model))
    assert same(state(new.second), state(model.second))
    assert owned(new).isdisjoint(map(id, model.second.variables))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="strings are TensorFlow's")
@pytest.mark.parametrize("name", ["strings", "text", "integers", "hashing", "bins"])
def test_preprocessing_tables(name):
    import tensorflow as tf

    text = layers.TextVectorization(output_sequence_length=4)
    text.adapt(["a b c", "b d"])
    bins = layers.Discretization(num_bins=4)
    bins.adapt(kinds.FLAT)
    layer, x = {
        "strings": (layers.StringLookup(vocabulary=["a", "b"]), tf.constant([["a", "z"]])),
        "text": (text, tf.constant(["a c", "d z"])),
        "integers": (layers.IntegerLookup(vocabulary=[3, 7]), np.array([[3, 9]])),
        "hashing": (layers.Hashing(4), np.array([[3, 9]])),
        "bins": (bins, kinds.FLAT),
    }[name]
    expected = arrays(layer(x))
    new = copied(layer)
    assert same(arrays(new(x)), expected)
    if name == "text":
        new.adapt(["q r s t u v w"])
        assert same(arrays(layer(x)), expected)
        assert not same(arrays(new(x)), expected)


def test_a_new_layer_stands_wherever_the_old_one_stood():
    model, x = kinds.KINDS["functional"]()
    old = next(layer for layer in model.layers if len(layer._inbound_nodes) == 3)
    new_layer = layers.Dense(8, use_bias=False, name=old.name)
    new_layer.build((None, 8))
    new = copied(model, {old: new_layer})
    assert new.get_layer(old.name) is new_layer
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers]
    old.bias.assign(ops.zeros_like(old.bias))
    new_layer.kernel.assign(old.kernel)
    assert same(arrays(new(x)), arrays(model(x)))
    assert len(new.trainable_variables) == len(model.trainable_variables) - 1
    again = copied(copied(new), None)
    assert same(arrays(again(x)), arrays(model(x)))


@pytest.mark.parametrize("place", ["list", "dict", "attention", "time", "backward", "tied"])
def test_a_part_of_any_layer_is_replaced(place):
    name = {"time": "recurrent", "backward": "recurrent", "tied": "tied"}.get(place)
    model, x = kinds.KINDS[name or "custom_blocks"]()
    parts = {
        "list": lambda m: m.layers[0].several[1],
        "dict": lambda m: m.layers[1].more["a"],
        "attention": lambda m: m.layers[0].attention._query_dense,
        "time": lambda m: m.layers[0].layer,
        "backward": lambda m: m.layers[1].backward_layer,
        "tied": lambda m: m.layers[-1].table,
    }[place]
    old = parts(model)
    new_layer = copied(old)
    new_layer.variables[0].assign(2 * new_layer.variables[0])
    new = copied(model, {old: new_layer})
    assert parts(new) is new_layer and parts(model) is old
    assert described(new)[1] == described(model)[1]
    old.variables[0].assign(2 * old.variables[0])
    assert same(arrays(new(x)), arrays(model(x)))


def halves(layer, inputs):
    """Two layers that compute what a Dense one does."""
    first = layers.Dense(inputs, use_bias=False, name=f"{layer.name}_first")
    last = layers.Dense(layer.units, name=layer.name)
    first.build((None, inputs))
    last.build((None, inputs))
    first.kernel.assign(np.eye(inputs))
    last.set_weights(layer.get_weights())
    return [first, last]


@pytest.mark.parametrize("state", ["new", "fitted", "changed in place"])
def test_layers_in_the_place_of_one_are_calls_of_their_own_in_a_graph(state, tmp_path):
    start = keras.Input((16,))
    shared = layers.Dense(16, name="shared")
    body = keras.Sequential([layers.Dense(4, name="b")], name="body")
    model = keras.Model(start, [body(shared(shared(start))), shared(start)])
    if state == "fitted":
        model.compile("sgd", "mse")
        model.fit(kinds.FLAT, model.predict(kinds.FLAT, verbose=0), verbose=0)
    elif state == "changed in place":
        replace_in_place(model, {})
    old = body.layers[0]
    new = copied(model, {shared: halves(shared, 16), old: halves(old, 16)})
    assert [layer.name for layer in new.layers[1:]] == ["shared_first", "shared", "body"]
    assert [layer.name for layer in new.get_layer("body").layers] == ["b_first", "b"]
    assert [len(layer._inbound_nodes) for layer in new.layers[1:]] == [3, 3, 1]
    assert same(arrays(new(kinds.FLAT)), arrays(model(kinds.FLAT)))
    new.save(tmp_path / "new.keras")
    again = keras.models.load_model(tmp_path / "new.keras")
    assert same(arrays(again(kinds.FLAT)), arrays(model(kinds.FLAT)))
    third = copied(new, {new.get_layer("shared_first"): copied(new.get_layer("shared_first"))})
    assert same(arrays(third(kinds.FLAT)), arrays(model(kinds.FLAT)))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_of_a_row_that_took_the_place_of_one_can_be_replaced_by_a_row(compiled):
    start = keras.Input((16,))
    old = layers.Dense(16, name="a")
    model = keras.Model(start, old(start))
    if compiled:
        model.compile("sgd", "mse")
    model = copied(model, {old: halves(old, 16)})
    first = model.get_layer("a_first")
    new = copied(model, {first: [copied(first), layers.ReLU(name="relu")]})
    assert [layer.name for layer in new.layers[1:]] == ["a_first", "relu", "a"]
    assert len(new.weights) == len(model.weights)
    assert not any(isinstance(layer, Chain) for layer, _ in walk(new).values())
    if keras.backend.backend() == "tensorflow":
        tracked = dict(new._trackable_children())["_operations"]
        assert list(tracked) == list(new._operations)


def test_layers_in_the_place_of_an_attribute_are_a_chain():
    model, x = kinds.KINDS["custom_blocks"]()
    old = model.layers[0].several[0]
    new = copied(model, {old: halves(old, 16)})
    assert [part.name for part in new.layers[0].several[0].parts] == [f"{old.name}_first", old.name]
    np.testing.assert_array_equal(arrays(new(x))[0], arrays(model(x))[0])


def test_a_chain_comes_back_from_its_config():
    model, x = kinds.chain(layers.Dense(3))
    old = model.layers[0]
    chain = copied(kinds.called(Holder(old), x)[0], {old: halves(old, 16)}).part
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(chain))
    assert again.built and again.compute_output_shape((2, 16)) == (2, 3)
    again.set_weights(chain.get_weights())
    assert same(arrays(again(x)), arrays(old(x)))


class Holder(keras.layers.Layer):
    """Holds anything in the attribute `part`."""

    def __init__(self, part):
        super().__init__()
        self.part = part
        self.built = True

    def call(self, x):
        return self.part(x)


@pytest.mark.parametrize("how", ["lambda", "method", "partial", "default", "wrapped"])
def test_functions_that_hold_a_layer_hold_that_of_the_copy(how):
    class Held(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.fc = fc = layers.Dense(3)
            self.apply = {
                "lambda": lambda x: fc(x),
                "method": fc.call,
                "partial": functools.partial(fc, training=False),
                "default": lambda x, layer=fc: layer(x),
                "wrapped": functools.wraps(len)(lambda x: self.fc(x)),
            }[how]

        def build(self, shape):
            self.fc.build(shape)

        def call(self, x):
            return self.apply(x)

    layer = Held()
    layer(kinds.FLAT)
    new = copied(layer)
    new.fc.bias.assign(ops.ones((3,)))
    assert np.array_equal(arrays(new(kinds.FLAT))[0], arrays(layer(kinds.FLAT))[0] + 1)


def test_plain_functions_are_shared_and_containers_are_not():
    layer = Holder(ops.tanh)
    layer.ordered = collections.OrderedDict(b=1, a=[2])
    layer.space = types.SimpleNamespace(counts=collections.defaultdict(list, x=[1]))
    layer.queue = collections.deque([1, 2], maxlen=2)
    layer.array = np.arange(3)
    layer.weak = weakref.ref(layer)
    layer.names = {"p", "q"}
    new = copied(layer)
    assert new.part is ops.tanh and new.weak() is new
    assert list(new.ordered) == ["b", "a"] and new.queue.maxlen == 2
    new.ordered["a"].append(3)
    new.space.counts["y"].append(1)
    new.array[0] = 9
    new.names.add("r")
    assert layer.ordered["a"] == [2] and "y" not in layer.space.counts and layer.array[0] == 0
    assert layer.names == {"p", "q"}


def test_an_unbuilt_copy_builds_itself():
    layer = layers.Dense(3)
    new = copied(layer)
    new.build((None, 4))
    assert new.built and not layer.built
    new.quantize("int8")
    assert new.quantization_mode == "int8" and layer.quantization_mode is None


def test_a_model_of_a_part_of_a_graph_takes_no_more_than_that_part():
    start = keras.Input((4,))
    middle = layers.Dense(3, name="a")(start)
    whole = keras.Model(start, layers.Dense(2, name="b")(middle))
    new = copied(keras.Model(start, middle))
    assert new.get_layer("a")._outbound_nodes == []
    assert whole.get_layer("a")._outbound_nodes != []


def test_1500_layers_in_a_row_need_no_depth_of_calls():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(30_000)  # Keras itself recurses when it makes the graph
    try:
        start = keras.Input((4,))
        x = start
        for number in range(1500):
            x = x * 1.01 if number % 100 else layers.Dense(4)(x)
        model = keras.Model(start, x)
    finally:
        sys.setrecursionlimit(limit)
    new = copied(model)
    assert len(new.operations) == len(model.operations)
    assert same(arrays(new(kinds.FLAT[:, :4])), arrays(model(kinds.FLAT[:, :4])))


def test_what_can_be_neither_copied_nor_shared_is_named(tmp_path):
    layer = Holder(layers.Dense(2))
    layer.files = {"log": [open(tmp_path / "log", "w")]}  # noqa: SIM115
    model = keras.Sequential([keras.Input((4,)), layer])
    with pytest.raises(ValueError, match=r"`files\.log\.0` of layer 'holder.*' of class Holder"):
        copied(model)
    layer.files["log"][0].close()


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tf.function")
def test_functions_of_tensorflow():
    import tensorflow as tf

    layer = Holder(layers.Dense(2))
    layer(kinds.FLAT)
    layer.graph = tf.function(layer.part.call, reduce_retracing=True)
    layer.plain = tf.Variable([1.0])
    expected = arrays(layer.graph(kinds.FLAT))
    new = copied(layer)
    new.plain.assign([2.0])
    new.part.bias.assign([1.0, 1.0])
    assert layer.plain.numpy() == 1
    assert np.array_equal(arrays(new.graph(kinds.FLAT))[0], expected[0] + 1)
    layer.concrete = layer.graph.get_concrete_function(tf.TensorSpec((4, 16)))
    with pytest.raises(ValueError, match="`concrete` of layer"):
        copied(layer)


@pytest.mark.parametrize(
    ("error", "message", "replacements"),
    [
        (ValueError, "'stray' is not a part", lambda m: {layers.Dense(1, name="stray"): Dense1()}),
        (ValueError, "holds 'fc', a part of the original", lambda m: {m.layers[0]: wrap(m)}),
        (TypeError, "Expected a layer or a list of layers", lambda m: {m.layers[0]: "dense"}),
        (TypeError, "Expected a layer or a list of layers", lambda m: {m.layers[0]: []}),
    ],
)
def test_replacements_that_cannot_be(error, message, replacements):
    model, _ = kinds.chain(layers.Dense(2, name="fc"), layers.Dense(2))
    with pytest.raises(error, match=message):
        copied(model, replacements(model))


def Dense1():
    return layers.Dense(1)


def wrap(model):
    return Holder(model.layers[0])


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match="Expected a Keras model or layer"):
        copied([layers.Dense(2)])


CHOSEN = (
    "(functional or nested or recurrent or tied or frozen or optimizer or uncompiled or place"
    " or row or quantized or hub_gpt2 or hold) and not 4_bits and not leaves and not generates"
)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_on_other_backends(backend):
    if importlib.util.find_spec(backend) is None or not ON_TENSORFLOW:
        pytest.skip(f"{backend} is not installed, or this is the process on it")
    paths = [str(pathlib.Path(__file__).parents[1]), *sys.path]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", __file__, "-k", CHOSEN],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        copied(self.model)


def test_a_model_in_a_fit_with_validation_data_or_after_an_interrupted_one():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    x, y = np.ones((8, 4)), np.ones((8, 3))
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, validation_data=(x, y), epochs=3, verbose=0, callbacks=[Interrupt()])
    np.testing.assert_array_equal(copied(model)(x), model(x))
