import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress as tfc

rng = np.random.default_rng(0)


def fitted(w, bits, metric=None):
    layer = tfc.layers.QuantizedDense(w.shape[1], bits=bits)
    layer.build((None, w.shape[0]))
    layer.fit_kernel(w, metric)
    return layer


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_levels_are_exact_and_nearly_idempotent(bits, seed):
    w = np.random.default_rng(seed).standard_normal((10, 3)).astype("float32")
    layer = fitted(w, bits)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    stored = layer.stored()
    n = 2 ** (bits - 1) - 1
    assert np.max(np.abs(stored["codes"])) <= n
    np.testing.assert_array_equal(kernel, stored["scale"] * stored["codes"].astype("float32"))
    assert layer.pack()["codes"].bits <= 8 * -(-bits * w.size // 8)
    again = np.asarray(fitted(kernel, bits).kernel)
    assert np.linalg.norm(again - kernel) <= 0.02 * np.linalg.norm(kernel)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_scale_comes_near_brute_force(bits):
    w, n = rng.standard_normal((20, 4)), 2 ** (bits - 1) - 1
    layer = fitted(w, bits)
    error = np.sum((np.asarray(layer.kernel) - w) ** 2, 0)
    scales = np.linspace(0.01, 1.2, 2000)[:, None, None] * np.max(np.abs(w), 0) / n
    best = np.min(np.sum((scales * np.clip(np.round(w / scales), -n, n) - w) ** 2, 1), 0)
    assert np.all(error <= 1.03 * best)


def test_eight_bits_are_near_exact():
    w = rng.standard_normal((50, 8)).astype("float32")
    error = np.sqrt(np.mean((np.asarray(fitted(w, 8).kernel) - w) ** 2, 0))
    assert np.all(error <= 1.1 * np.max(np.abs(w), 0) / 127 / np.sqrt(12))


def test_ternary_is_two_bits():
    layer = tfc.layers.TernaryDense(4)
    layer.build((None, 8))
    assert layer.count == 1 and "bits" not in layer.get_config()
    assert layer.bits == 8 * 4 * 2 + 32 * 4
