"""Verification sees all samples, in bounded time, and tells what it saw."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.export import ExportError, samples, to_tflite
from tfcompress.layers import QuantizedDense
from tfcompress.reporting.model_report import report
from tfcompress.rewriting.swap import swap


def network(batch=None, units=32):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,), batch_size=batch)
    return keras.Model(inputs, layers.Dense(units, name="fc")(inputs))


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def test_samples_and_differences_are_told():
    model = network(units=64)  # whose product is in integers
    exact = to_tflite(model, check=normal(50, 16))
    assert exact.samples == 50 and 0 <= exact.differences["fc"] < 1e-5
    small = swap(model, {"fc": QuantizedDense.using(bits=8)})
    rounded = to_tflite(small, check=normal(50, 16))
    assert 1e-4 < rounded.differences["fc"] < 0.1
    facts = report(small, tflite=rounded).file
    assert facts.samples == 50 and facts.largest_difference == rounded.differences["fc"]
    assert "Verified on 50 samples: outputs differ by at most" in str(report(small, tflite=rounded))
    assert report(small, tflite=bytes(rounded)).file.samples is None


def test_the_number_of_samples_is_bounded(monkeypatch):
    assert to_tflite(network(), check=normal(1100, 16)).samples == 1000
    assert to_tflite(network(1), check=normal(150, 16)).samples == 100
    monkeypatch.setattr(samples, "MOST_PRODUCTS", 544 * 40)
    assert to_tflite(network(), check=normal(200, 16)).samples == 40
    monkeypatch.setattr(samples, "MOST_PRODUCTS", 1)
    assert to_tflite(network(), check=normal(200, 16)).samples == 32


class Fickle(keras.layers.Layer):
    """Computes something else in a trace than eagerly, for large inputs alone."""

    def call(self, x):
        if hasattr(x, "numpy"):
            return ops.where(ops.abs(x) > 4.0, x + 1.0, x)
        return x


@pytest.mark.parametrize("place", [0, 3, 70])
def test_a_difference_in_any_sample_is_refused(place):
    inputs = keras.Input((16,))
    model = keras.Model(inputs, Fickle(name="fickle")(inputs))
    x = normal(72, 16).clip(-3, 3)
    to_tflite(model, check=x)
    x[place, 5] = 6.0
    with pytest.raises(ExportError, match=r"Output 'fickle' .* differs from the Keras model by 1"):
        to_tflite(model, check=x)


def test_a_model_that_gives_no_numbers_itself_is_named():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="out")(ops.log(inputs)))
    x = np.ones((40, 4), "float32")
    x[30] = 0
    with pytest.raises(ExportError, match="'out' of the Keras model itself is not finite"):
        to_tflite(model, check=x)


def test_infinities_that_a_model_means_are_no_fault():
    inputs = keras.Input((6,))
    scores = layers.Dense(8)(inputs)
    model = keras.Model(inputs, ops.where(scores > 0, scores, -float("inf")))
    x = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    assert len(to_tflite(model, check=x)) > 0


def test_numbers_in_lists_are_refused_in_one_line():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"Received: numbers in lists, .* `np.array\(check\)`"):
        to_tflite(model, check=np.zeros((50, 4)).tolist())


def test_a_file_that_does_not_run_is_not_blamed_on_tables_that_are_not_there(monkeypatch):
    def stopped(*_):
        raise RuntimeError("failed to prepare")

    monkeypatch.setattr("tfcompress.export.exporter.verify", stopped)
    with pytest.raises(ExportError, match=r"on these inputs: failed to prepare\.$"):
        to_tflite(network())
