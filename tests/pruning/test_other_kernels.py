"""Pruning of kernels that are no Dense layers or plain convolutions: recurrent, transposed, ..."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.pruning.masks import prunable

L = keras.layers
RNG = np.random.default_rng(0)


def smooth(*shape):
    """Noise whose neighbours and channels are alike, so that weights can stand in for others."""
    x = RNG.normal(size=shape)
    for axis in range(1, x.ndim):
        x = x.cumsum(axis)
    return (x / x.std()).astype("float32")


SOUND = smooth(40, 9, 6)
PICTURES = smooth(30, 6, 5, 4)
FILMS = smooth(12, 3, 5, 4, 2)
KINDS = {
    "lstm": (lambda: L.LSTM(8, name="it"), SOUND),
    "gru": (lambda: L.GRU(8, name="it"), SOUND),
    "gru, reset before": (lambda: L.GRU(8, reset_after=False, name="it"), SOUND),
    "simple": (lambda: L.SimpleRNN(8, name="it"), SOUND),
    "bidirectional": (lambda: L.Bidirectional(L.LSTM(8), name="it"), SOUND),
    "stacked": (lambda: L.RNN([L.LSTMCell(8), L.GRUCell(6)], name="it"), SOUND),
    "convolutional": (lambda: L.ConvLSTM2D(4, 3, name="it"), FILMS),
    "separable": (lambda: L.SeparableConv2D(8, 3, depth_multiplier=2, name="it"), PICTURES),
    "separable 1d": (lambda: L.SeparableConv1D(8, 3, name="it"), SOUND),
    "depthwise": (lambda: L.DepthwiseConv2D(3, depth_multiplier=3, name="it"), PICTURES),
    "depthwise 1d": (lambda: L.DepthwiseConv1D(3, depth_multiplier=3, name="it"), SOUND),
    "transposed 1d": (lambda: L.Conv1DTranspose(8, 3, strides=2, name="it"), SOUND),
    "transposed": (lambda: L.Conv2DTranspose(8, 3, padding="same", name="it"), PICTURES),
    "transposed 3d": (lambda: L.Conv3DTranspose(3, 2, name="it"), FILMS),
    "3d": (lambda: L.Conv3D(4, 2, name="it"), FILMS),
}


def built(kind):
    keras.utils.set_random_seed(0)
    layer, x = KINDS[kind]
    model = keras.Sequential([keras.Input(x.shape[1:]), layer(), L.Flatten(), L.Dense(3)])
    return model, x


def share_of_zeros(model):
    return {
        path: float(np.mean(np.array(v) == 0))
        for path, v in prunable(model).items()
        if "it" in path
    }


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_by_magnitude_by_curvature_and_with_compensation(kind):
    model, x = built(kind)
    before = model(x)
    kernels = {path for path in prunable(model) if "it" in path}
    assert kernels and all(path == "it" or path.startswith("it/") for path in kernels)

    def error(*how):
        small = tfc.prune(model, 0.5, *how, layers="it")
        assert [type(a) for a in small.layers] == [type(a) for a in model.layers]
        zeros = share_of_zeros(small)
        assert set(zeros) == kernels and all(0.4 < share < 0.6 for share in zeros.values())
        return np.square(small(x) - before).mean()

    assert error(x, "obs") < error()  # with what is left making up for it
    model.compile("sgd", "mse")
    error((x, np.zeros((len(x), 3))), "obd")


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_during_fit(kind):
    model, x = built(kind)
    model.compile("adam", "mse")
    prune = tfc.callbacks.Prune(lambda step: 0.75, every=1, layers="it")
    fitted = model.fit(x, np.zeros((len(x), 3)), batch_size=10, callbacks=[prune], verbose=0)
    zeros = share_of_zeros(model)
    weights = {path: np.prod(v.shape) for path, v in prunable(model).items() if path in zeros}
    total = sum(zeros[path] * weights[path] for path in zeros) / sum(weights.values())
    assert abs(total - 0.75) < 0.02
    assert abs(fitted.history["sparsity"][-1] - total) < 1e-6


@pytest.mark.parametrize("callback", [False, True])
def test_a_pattern_runs_along_the_inputs_of_each_output(callback):
    start = keras.Input((6, 8))
    x = L.MultiHeadAttention(2, 4, name="attention")(start, start)
    model = keras.Model(start, L.Conv1DTranspose(3, 3, name="up")(x))
    pattern = tfc.score.m_by_n("magnitude", 2, 4)
    if callback:
        model.compile("sgd", "mse")
        prune = tfc.callbacks.Prune(lambda step: 0.5, pattern, every=1)
        model.fit(np.ones((4, 6, 8)), np.ones((4, 8, 3)), callbacks=[prune], verbose=0)
    else:
        model = tfc.prune(model, 0.5, score=pattern)
    kernels = {path: np.array(v) for path, v in prunable(model).items()}
    kernels["up"] = kernels["up"].swapaxes(-1, -2)  # (k, o, i)
    kernels["attention/attention_output"] = kernels["attention/attention_output"].reshape(8, 8)
    for kernel in kernels.values():  # of queries, keys and values (i, heads, size)
        is_map = kernel.ndim == 3 and kernel.shape[0] == 8
        rows = kernel.reshape(8, -1) if is_map else kernel.reshape(-1, kernel.shape[-1])
        assert ((rows.reshape(-1, 4, rows.shape[-1]) != 0).sum(1) == 2).all()


def test_the_name_of_one_kernel_of_a_cell():
    model, x = built("lstm")
    small = tfc.prune(model, 0.5, x, "obs", layers="it/lstm_cell/recurrent_kernel")
    shares = share_of_zeros(small)
    assert shares["it/lstm_cell/kernel"] == 0
    assert abs(shares["it/lstm_cell/recurrent_kernel"] - 0.5) < 0.01


@pytest.mark.parametrize("how", [(), (SOUND, "obs")])
def test_a_frozen_kernel_is_not_pruned(how):
    model, _ = built("lstm")
    cell, out = model.get_layer("it").cell, model.layers[-1]
    cell.recurrent_kernel.trainable = out.kernel.trainable = False
    with pytest.warns(UserWarning, match=f"{out.name}: its kernel is frozen"):
        small = tfc.prune(model, 0.5, *how)
    assert list(prunable(small)) == ["it/lstm_cell/kernel"]
    assert np.all(np.array(small.layers[-1].kernel) != 0)
    zeros = [np.mean(np.array(v) == 0) for v in small.get_layer("it").cell.weights[:2]]
    assert zeros == pytest.approx([0.5, 0.0], abs=0.01)
    for name in ("it/lstm_cell/recurrent_kernel", out.name):
        with pytest.raises(ValueError, match="its kernel is frozen"):
            tfc.prune(model, 0.5, *how, layers=name)


def test_what_the_user_opened_stays_open():
    model, x = built("lstm")
    model = tfc.opened(model)
    small = tfc.prune(model, 0.5, x, "obs")
    assert type(small.get_layer("it").cell) is type(model.get_layer("it").cell)


def test_weights_of_inputs_that_are_always_zero_go_first():
    keras.utils.set_random_seed(0)
    up = L.Conv2DTranspose(5, 3, strides=2, name="up")
    model = keras.Sequential([keras.Input((6, 5, 4)), up])
    x = PICTURES.copy()
    x[..., 3] = 0
    small, plain = (tfc.prune(model, 0.25, x, score) for score in ("obs", "magnitude"))
    error, of_plain = (np.square(new(x) - model(x)).mean() for new in (small, plain))
    assert error < 0.02 * of_plain


def test_curvature_of_transposed_kernels_has_the_scale_of_the_diagonal():
    keras.utils.set_random_seed(0)
    up = L.Conv2DTranspose(5, 3, strides=2, name="up")
    model = keras.Sequential([keras.Input((6, 5, 4)), up])
    data = PICTURES, np.zeros((30, 13, 11, 5), "float32")
    metric = tfc.curvature.kronecker(model, data, "mse")["up"]
    d = tfc.curvature.gauss_newton(model, data, "mse")["up"]
    mine = metric.diagonal((3, 3, 4, 5))
    np.testing.assert_allclose(mine.sum((0, 1, 2)), d.sum((0, 1, 3)), rtol=1e-4)


def test_forms_of_transposed_kernels_are_planned_and_told():
    model, x = built("transposed")
    found = tfc.plan(model, x, budget=0.3)
    assert found.cost <= 0.3 * found.float_cost and "it" in found.options
    makers = {"four": tfc.layers.QuantizedConv2DTranspose.using(bits=4)}
    data = x, np.zeros((len(x), 3))
    (row,) = tfc.sensitivity(model, data, "it", makers, loss="mse").rows
    assert row.predicted > 0 and row.bits < 0.2 * 32 * 9 * 4 * 8
