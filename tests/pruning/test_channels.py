import itertools

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.copy import copied
from tfcompress.numerics.metric import DAMPING
from tfcompress.pruning.channel_ranking import KernelBlock, eliminate
from tfcompress.pruning.channel_removal import shrink
from tfcompress.pruning.channel_ties import Channels
from tfcompress.pruning.channels import _compensate

L = keras.layers
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _own_draws():
    """Each test draws the same numbers, whichever tests ran before it."""
    global RNG
    RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def residual():
    """Two branches that a sum ties, a depthwise convolution, a concatenation, Flatten, Dense."""
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="stem")(image)
    x = L.BatchNormalization(name="norm")(x)
    x = L.ReLU()(x)
    y = L.Conv2D(5, 3, padding="same", activation="relu", name="inner")(x)
    y = L.Conv2D(6, 3, padding="same", name="last")(y)
    x = L.Add()([x, y])
    z = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    z = L.PReLU(shared_axes=[1, 2], name="prelu")(z)
    x = L.Concatenate()([z, L.Conv2D(4, 1, activation="sigmoid", name="side")(x)])
    x = L.Flatten()(L.MaxPooling2D()(x))
    x = L.Dense(7, activation="tanh", name="fc")(x)
    return keras.Model(image, L.Dense(2, name="out")(x), name="residual")


def nested():
    """A shared block, called twice, and bare operations."""
    block = keras.Sequential(
        [keras.Input((6,)), L.Dense(8, "relu", name="up"), L.Dense(6, name="down")], name="block"
    )
    x = keras.Input((5,))
    h = L.Dense(6, name="first")(x)
    h = h + block(h)
    h = keras.ops.relu(h * 2.0)
    h = block(h)
    return keras.Model(x, L.Dense(3, name="out")(h))


def sequence():
    return keras.Sequential(
        [
            keras.Input((12, 3)),
            L.Conv1D(6, 3, padding="causal", name="conv"),
            L.Conv1DTranspose(5, 2, strides=2, name="wide"),
            L.LayerNormalization(name="norm"),
            L.Conv1D(4, 3, groups=1, name="conv2"),
            L.LSTM(4, name="lstm"),
            L.Dense(2, activation="softmax", name="out"),
        ]
    )


NETS = {"residual": residual, "nested": nested, "sequence": sequence}


def randomize(model):
    for variable in model.weights:
        if "variance" not in variable.path and "seed" not in variable.path:
            variable.assign(RNG.normal(size=variable.shape) / 2)
    return model


def inputs(model, count=40):
    return RNG.normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")


def sizes(model):
    return {
        path: layer.kernel.shape
        for path, (layer, _) in tfc.walk(model).items()
        if hasattr(layer, "kernel")
    }


def masked(model, gone, channels):
    """What `shrink` must equal: each layer ignores the channels that are gone."""
    for key, labels in channels.reads.items():
        kernel = channels.layers[key].kernel
        kept = channels.kept(labels, gone)
        axes = (1, -1) if "Transpose" in type(channels.layers[key]).__name__ else (-1, 1)
        kernel.assign(kernel.numpy() * kept.reshape(axes))
    return model


@pytest.mark.parametrize("name", NETS)
def test_the_smaller_model_equals_the_masked_one(name):
    model = randomize(NETS[name]())
    channels = Channels(model)
    groups = channels.groups().values()
    assert groups
    for part in (0, 1):  # each half of each group
        gone = {c for group in groups for c in group[part::2][: len(group) - 1]}
        small = shrink(model, channels, gone)
        assert small.count_params() < model.count_params()
        x = inputs(model)
        expected = masked(copied(model), gone, Channels(copied(model)))
        new = copied(model)
        expected = masked(new, gone, Channels(new))(x)
        np.testing.assert_allclose(small(x), expected, rtol=1e-4, atol=1e-5)


def test_what_is_tied_goes_together():
    model = residual()
    small = tfc.prune_channels(model, 0.5)
    assert sizes(small) == {
        "stem": (3, 3, 3, 3),
        "inner": (3, 3, 3, 3),  # of five units two go: round(2.5) is 2
        "last": (3, 3, 3, 3),
        "depthwise": (3, 3, 3, 2),
        "side": (1, 1, 3, 2),
        "fc": (4 * 4 * (6 + 2), 3),
        "out": (3, 2),
    }
    channels = Channels(model)
    stem, last = (channels.writes[id(model.get_layer(name))] for name in ("stem", "last"))
    assert (channels.find(stem) == channels.find(last)).all()


