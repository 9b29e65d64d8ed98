import keras
import numpy as np
import pytest

import tfcompress as tfc


def test_values_are_those_of_numpy_float16():
    rng = np.random.default_rng(0)
    w = (10.0 ** rng.uniform(-9, 4, (40, 5)) * rng.choice([-1, 1], (40, 5))).astype("float32")
    layer = tfc.layers.Float16Dense(5)
    layer.build((None, 40))
    layer.fit_kernel(w)
    np.testing.assert_array_equal(layer.kernel, w.astype("float16").astype("float32"))
    assert layer.stored()["kernel"].dtype == "float16" and layer.bits == 16 * 200


def test_small_steps_are_not_lost_in_training():
    """Latents are float32: a step below float16's spacing adds up."""
    layer = tfc.layers.Float16Dense(1, use_bias=False)
    layer.build((None, 1))
    layer.latent.assign([[1.0]])
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(keras.optimizers.SGD(1e-4), lambda y, p: keras.ops.sum(p))
    model.fit(np.ones((20, 1)), np.zeros((20, 1)), batch_size=1, verbose=0)
    np.testing.assert_allclose(layer.latent, 1 - 20e-4, rtol=1e-5)
    assert layer.kernel[0, 0] == np.float32(np.float16(1 - 20e-4))


def test_a_weight_beyond_float16_is_refused():
    dense = keras.layers.Dense(2, name="fc")
    dense.build((None, 2))
    dense.kernel.assign([[1.0, 2.0], [3.0, 7e4]])
    with pytest.raises(ValueError, match="'fc' has weights beyond float16"):
        tfc.layers.Float16Dense.from_layer(dense)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="LiteRT needs TensorFlow")
def test_the_file_stores_float16():
    from tfcompress.tflite.stored_tensors import stored_tensors

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, name="fc")])
    blob = tfc.to_tflite(tfc.swap(model, tfc.layers.rounding(16)))
    kernels = [tensor for tensor in stored_tensors(blob) if tensor.layer == "fc/kernel"]
    assert [(tensor.encoding, tensor.bytes) for tensor in kernels] == [("FLOAT16", 4096)]
