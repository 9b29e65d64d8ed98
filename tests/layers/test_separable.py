"""Opened separable convolutions: the same function, each kernel a layer."""

import keras
import numpy as np
import pytest

import tfcompress as tfc

kinds = keras.layers
CASES = {
    "1d": (kinds.SeparableConv1D(6, 3, padding="same", depth_multiplier=2, name="s"), (9, 4)),
    "1d dilated": (kinds.SeparableConv1D(6, 3, dilation_rate=2, name="s"), (9, 4)),
    "2d": (kinds.SeparableConv2D(6, 3, strides=2, activation="relu", name="s"), (9, 8, 4)),
    "2d without bias": (kinds.SeparableConv2D(6, (3, 2), use_bias=False, name="s"), (9, 8, 4)),
}


def case(name):
    layer, shape = CASES[name]
    layer = type(layer).from_config(layer.get_config() | {"bias_initializer": "uniform"})
    x = np.random.default_rng(0).standard_normal((5, *shape)).astype("float32")
    return keras.Sequential([keras.Input(shape), layer]), x


@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same_opened_and_closed(name, tmp_path):
    model, x = case(name)
    opened = tfc.opened(model)
    assert list(tfc.walk(opened)) == ["s", "s/depthwise_kernel", "s/pointwise_kernel"]
    np.testing.assert_allclose(opened(x), model(x), atol=1e-6)
    closed = tfc.to_ordinary(opened)
    assert type(closed.layers[0]) is type(model.layers[0])
    np.testing.assert_array_equal(closed(x), model(x))
    eight = [
        getattr(tfc.layers, f"Quantized{kind}Conv{name[0]}D").using(bits=8)
        for kind in ("Depthwise", "")
    ]
    rules = dict(zip(("s/depthwise_kernel", "s/pointwise_kernel"), eight, strict=True))
    swapped = tfc.swap(model, rules, data=x)
    kinds_now = [type(layer).__name__ for layer, _ in tfc.walk(swapped).values()][1:]
    rank = name[0]
    assert kinds_now == [f"QuantizedDepthwiseConv{rank}D", f"QuantizedConv{rank}D"]
    scale = np.sqrt(np.mean(np.square(model(x))))
    np.testing.assert_allclose(swapped(x), model(x), atol=0.03 * scale)
    swapped.save(tmp_path / "swapped.keras")
    loaded = keras.saving.load_model(tmp_path / "swapped.keras")
    np.testing.assert_array_equal(loaded(x), swapped(x))
    plain = tfc.to_ordinary(swapped)
    assert type(plain.layers[0]) is type(model.layers[0])
    np.testing.assert_allclose(plain(x), swapped(x), atol=1e-5)


def test_a_rule_names_a_part():
    model, _ = case("2d")
    swapped = tfc.swap(model, {"s/pointwise_kernel": tfc.layers.TernaryConv2D.using()})
    found = [type(layer) for layer, _ in tfc.walk(swapped).values()]
    assert found[1:] == [kinds.DepthwiseConv2D, tfc.layers.TernaryConv2D]


def test_pruning_reaches_opened_kernels():
    inputs = keras.Input((9, 4))
    x = kinds.LSTM(6, name="r")(kinds.SeparableConv1D(6, 3, name="s")(inputs))
    model = keras.Model(inputs, kinds.Dense(2, name="out")(x))
    for pruned in (tfc.prune(model, 0.5), tfc.to_ordinary(tfc.prune(tfc.opened(model), 0.5))):
        assert [type(layer) for layer in pruned.layers] == [type(layer) for layer in model.layers]
        for layer, kernels in ((pruned.get_layer("s"), 2), (pruned.get_layer("r").cell, 2)):
            for kernel in layer.get_weights()[:kernels]:
                np.testing.assert_allclose(np.mean(kernel == 0), 0.5, atol=0.05)