def test_what_cannot_be_followed_stays():
    model = sequence()
    channels = Channels(model)
    free = {channels.layers[keys[0]].name for keys in channels.groups()}
    assert free == {"conv"}  # normalized over channels, read by an LSTM, an output: the others


@pytest.mark.parametrize(
    "build",
    [
        lambda x: L.Conv2D(4, 3, groups=2)(L.Conv2D(4, 3, name="a")(x)),
        lambda x: L.Dense(4)(L.Softmax()(L.Conv2D(4, 3, name="a")(x))),
        lambda x: L.Dense(4)(L.Conv2D(4, 3, activation="softmax", name="a")(x)),
        lambda x: L.Dense(4)(L.Reshape((-1, 8))(L.Conv2D(4, 3, name="a")(x))),
        lambda x: L.Dense(4)(L.BatchNormalization(axis=1)(L.Conv2D(4, 3, name="a")(x))),
        lambda x: L.Dense(4)(keras.ops.multiply(L.Conv2D(4, 3, name="a")(x), np.ones(4))),
        lambda x: L.Dense(4)(
            L.Lambda(lambda x: x, output_shape=(6, 6, 4))(L.Conv2D(4, 3, name="a")(x))
        ),
        lambda x: L.Dense(4)(keras.ops.mean(L.Conv2D(4, 3, name="a")(x), axis=-1, keepdims=True)),
        lambda x: L.Dense(4)(L.Conv2D(4, 3, name="a")(x) + x[:, 1:-1, 1:-1, :1]),
    ],
)
def test_a_named_layer_whose_channels_must_stay_is_refused(build):
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, build(x))
    with pytest.raises(ValueError, match="'a' cannot be removed"):
        tfc.prune_channels(model, 0.5, layers="a")
    x = inputs(model, 2)
    with pytest.raises(ValueError, match="no channels to remove"):
        tfc.prune_channels(model, 0.5)


def test_magnitude_worked_by_hand():
    model = keras.Sequential([keras.Input((2,)), L.Dense(3, name="a"), L.Dense(1, name="b")])
    weights = [[1, -2, 0.5], [-1, 3, 1]], [7, 8, 9], [[10], [20], [30]], [4]
    model.set_weights([np.array(w, float) for w in weights])
    small = tfc.prune_channels(model, 1 / 3)  # columns of 2, 5 and 1.5
    a, bias, b, out = small.get_weights()
    assert a.tolist() == [[1, -2], [-1, 3]] and bias.tolist() == [7, 8]
    assert b.tolist() == [[10], [20]] and out.tolist() == [4]
    assert model.get_weights()[0].shape == (2, 3)  # as it was


def test_global_scope_takes_what_matters_least():
    model = randomize(residual())
    kernel = model.get_layer("inner").kernel
    kernel.assign(kernel.numpy() * np.where(np.arange(5) < 3, 1e-3, 1.0))
    small = tfc.prune_channels(model, 3 / (6 + 5 + 4 + 7), scope="global")
    changed = {name for name, shape in sizes(small).items() if shape != sizes(model)[name]}
    assert sizes(small)["inner"][-1] == 2 and changed == {"inner", "last"}


def test_a_layer_keeps_one_channel():
    small = tfc.prune_channels(randomize(residual()), 0.99)
    assert sizes(small)["inner"] == (3, 3, 1, 1)
    assert sizes(tfc.prune_channels(randomize(residual()), 0.99, scope="global"))["out"] == (1, 2)


