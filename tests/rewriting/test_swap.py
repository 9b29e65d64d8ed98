import warnings

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.copy import copied

layers = tfc.layers


def small():
    return keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(16, activation="relu", name="fc1"),
            keras.layers.Dense(16, activation="relu", name="fc2"),
            keras.layers.Dense(3, name="out"),
        ]
    )


def tangled():
    """Nested, shared, several inputs and outputs, bare operations, a Lambda, a composite layer."""
    image, vector = keras.Input((8, 8, 3), name="image"), keras.Input((7,), name="vector")
    x = keras.layers.Conv2D(16, 3, padding="same", name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    inner = keras.Sequential(
        [keras.Input((8, 8, 16)), keras.layers.Conv2D(16, 1, name="deep")], name="inner"
    )
    block = keras.Sequential(
        [
            keras.Input((8, 8, 16)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv"),
            inner,
        ],
        name="block",
    )
    x = keras.ops.relu(x + block(x) * 2 - block(x[:, ::-1]))
    x = keras.layers.Reshape((64, 16))(x)
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    shared = keras.layers.Dense(10, activation="tanh", name="shared")
    a = shared(x)
    b = shared(keras.layers.Dense(16, name="lift")(vector))
    joined = keras.layers.Lambda(lambda t: t * 2)(keras.layers.Concatenate()([a, b]))
    outputs = {"one": keras.layers.Dense(5, name="one")(joined), "two": a + b}
    return keras.Model([image, vector], outputs, name="net")


def outer(model):
    return [path for path, (_, owner) in tfc.walk(model).items() if isinstance(owner, keras.Model)]


def tangled_inputs(rng, n=4):
    return [rng.random((n, 8, 8, 3), "float32"), rng.random((n, 7), "float32")]


def test_copy_of_a_tangled_model():
    rng = np.random.default_rng(0)
    model, x = tangled(), tangled_inputs(rng)
    model.compile(loss={"one": lambda y, z: keras.ops.mean(z), "two": "mse"})  # not serialisable
    new = copied(model)
    expected, received = model(x), new(x)
    assert list(received) == ["one", "two"]
    for key in expected:
        np.testing.assert_array_equal(received[key], expected[key])
    assert new.output_names == model.output_names and not new.compiled
    assert [i.name for i in new.inputs] == [i.name for i in model.inputs]
    assert outer(new) == outer(model)
    assert not {id(v) for v in new.variables} & {id(v) for v in model.variables}


def test_swap_at_any_depth_leaves_the_model_untouched():
    rng = np.random.default_rng(0)
    model, x = tangled(), tangled_inputs(rng)
    before = model.get_weights()
    nodes = {op.name: len(op._inbound_nodes) for op in model.operations}
    new = tfc.swap(
        model,
        {
            "block/conv": layers.CPConv2D.using(rank=6),
            "deep": layers.TernaryConv2D,
            keras.layers.Conv2D: layers.BinaryConv2D.using(),
            "shared": layers.LowRankDense.using(rank=2),
            lambda layer: layer.name == "lift": layers.HashedDense.using(ratio=2),
        },
    )
    kinds = {path: type(layer).__name__ for path, (layer, _) in tfc.walk(new).items()}
    assert kinds["block/conv"] == "CPConv2D" and kinds["conv"] == "BinaryConv2D"
    assert kinds["block/inner/deep"] == "TernaryConv2D"
    assert kinds["shared"] == "LowRankDense" and kinds["lift"] == "HashedDense"
    assert kinds["one"] == "Dense"
    assert sum(kind == "LowRankDense" for kind in kinds.values()) == 1
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert nodes == {op.name: len(op._inbound_nodes) for op in model.operations}
    plain = tfc.to_ordinary(new)
    for key, value in new(x).items():
        np.testing.assert_allclose(plain(x)[key], value, rtol=1e-4, atol=1e-5)
    assert not any(
        isinstance(layer, layers.CompressedLayer) for layer, _ in tfc.walk(plain).values()
    )


def test_swapped_model_trains_saves_and_loads(tmp_path):
    rng = np.random.default_rng(0)
    model, x = tangled(), tangled_inputs(rng)
    rules = {"block/conv": layers.BinaryConv2D, "shared": layers.CirculantDense}
    new = tfc.swap(model, rules)
    new.compile("adam", {"one": "mse", "two": "mse"})
    new.fit(x, {"one": np.ones((4, 5)), "two": np.ones((4, 10))}, epochs=2, verbose=0)
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras", safe_mode=False)
    for key, value in new(x).items():
        np.testing.assert_array_equal(loaded(x)[key], value)


def test_first_rule_wins_and_none_leaves_a_layer():
    new = tfc.swap(
        small(),
        {"out": None, "fc?": layers.TernaryDense, keras.layers.Dense: layers.BinaryDense.using()},
    )
    kinds = [type(layer).__name__ for layer in new.layers]
    assert kinds == ["TernaryDense", "TernaryDense", "Dense"]


def test_a_callable_maker_may_return_a_chain():
    def halve(layer):
        return [keras.layers.Dense(4, name="thin"), keras.layers.Dense(16, name=layer.name)]

    new = tfc.swap(small(), {"fc2": halve})
    assert [layer.name for layer in new.layers] == ["fc1", "thin", "fc2", "out"]
    with pytest.raises(TypeError, match="must return a layer"):
        tfc.swap(small(), {"fc2": lambda layer: 3})


def test_a_maker_of_the_same_class_keeps_its_own_weights():
    def zeros(layer):
        return keras.layers.Dense(16, kernel_initializer="zeros", name=layer.name)

    new = tfc.swap(small(), {"fc2": zeros})
    assert not np.any(new.get_layer("fc2").kernel)


def test_layers_can_be_read_from_the_new_graph():
    new = tfc.swap(small(), {"fc1": layers.BinaryDense})
    part = keras.Model(new.inputs, new.get_layer("fc2").output)
    assert part(np.ones((1, 12))).shape == (1, 16)


def test_unbuilt_models():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")])
    new = tfc.swap(model, {"a": layers.BinaryDense})
    assert new(np.ones((2, 5))).shape == (2, 3) and not model.built
    called = keras.Sequential([keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")])
    x = rng.random((2, 5), "float32")
    called(x)
    np.testing.assert_array_equal(copied(called)(x), called(x))


def test_frozen_layers_dtypes_and_names_are_carried():
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(16, activation="gelu", dtype="mixed_bfloat16", name="a"),
            keras.layers.Dense(16, use_bias=False, name="b"),
        ]
    )
    model.layers[0].trainable = False
    new = tfc.swap(model, {keras.layers.Dense: layers.LowRankDense.using(rank=2)})
    a, b = new.layers
    assert not a.trainable and b.trainable and b.bias is None
    assert a.compute_dtype == "bfloat16" and a.activation is keras.activations.gelu
    convolution = keras.layers.Conv1D(8, 5, strides=2, padding="causal", groups=2, name="c")
    new = tfc.swap(
        keras.Sequential([keras.Input((20, 4)), convolution]), {"c": layers.BinaryConv1D}
    )
    c = new.layers[0]
    assert (c.strides, c.padding, c.groups, c.kernel_size) == ((2,), "causal", 2, (5,))


def test_state_of_other_layers_is_copied():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Normalization(name="normal"),
            keras.layers.Reshape((2, 2)),
            keras.layers.Bidirectional(keras.layers.LSTM(3)),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.layers[0].adapt(rng.random((50, 4)) * 5)
    x = rng.random((3, 4), "float32")
    np.testing.assert_array_equal(copied(model)(x), model(x))


def test_patterns_leave_what_cannot_be_taken_and_warn_once():
    model = tangled()
    with pytest.warns(UserWarning) as caught:
        new = tfc.swap(model, {keras.layers.Layer: layers.LowRankDense.using(rank=3)})
    caught = [warning for warning in caught if warning.category is UserWarning]
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "norm: LowRankDense cannot take layer 'norm': it takes Dense layers only" in text
    assert "attention: Neither it nor a part of it is a layer that LowRankDense" in text
    assert isinstance(new.get_layer("shared"), layers.LowRankDense)
    with pytest.warns(UserWarning, match="would not be smaller"):
        tfc.swap(small(), {keras.layers.Dense: layers.LowRankDense.using(rank=3)})


def test_a_name_takes_a_form_that_is_not_smaller():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        new = tfc.swap(small(), {"out": layers.LowRankDense.using(rank=3)})
    assert isinstance(new.get_layer("out"), layers.LowRankDense)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.fc = keras.layers.Dense(3)

    def call(self, x):
        return self.fc(x)


@pytest.mark.parametrize(
    "rules, message",
    [
        ({"fc3": layers.BinaryDense}, "matches no layer. Near names: fc1|matches no layer. Near"),
        ({"conv*": layers.BinaryDense}, "matches no layer. The layers: fc1, fc2, out|Near names"),
        ({keras.layers.Conv2D: layers.BinaryConv2D}, "matches no layer"),
        ({lambda layer: False: layers.BinaryDense}, "matches no layer"),
        ({"fc1": layers.BinaryConv2D}, "'fc1' cannot be swapped.*takes Conv2D layers only"),
        ({"fc1": layers.LowRankDense.using(rank=13)}, "full rank"),
        ({"fc1": layers.LowRankDense.using(rank=0)}, "rank=0"),
        ({"fc1": layers.HashedDense.using(ratio=0.5)}, "ratio"),
    ],
)
def test_bad_rules(rules, message):
    with pytest.raises(ValueError, match=message):
        tfc.swap(small(), rules)


def test_bad_models():
    with pytest.raises(TypeError, match=r"Expected a `keras.Model`"):
        tfc.swap(keras.layers.Dense(3), {})
    with pytest.raises(TypeError, match="maker"):
        tfc.swap(small(), {"fc1": "binary"})
    with pytest.raises(TypeError, match="key"):
        tfc.swap(small(), {3: layers.BinaryDense})
    with pytest.raises(ValueError, match="takes Dense layers only, not EinsumDense"):
        tfc.swap(tangled(), {"attention/query": layers.BinaryDense})
    with pytest.raises(ValueError, match=r"Neither it nor a part of it .* BinaryDense"):
        tfc.swap(tangled(), {"attention": layers.BinaryDense})
    model = small()
    model.layers[0].kernel.assign(np.full((12, 16), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        tfc.swap(model, {"fc1": layers.BinaryDense})
    with pytest.raises(ValueError, match="either"):
        tfc.swap(small(), {"fc1": layers.BinaryDense}, curvature={}, data=np.ones((2, 12)))


def test_tf_keras_models_are_refused():
    Model = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})
    with pytest.raises(TypeError, match="tf_keras"):
        tfc.swap(Model(), {})


def test_a_layer_that_its_config_could_not_make_again():
    class Odd(keras.layers.Layer):
        def __init__(self, secret):
            super().__init__(name="odd")

        def call(self, x):
            return x

        def get_config(self):
            return {}

    model = keras.Sequential([keras.Input((2,)), Odd(3), keras.layers.Dense(4, name="fc")])
    new = tfc.swap(model, {"fc": layers.BinaryDense})
    assert isinstance(new.layers[0], Odd) and new.layers[0] is not model.layers[0]


def error(model, new, x):
    return float(np.mean((np.asarray(new(x)) - np.asarray(model(x))) ** 2))


def correlated(rng, n):
    return (rng.standard_normal((n, 4)) @ rng.standard_normal((4, 12))).astype("float32")


@pytest.mark.parametrize(
    "maker",
    [
        layers.BinaryDense.using(),
        layers.TernaryDense.using(),
        layers.QuantizedDense.using(bits=3),
        layers.LowRankDense.using(rank=4),
        layers.HashedDense.using(ratio=3),
        layers.CirculantDense.using(block=4),
    ],
    ids=repr,
)
def test_data_makes_the_outputs_closer(maker):
    rng = np.random.default_rng(0)
    model, x = small(), correlated(rng, 1000)
    plain = tfc.swap(model, {"fc?": maker})
    measured = tfc.swap(model, {"fc?": maker}, data=x[:500])
    assert error(model, measured, x[500:]) < 0.9 * error(model, plain, x[500:])


def test_data_in_every_form_gives_the_same_model():
    rng = np.random.default_rng(0)
    model, x = small(), correlated(rng, 64)
    batches = [(x[:32], np.ones(32)), (x[32:], np.ones(32))]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return batches[index]

    expected = tfc.swap(model, {"fc1": layers.BinaryDense}, data=x).get_weights()
    for data in ((x, np.ones(64)), Batches(), iter(batches)):
        new = tfc.swap(model, {"fc1": layers.BinaryDense}, data=data)
        for a, b in zip(expected, new.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_curvature_reaches_the_fit():
    model = small()
    d = np.ones((12, 16))
    d[0] = 1e6  # the first input alone decides the scale
    new = tfc.swap(model, {"fc1": layers.BinaryDense}, curvature={"fc1": d})
    w = np.abs(np.asarray(model.get_layer("fc1").kernel))
    np.testing.assert_allclose(new.get_layer("fc1").stored()["scale"], w[0], rtol=1e-2)


def test_a_maker_in_two_steps():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 4))
    h = keras.layers.Conv2D(16, 3, activation="relu", name="conv")(image)
    out = keras.layers.Dense(3, name="out")(keras.layers.Flatten()(h))
    model = keras.Model(image, out)
    x = np.random.default_rng(0).normal(size=(60, 8, 8, 4)).astype("float32")
    maker = tfc.layers.TuckerConv2D.using(rank=(3, 6)).then(
        tfc.layers.QuantizedConv2D.using(bits=8)
    )
    rules = {"conv": maker, "out": tfc.layers.LowRankDense.using(rank=2)}
    by_hand = tfc.to_ordinary(tfc.swap(model, {"conv": tfc.layers.TuckerConv2D.using(rank=(3, 6))}))
    by_hand = tfc.swap(by_hand, {keras.layers.Conv2D: tfc.layers.QuantizedConv2D.using(bits=8)})
    small = tfc.swap(model, {"conv": maker})
    np.testing.assert_allclose(small(x), by_hand(x), rtol=1e-5, atol=1e-5)
    assert all("Quantized" in type(layer).__name__ for layer in small.layers[1:4])
    fitted = tfc.swap(model, rules, data=x)  # the later layer is measured behind the chain
    plain = tfc.swap(model, rules)
    errors = [float(np.mean((net(x) - model(x)) ** 2)) for net in (fitted, plain)]
    assert errors[0] < 0.7 * errors[1]


def test_a_second_step_that_is_no_maker_is_refused():
    with pytest.raises(TypeError, match=r"takes makers such as"):
        tfc.layers.LowRankDense.using(rank=8).then({"fc": tfc.layers.QuantizedDense.using(bits=8)})


def test_a_chain_that_would_be_larger_is_left():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="fc")])
    whole = tfc.layers.LowRankDense.using(rank=8).then()
    with pytest.warns(UserWarning, match="not be smaller"):
        tfc.swap(model, {keras.layers.Dense: whole})
