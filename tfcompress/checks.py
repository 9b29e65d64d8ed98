"""The contract of a compressed layer, one `check_*` per promise, for the tests of any layer.

Each check takes a built ordinary layer, a maker (`LayerClass.using(...)`) and inputs, and raises
`ContractError` where the promise is broken:

>>> import keras, numpy as np, tfcompress as tfc
>>> dense = keras.layers.Dense(8)
>>> x = np.ones((4, 16), "float32")
>>> _ = dense(x)
>>> for check in tfc.checks.LAYER_CHECKS:
...     check(dense, tfc.layers.BinaryDense.using(), x)
"""

import json
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.graph.private_keras import mask_of, with_mask
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.numerics.codecs import unpack
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Tensor
from tfcompress.utils.writers import temporary_folder


class ContractError(AssertionError):
    """A layer breaks its contract."""


def check_identity(ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor) -> None:
    """Name, trainable flag, dtype policy and output shape are the ordinary layer's."""
    layer = maker(ordinary)
    for name in ("name", "trainable", "compute_dtype", "variable_dtype"):
        _equal(getattr(layer, name), getattr(ordinary, name), name)
    expected, received = ordinary(inputs), layer(inputs)
    _equal(tuple(received.shape), tuple(expected.shape), "output shape")
    _equal(received.dtype, expected.dtype, "output dtype")
    shape = layer.compute_output_shape((None, *inputs.shape[1:]))
    _equal(tuple(shape), (None, *expected.shape[1:]), "compute_output_shape")


def check_kernel(ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor) -> None:
    """The output is the ordinary layer's with `layer.kernel` in it."""
    layer = maker(ordinary)
    _equal(tuple(layer.kernel.shape), tuple(kernel_of(ordinary).shape), "kernel shape")
    plain = type(ordinary).from_config(ordinary.get_config())
    plain.build(inputs.shape)
    plain.set_weights([to_numpy(layer.kernel), *ordinary.get_weights()[1:]])
    _close(layer(inputs), plain(inputs), "output with `kernel` in the ordinary layer")


def check_stored(ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor) -> None:
    """`restore(stored())` and `unpack(pack())` are exact; the stored bits are fewer."""
    layer = maker(ordinary)
    kernel, stored = to_numpy(layer.kernel), layer.stored()
    unpacked = unpack(layer.pack())
    for name, array in stored.items():
        _same(unpacked[name], array, f"unpack(pack()) of {name!r}")
    other = type(layer).from_config(layer.get_config())
    other.build(inputs.shape)
    other.restore(unpacked)
    _same(to_numpy(other.kernel), kernel, "the kernel after restore(unpack(pack()))")
    layer.restore(stored)
    _same(to_numpy(layer.kernel), kernel, "the kernel after restore(stored())")
    before = 32 * kernel.size
    if not 0 < layer.bits < before:
        raise ContractError(
            f"`bits` must be in (0, {before}), the float layer's. Received: {layer.bits}"
        )


def check_gradients(
    ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor
) -> None:
    """A training step changes every trainable variable, of a fitted and of a fresh layer."""
    for layer in (maker(ordinary), _fresh(maker(ordinary))):
        layer.activation = keras.activations.linear
        model = keras.Sequential([keras.Input(inputs.shape[1:]), layer])
        before = [to_numpy(variable) for variable in model.trainable_variables]
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        model.fit(inputs, np.ones(model(inputs).shape), epochs=1, verbose=0)
        for variable, old in zip(model.trainable_variables, before, strict=True):
            if np.array_equal(to_numpy(variable), old):
                raise ContractError(f"No gradient reaches the trainable variable {variable.path}")


def check_config(ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor) -> None:
    """The config is JSON and makes an equal layer."""
    layer = maker(ordinary)
    config = json.loads(json.dumps(layer.get_config()))
    other = type(layer).from_config(config)
    _equal(other.get_config(), layer.get_config(), "the config after a round trip")
    other.build(inputs.shape)
    other.set_weights(layer.get_weights())
    _same(to_numpy(other(inputs)), to_numpy(layer(inputs)), "output of the layer from the config")


def check_training(ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor) -> None:
    """Thirty steps of Adam(0.003) towards another layer's outputs lower the squared error by 5%."""
    model = keras.Sequential([keras.Input(inputs.shape[1:]), maker(ordinary)])
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    other = _fresh(ordinary)
    other.kernel_initializer = keras.initializers.GlorotUniform(seed=1)
    target = to_numpy(other(inputs))
    before = model.evaluate(inputs, target, verbose=0)
    model.fit(inputs, target, epochs=30, batch_size=len(inputs), verbose=0)
    after = model.evaluate(inputs, target, verbose=0)
    if not after < 0.95 * before:
        raise ContractError(f"Training does not lower the loss: {before:.4g} to {after:.4g}")


