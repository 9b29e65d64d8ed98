"""Files of each output of a model alone, and kernels that are equal in several layers."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import operators

import tfcompress as tfc
from tfcompress.export.exporter import file_bytes, file_bytes_of_outputs


@pytest.mark.parametrize("store", ["fast", "small"])
def test_a_file_of_each_output_is_as_large_as_its_own_model(store):
    keras.utils.set_random_seed(0)
    x = keras.Input((12, 12, 16), name="x")
    shared = layers.Conv2D(16, 3, name="conv")(x)
    pooled = layers.GlobalAveragePooling2D(name="pool")(shared)
    ends = [
        layers.Dense(40, name="fc_a")(pooled),
        layers.Dense(24, name="fc_b")(pooled),
        layers.Conv2D(32, 3, name="last")(shared),
    ]
    rules = {
        "conv": tfc.layers.QuantizedConv2D.using(bits=4),
        "fc_a": tfc.layers.BinaryDense.using(),
        "fc_b": tfc.layers.QuantizedDense.using(bits=8),
        "last": tfc.layers.TuckerConv2D.using(rank=0.5).then(
            tfc.layers.QuantizedConv2D.using(bits=8)
        ),
    }
    model = tfc.swap(keras.Model(x, ends), rules)
    alone = [
        file_bytes(keras.Model(model.inputs, output, name="alone"), store)
        for output in model.outputs
    ]
    assert file_bytes_of_outputs(model, store) == alone


def test_layers_of_the_same_levels_need_no_factors():
    """Their kernels are equal up to scales: each operator keeps its own, or one of the same."""
    keras.utils.set_random_seed(0)
    x = keras.Input((64,))
    fc = [tfc.layers.TernaryDense(64, name=f"fc_{number}") for number in range(3)]
    model = keras.Model(x, [layer(x) for layer in fc])
    stored = fc[0].stored()
    for scale, layer in enumerate(fc, 1):
        layer.restore(stored | {"scale": scale * stored["scale"]})
    inputs = np.random.default_rng(0).normal(size=(4, 64)).astype("float32")
    blob = tfc.to_tflite(model, check=inputs, activations="float32", store="small")
    assert "MUL" not in operators(blob)