@pytest.mark.parametrize(
    ("amount", "multiple", "left"), [(0.3, 16, 16), (0.3, 8, 24), (0.01, 5, 30), (0.9, 64, 3)]
)
def test_the_channels_that_stay_are_whole_multiples(amount, multiple, left):
    layers = [L.Dense(32, name="a"), L.Dense(4, name="b"), L.Dense(3)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    small = tfc.prune_channels(model, amount, multiple=multiple)
    assert small.get_layer("a").units == left
    assert 1 <= small.get_layer("b").units <= 4


def test_channels_that_others_can_replace_cost_nothing():
    """Half of the units are copies of the others: with `obs` nothing is lost."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            L.Dense(8, "relu", name="a"),
            L.Dense(3, name="b"),
        ]
    )
    random = np.random.default_rng(0)
    a = random.normal(size=(6, 4)).astype("float32")
    model.get_layer("a").kernel.assign(np.hstack([a, a]))
    x = random.normal(size=(500, 6)).astype("float32")
    small = tfc.prune_channels(model, 0.5, "obs", x)
    assert sizes(small)["a"] == (6, 4)
    # The fit is damped by 1% of the inputs' mean square, and so are its weights.
    assert np.std(small(x) - model(x)) < 0.02 * np.std(model(x))
    plain = tfc.prune_channels(model, 0.5, "random")
    assert np.abs(plain(x) - model(x)).max() > 0.3


def test_fitted_kernels_are_the_least_squares_ones():
    model = randomize(nested())
    x = inputs(model, 300)
    new = copied(model)
    channels = Channels(new)
    gone = set(next(iter(channels.groups().values()))[:2])
    before, after = (tfc.walk(m)["out"][0] for m in (model, new))
    _compensate(model, new, channels, gone, x)
    hidden = [keras.Model(m.inputs, m.get_layer("out").input)(x).numpy() for m in (model, new)]
    kept = channels.kept(channels.reads[id(after)], gone)
    target = hidden[0] @ before.kernel.numpy()
    x, w = hidden[1] * kept, before.kernel.numpy()
    moment = x.T @ x / len(x)
    damped = moment + DAMPING * np.diag(moment).mean() * np.eye(len(moment))
    best = w + np.linalg.solve(damped, x.T @ (target - x @ w) / len(x))
    np.testing.assert_allclose(after.kernel.numpy()[kept], best[kept], rtol=1e-3, atol=1e-4)
    assert not after.kernel.numpy()[~kept].any()


def test_elimination_is_the_exact_one():
    """Against the loss after least squares on the channels that are left, tried one by one."""
    rng = np.random.default_rng(0)
    n, m = 8, 3
    A = np.cov(rng.normal(size=(n, 30)) * np.linspace(0.5, 2, n)[:, None])
    w = rng.normal(size=(n, m))
    rows = {c: np.array([c, c + 4]) for c in range(4)}

    def loss(gone):
        gone = np.concatenate([rows[c] for c in gone])
        keep = np.setdiff1d(np.arange(n), gone)
        v = np.zeros_like(w)
        v[keep] = w[keep] + np.linalg.solve(A[np.ix_(keep, keep)], A[np.ix_(keep, gone)] @ w[gone])
        return np.vdot(w - v, A @ (w - v)) / np.vdot(w, A @ w)

    order, costs = eliminate([KernelBlock(w, A, A, rows)], list(range(4)))
    gone = []
    for channel, cost in itertools.islice(zip(order, costs, strict=True), 3):
        left = [c for c in range(4) if c not in gone]
        losses = [loss([*gone, c]) - (loss(gone) if gone else 0) for c in left]
        assert channel == left[int(np.argmin(losses))]
        assert cost >= min(losses) - 1e-9
        gone.append(channel)
    assert costs[0] == pytest.approx(loss([order[0]]))


def test_obd_and_callables_score_channels():
    rng = np.random.default_rng(0)
    model = randomize(residual())
    model.compile("sgd", "mse")
    x = inputs(model)
    y = rng.normal(size=(len(x), 2))
    small = tfc.prune_channels(model, 0.5, "obd", (x, y))
    assert sizes(small) == sizes(tfc.prune_channels(model, 0.5, lambda w, d: np.abs(w)))
    assert small.count_params() < model.count_params()


def test_it_trains_saves_and_exports(tmp_path):
    model = randomize(residual())
    x = inputs(model)
    small = tfc.prune_channels(model, 0.5, "obs", x)
    small.compile("adam", "mse")
    small.fit(x, np.zeros((len(x), 2)), verbose=0)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(x), small(x))
    assert len(tfc.to_tflite(small, check=x[:4])) < len(tfc.to_tflite(model, check=x[:4]))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"amount": 1.0}, ValueError, r"in \[0, 1\)"),
        ({"amount": "half"}, TypeError, "number"),
        ({"score": "obs"}, ValueError, "needs `data`"),
        ({"score": "best"}, ValueError, "A score is one of"),
        ({"score": lambda w, d: w * np.nan}, ValueError, "NaN"),
        ({"scope": "model"}, ValueError, "Expected scope"),
        ({"layers": "con"}, ValueError, "matches no layer"),
        ({"layers": "out"}, ValueError, "'out' cannot be removed"),
        ({"layers": "stem"}, ValueError, "channels are tied to those"),
        ({"data": iter([np.ones((2, 8, 8, 3))])}, ValueError, "generator"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        tfc.prune_channels(residual(), **{"amount": 0.5, **arguments})


def test_models_that_are_refused():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="subclassed"):
        tfc.prune_channels(Subclassed(), 0.5)
    with pytest.raises(ValueError, match="not built"):
        tfc.prune_channels(keras.Sequential([L.Dense(3)]), 0.5)


def test_a_transposed_convolution_that_reads_compensates():
    """Its inputs come in equal pairs, so that one of each pair can do the work of both."""
    wide = L.Conv1DTranspose(2, 3, strides=2, name="wide")
    model = randomize(keras.Sequential([keras.Input((9, 3)), L.Conv1D(6, 2, name="conv"), wide]))
    kernel, bias = (np.array(v) for v in model.get_layer("conv").weights)
    model.get_layer("conv").set_weights([np.repeat(kernel[..., :3], 2, -1), np.repeat(bias[:3], 2)])
    x = inputs(model)
    small = tfc.prune_channels(model, 0.5, "obs", x)
    assert small.get_layer("wide").kernel.shape == (3, 2, 3)
    error, size = np.square(small(x) - model(x)).mean(), np.square(model(x)).mean()
    assert error < 1e-3 * size


def through(activation):
    """A model whose first layer has the activation, inside or behind it."""

    def inside():
        return [L.Dense(8, activation=activation, name="h")]

    def behind():
        return [L.Dense(8, name="h"), L.Activation(activation)]

    stacks = inside(), behind()
    return [keras.Sequential([keras.Input((6,)), *stack, L.Dense(2)]) for stack in stacks]


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax", "glu"])
def test_activations_that_mix_channels_keep_them(name):
    for model in through(name):
        with pytest.raises(ValueError, match=r"cannot be removed|no channels to remove"):
            tfc.prune_channels(model, 0.5, layers="h")
    with pytest.raises(ValueError, match=name):
        tfc.prune_channels(through(name)[0], 0.5, layers="h")


def test_an_activation_of_ones_own_keeps_channels():
    def normalized(x):
        return x / (1 + keras.ops.sum(keras.ops.abs(x), -1, keepdims=True))

    for activation in (normalized, L.Softmax(), L.PReLU()):
        model = through(activation)[0]
        with pytest.raises(ValueError, match="is not known to act on each channel alone"):
            tfc.prune_channels(model, 0.5, layers="h")


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "swish", "hard_sigmoid", L.ReLU(6.0)])
def test_elementwise_activations_let_channels_go(activation):
    model = through(activation)[0]
    small = tfc.prune_channels(model, 0.5, layers="h")
    kept = np.transpose(small.get_layer("h").kernel).tolist()
    assert len(kept) == 4
    assert all(row in np.transpose(model.get_layer("h").kernel).tolist() for row in kept)


def test_a_depthwise_convolution_that_mixes_channels():
    layers = [L.Conv2D(6, 3, name="h"), L.DepthwiseConv2D(3, activation="log_softmax"), L.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 2)), *layers, L.Dense(2)])
    with pytest.raises(ValueError, match=r"cannot be removed|no channels to remove"):
        tfc.prune_channels(model, 0.5, layers="h")


class Transposed(L.Layer):
    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def call(self, x):
        return x @ keras.ops.transpose(self.dense.kernel)


def test_channels_of_a_layer_that_another_one_computes_with_stay():
    tied, x = L.Dense(6, "relu", name="tied"), keras.Input((8,))
    hidden = L.Dense(6, "relu", name="hidden")(Transposed(tied, name="back")(tied(x)))
    model = keras.Model(x, L.Dense(3, name="out")(hidden))
    small = tfc.prune_channels(model, 0.5)
    assert small.get_layer("tied").kernel.shape == (8, 6)
    assert small.get_layer("hidden").kernel.shape == (8, 3)


def test_what_is_frozen_stays_frozen():
    names = ("first", "second", "out")
    model = keras.Sequential([keras.Input((8,)), *(L.Dense(6, "relu", name=n) for n in names)])
    model.get_layer("first").trainable = False
    model.get_layer("out").bias.trainable = False
    small = tfc.prune_channels(model, 0.5)
    flags = [[w.trainable for w in layer.weights] for layer in small.layers]
    assert flags == [[False, False], [True, True], [True, False]]
    model.get_layer("second").kernel.trainable = False
    with pytest.raises(ValueError, match="'second' cannot be pruned: its kernel is frozen"):
        tfc.prune_channels(model, 0.5, layers="second")
