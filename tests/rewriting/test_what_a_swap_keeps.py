"""What a model made again from its configs would lose, a swap keeps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc

L = keras.layers
BITS = tfc.layers.rounding(4)


def data(shape=(8, 6, 16)):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


class NoConfig(L.Layer):
    """Its config cannot make it again: no name, no `**kwargs`, parts without names."""

    def __init__(self, units):
        super().__init__()
        self.parts = [L.Dense(units, "relu"), L.Dense(16)]

    def build(self, shape):
        self.parts[0].build(shape)
        self.parts[1].build((*shape[:-1], self.parts[0].units))

    def call(self, x):
        return x + self.parts[1](inputs=self.parts[0](inputs=x))


def by_keywords():
    start = keras.Input((6, 16))
    x = NoConfig(24)(start)
    x = L.BatchNormalization(name="norm")(inputs=x)
    x = x + L.MultiHeadAttention(2, 8, name="attention")(query=x, value=x)
    return keras.Model(start, L.Dense(3, name="head")(inputs=NoConfig(20)(x)))


def test_layers_without_a_config_and_names_keep_both():
    model = by_keywords()
    new = tfc.swap(model, BITS)
    assert list(tfc.walk(new)) == list(tfc.walk(model))
    kinds = [type(layer) for layer, _ in tfc.walk(new).values()]
    assert kinds.count(tfc.layers.QuantizedDense) == 5
    assert kinds.count(tfc.layers.QuantizedEinsumDense) == 4
    assert [w.path for w in tfc.swap(model, {}).weights] == [w.path for w in model.weights]


def test_names_that_keras_gave_are_the_same_for_measures_and_copies():
    model, x = by_keywords(), data()
    kernels = {path for path, (layer, _) in tfc.walk(model).items() if hasattr(layer, "kernel")}
    for found in (
        tfc.curvature.kronecker(model, x),
        tfc.curvature.gauss_newton(model, (x, np.zeros((8, 6, 3), "float32")), loss="mse"),
        tfc.curvature.kronecker(tfc.swap(model, {}), x),
    ):
        assert kernels <= set(found)
    pruned = tfc.prune(model, 0.5, data=x, score="obs")
    for path in kernels:
        kernel = np.asarray(tfc.walk(pruned)[path][0].kernel)
        assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.01)
    candidates = [tfc.layers.QuantizedDense.using(bits=2)]
    rows = tfc.sensitivity(
        model, (x, np.zeros((8, 6, 3), "float32")), candidates=candidates, loss="mse"
    ).rows
    dense = {path for path, (layer, _) in tfc.walk(model).items() if type(layer) is L.Dense}
    assert {row.layer for row in rows} == dense


def test_statistics_are_measured_where_a_norm_is_called_by_keyword():
    model, x = by_keywords(), data()
    tfc.recalibrate_batch_norm(model, x)
    seen = model.layers[1](x)
    mean = np.mean(keras.ops.convert_to_numpy(seen), axis=(0, 1))
    np.testing.assert_allclose(model.get_layer("norm").moving_mean, mean, atol=1e-5)


def test_a_lambda_keeps_the_globals_of_its_function():
    start = keras.Input((4,))
    model = keras.Model(start, L.Dense(2)(L.Lambda(lambda x: tf.nn.relu(x) + len(BITS))(start)))
    new = tfc.swap(model, {})
    x = data((3, 4))
    np.testing.assert_array_equal(new(x), model(x))
    small = tfc.swap(model, BITS, data=x)
    assert np.isfinite(np.asarray(small(x))).all()


def test_frozen_parts_and_free_layers_in_a_frozen_model_stay():
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, name="a"), L.Dense(4, name="b")])
    model = keras.Sequential([keras.Input((4,)), inner, L.Dense(2, name="c")])
    model.trainable = False
    inner.get_layer("b").trainable = True
    inner.get_layer("b").kernel.trainable = True
    flags = [w.trainable for w in model.weights]
    assert True in flags and False in flags
    for new in (tfc.swap(model, {}), tfc.prune(model, 0.5)):
        assert [w.trainable for w in new.weights] == flags
    ternary = tfc.swap(model, {"*": tfc.layers.TernaryDense})
    layers = {path.split("/")[-1]: layer for path, (layer, _) in tfc.walk(ternary).items()}
    assert [layers[name].trainable for name in "abc"] == [False, True, False]


class Scaled(keras.Model):
    """Its `call` uses the graph, and its step counts."""

    def call(self, x, training=None):
        return 3 * super().call(x, training=training)

    def train_step(self, data):
        x, y = data
        return super().train_step((x, y + 1))


@pytest.mark.parametrize("verb", ["swap", "prune", "prune_channels", "to_ordinary"])
def test_a_call_and_a_step_of_its_own_stay(verb):
    start = keras.Input((4,))
    model = Scaled(start, L.Dense(2, name="out")(L.Dense(8, "relu", name="in")(start)))
    x = data((6, 4))
    new = {
        "swap": lambda: tfc.swap(model, {}),
        "prune": lambda: tfc.prune(model, 0.0001),
        "prune_channels": lambda: tfc.prune_channels(model, 0.25, scope="layer"),
        "to_ordinary": lambda: tfc.to_ordinary(tfc.swap(model, {"in": tfc.layers.BinaryDense})),
    }[verb]()
    assert isinstance(new, Scaled)
    plain = new.get_layer("out")(new.get_layer("in")(x))
    np.testing.assert_allclose(new(x), 3 * np.asarray(plain), rtol=1e-6)
    new.compile("sgd", "mse")
    loss = new.fit(x, np.zeros((6, 2)), batch_size=6, verbose=0).history["loss"][0]
    assert loss == pytest.approx(np.mean((3 * np.asarray(plain) - 1) ** 2), rel=1e-5)


@pytest.mark.parametrize("cell", [L.LSTM, L.GRU, L.SimpleRNN])
def test_nothing_changes_where_nothing_is_removed_from_a_masked_bidirectional_layer(cell):
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    ids = random.integers(1, 30, (64, 8)).astype("int32")
    ids[np.arange(8) >= random.integers(2, 9, (64, 1))] = 0
    table = L.Embedding(30, 16, mask_zero=True, embeddings_initializer="random_normal")
    both = L.Bidirectional(cell(16, return_sequences=True))
    model = keras.Sequential([keras.Input((8,), dtype="int32"), table, both, cell(16), L.Dense(4)])
    small = tfc.prune(model, 0.0, ids, score="obs")
    np.testing.assert_allclose(small(ids), model(ids), atol=1e-5)


class Transposed(L.Layer):
    """Multiplies by the kernel of another layer."""

    def __init__(self, kernel, **options):
        super().__init__(**options)
        self.shared = kernel

    def call(self, x):
        return x @ keras.ops.transpose(self.shared)


def test_a_kernel_that_two_layers_hold_is_not_untied():
    encoder, start = L.Dense(8, name="encoder"), keras.Input((16,))
    code = encoder(start)
    rebuilt = Transposed(encoder.kernel, name="decoder")(code)
    model = keras.Model(start, L.Dense(4, name="out")(rebuilt))
    with pytest.raises(
        ValueError, match=r"'encoder' cannot be swapped\. Layer 'decoder' holds its"
    ):
        tfc.swap(model, {"encoder": tfc.layers.BinaryDense})
    with pytest.warns(UserWarning, match="encoder: Layer 'decoder' holds"):
        small = tfc.swap(model, {L.Dense: tfc.layers.QuantizedDense.using(bits=2)})
    kinds = {path: type(layer).__name__ for path, (layer, _) in tfc.walk(small).items()}
    assert kinds == {"encoder": "Dense", "decoder": "Transposed", "out": "QuantizedDense"}


def test_a_spectral_normalization_ends_where_its_kernel_is_compressed(tmp_path):
    keras.utils.set_random_seed(0)
    x = data((8, 16))
    wrapper = L.SpectralNormalization(L.Dense(8, name="fc"), name="sn")
    model = keras.Sequential([keras.Input((16,)), wrapper, L.Dense(4, name="out")])
    model(x, training=True)
    with pytest.warns(UserWarning, match="'sn' no longer normalizes: the kernel of 'fc'"):
        small = tfc.swap(model, {"sn/fc": tfc.layers.QuantizedDense.using(bits=8)})
    assert list(tfc.walk(small)) == ["sn", "sn/fc", "out"]
    np.testing.assert_allclose(small(x), model(x), atol=0.02)
    small.compile("sgd", "mse")
    small.fit(x, np.ones((8, 4)), verbose=0)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(x), small(x))


@pytest.mark.parametrize(
    "layer, frozen",
    [
        (L.LSTM(4), ["recurrent_kernel", "bias"]),
        (L.GRU(4, reset_after=False), ["recurrent_kernel"]),
        (L.GRU(4), ["bias"]),
        (L.SeparableConv1D(4, 3), ["depthwise_kernel", "bias"]),
    ],
)
def test_frozen_variables_of_layers_of_several_kernels_stay(layer, frozen):
    model = keras.Sequential([keras.Input((8, 6)), layer])
    for name in frozen:
        getattr(getattr(layer, "cell", layer), name).trainable = False
    flags = [v.trainable for v in model.weights]
    free = sum(np.prod(v.shape) for v in model.trainable_weights)
    for new in (tfc.opened(model), tfc.swap(model, BITS)):
        assert [v.trainable for v in tfc.to_ordinary(new).weights] == flags
    assert sum(np.prod(v.shape) for v in tfc.opened(model).trainable_weights) == free


def test_to_ordinary_keeps_what_is_frozen():
    parts = [L.Dense(6, name="a"), L.Dense(4, name="b"), L.Dense(2, name="c")]
    model = keras.Sequential([keras.Input((8,)), *parts])
    model.get_layer("a").bias.trainable = False
    model.get_layer("b").kernel.trainable = False
    for rules in (BITS, {"*": tfc.layers.LowRankDense.using(rank=2)}):
        again = tfc.to_ordinary(tfc.swap(model, rules))
        frozen = {v.path.rpartition("/")[2]: 0 for v in again.weights if not v.trainable}
        layers = [layer for layer in again.layers if layer.name.partition("_")[0] == "b"]
        assert set(frozen) == {"bias", "kernel"}
        assert not any(layer.kernel.trainable for layer in layers)
        assert layers[-1].bias.trainable and again.get_layer("a").kernel.trainable


def test_to_ordinary_keeps_the_regularizer_of_a_table():
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), L.Embedding(50, 16, embeddings_regularizer="l2")]
    )
    small = tfc.swap(model, {L.Embedding: tfc.layers.LowRankEmbedding.using(rank=8)})
    assert [len(one.losses) for one in (model, small, tfc.to_ordinary(small))] == [1, 1, 1]


class Positions(L.Layer):
    """Asks the table inside for the mask itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = L.Embedding(20, 8, mask_zero=True, name="table")

    def call(self, ids):
        return self.table(ids) * 2.0

    def compute_mask(self, ids, mask=None):
        return self.table.compute_mask(ids)