def check_mixed_precision(
    ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor
) -> None:
    """The layer works under `mixed_float16` and `mixed_bfloat16`, with its float32 kernel.

    Its outputs are compared with those in float32; where the ordinary layer itself is wrong under
    the policy, as TensorFlow's einsum in float16 on some processors, they are not.
    """
    for policy, tolerance in (("mixed_float16", 0.005), ("mixed_bfloat16", 0.04)):
        config = ordinary.get_config() | {"dtype": policy}
        plain = type(ordinary).from_config(config)
        plain.build(inputs.shape)
        plain.set_weights(ordinary.get_weights())
        layer = maker(plain)
        _same(to_numpy(layer.kernel), to_numpy(maker(ordinary).kernel), f"kernel under {policy}")
        _equal(
            keras.backend.standardize_dtype(layer(inputs).dtype),
            layer.compute_dtype,
            "output dtype",
        )
        share = _relative_error(layer, maker(ordinary), inputs)
        if not share <= tolerance and _relative_error(plain, ordinary, inputs) <= tolerance:
            raise ContractError(
                f"output under {policy}: off by {share:.3g} rms of the output's rms"
            )


def _relative_error(layer, exact, inputs):
    """The difference of two layers' outputs, as a share of the second one's rms."""
    expected = to_numpy(exact(inputs))
    error = to_numpy(keras.ops.cast(layer(inputs), "float32")) - expected
    return np.sqrt(np.mean(error**2) / np.mean(expected**2))


def check_to_ordinary(
    ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor
) -> None:
    """`to_ordinary()` is a chain of Keras layers that computes the same; the last has the name."""
    layer = maker(ordinary)
    chain = layer.to_ordinary()
    _equal(chain[-1].name, layer.name, "the name of the last ordinary layer")
    outputs = inputs
    for plain in chain:
        if not type(plain).__module__.startswith("keras."):
            raise ContractError(f"`to_ordinary` must give Keras layers. Received: {plain!r}")
        outputs = plain(outputs)
    _close(outputs, layer(inputs), "output of `to_ordinary()`")


def check_masking(ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor) -> None:
    """The mask of the output is the ordinary layer's, also after the chain of `to_ordinary`."""
    layer = maker(ordinary)
    _equal(layer.supports_masking, ordinary.supports_masking, "`supports_masking`")
    steps = np.arange(inputs.size // inputs.shape[-1]).reshape(inputs.shape[:-1])
    masked = inputs if inputs.dtype.kind == "i" else with_mask(inputs, steps % 3 > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, where a layer ends a mask
        expected = _mask(ordinary(masked))
        _equal(_mask(layer(masked)), expected, "the mask of the output")
        outputs = masked
        for plain in layer.to_ordinary():
            outputs = plain(outputs)
        _equal(_mask(outputs), expected, "the mask of the output of `to_ordinary()`")


def _mask(outputs):
    mask = mask_of(outputs)
    return None if mask is None else to_numpy(mask).tolist()


LAYER_CHECKS = (
    check_identity,
    check_kernel,
    check_stored,
    check_gradients,
    check_config,
    check_training,
    check_mixed_precision,
    check_to_ordinary,
    check_masking,
)


def check_export(ordinary: keras.layers.Layer, maker: Callable[..., Any], inputs: Tensor) -> None:
    """The exported file agrees with the layer under both LiteRT resolvers (TensorFlow only)."""
    from tfcompress.export import to_tflite

    layer = maker(ordinary)
    model = keras.Sequential([keras.Input(inputs.shape[1:]), layer])
    to_tflite(model, check=inputs)  # raises ExportError where it does not agree


def check_reload(cases: Any) -> None:
    """Layers saved in `.keras` files compute the same in a fresh process.

    Args:
        cases: list of `(ordinary, maker, inputs)`; one process loads them all.
    """
    with temporary_folder() as folder:
        for k, (ordinary, maker, inputs) in enumerate(cases):
            model = keras.Sequential([keras.Input(inputs.shape[1:]), maker(ordinary)])
            model.save(pathlib.Path(folder, f"{k}.keras"))
            np.savez(pathlib.Path(folder, f"{k}.npz"), x=inputs, y=model.predict(inputs, verbose=0))
        command = [sys.executable, "-c", _RELOAD, folder, str(len(cases))]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise ContractError(f"Loading in a fresh process failed:\n{run.stderr[-3000:]}")


_RELOAD = """
import sys
import keras, numpy as np, tfcompress
folder, count = sys.argv[1], int(sys.argv[2])
for k in range(count):
    model = keras.saving.load_model(f"{folder}/{k}.keras")
    saved = np.load(f"{folder}/{k}.npz")
    if not np.array_equal(model.predict(saved["x"], verbose=0), saved["y"]):
        sys.exit(f"{model.layers[-1]!r} computes something else after loading")
"""


def _fresh(layer):
    return type(layer).from_config(layer.get_config())


def _equal(received, expected, what):
    if received != expected:
        raise ContractError(f"{what}: expected {expected!r}, got {received!r}")


def _same(received, expected, what):
    if received.dtype != expected.dtype or not np.array_equal(received, expected):
        raise ContractError(f"{what} must be equal in every bit")


def _close(received, expected, what, tolerance=1e-5):
    received, expected = to_numpy(received), to_numpy(expected)
    error = np.max(np.abs(received - expected)) / max(np.sqrt(np.mean(expected**2)), 1e-12)
    if not error <= tolerance:
        raise ContractError(f"{what}: off by {error:.3g} of the rms, allowed is {tolerance:.3g}")