def test_the_mask_of_a_table_in_two_parts():
    ids = keras.Input((6,), dtype="int32")
    model = keras.Model(ids, L.LSTM(4)(Positions()(ids)))
    small = tfc.swap(model, {L.Embedding: tfc.layers.LowRankEmbedding.using(rank=4)})
    rows = np.array([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 0, 0]], "int32")
    np.testing.assert_allclose(tfc.to_ordinary(small)(rows), small(rows), atol=1e-6)


class Auxiliary(keras.Model):
    """One of its heads runs in training only."""

    def __init__(self):
        super().__init__()
        self.body, self.side, self.out = (L.Dense(16, name=n) for n in ("body", "side", "out"))

    def call(self, x, training=False):
        x = self.body(x)
        if training:
            self.add_loss(keras.ops.mean(self.side(x) ** 2))
        return self.out(x)


def test_a_layer_that_the_data_do_not_reach_is_named():
    model = Auxiliary()
    model(data((4, 8)), training=True)
    rules = {"side": tfc.layers.QuantizedDense.using(bits=4)}
    with pytest.warns(UserWarning, match="do not reach 'side': fitted without them"):
        small = tfc.swap(model, rules, data=data((64, 8)))
    assert isinstance(small.side, tfc.layers.QuantizedDense)
    with pytest.warns(UserWarning, match="do not reach 'side', which stay"):
        small = tfc.prune(model, 0.5, data((64, 8)), score="obs")
    assert [np.mean(l.kernel.numpy() == 0) for l in (small.body, small.side)] == [0.5, 0.0]
