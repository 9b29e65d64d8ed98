"""The layer contract and swaps on Keras' other backends, each in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import pytest

CHOSEN = (
    "(dense-binary-check or dense-ternary or dense-hashed-check or circulant-block"
    " or low-rank-check or quantized-log or codebook-check or embedding-float16"
    " or depthwise-quantized-8 or einsum-heads-quantized-8 or conv1d-binary"
    " or conv2d-quantized or conv2d-cp-check or conv2d-tucker)"
    " and not export and not reload"
)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_layer_contract_holds(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if keras.backend.backend() == backend:
        pytest.skip(f"this is the process on {backend}")
    tests = pathlib.Path(__file__).parent / "test_layers.py"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", str(tests), "-k", CHOSEN, "--sample", "30"],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_what_swap_and_to_ordinary_make_shares_nothing_with_the_source(backend):
    """The source trains on, and so does what was made of it, on backends that give arrays away."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    run = subprocess.run(
        [sys.executable, "-c", SHARES],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]


SHARES = """
import keras, numpy as np, tfcompress as tfc
x, y = np.random.default_rng(0).random((32, 6), "float32"), np.ones((32, 2), "float32")
stack = [keras.layers.Dense(8, "relu", name="a"), keras.layers.Dense(2, name="b")]
model = keras.Sequential([keras.Input((6,)), *stack])
small = tfc.swap(model, {"a": tfc.layers.LowRankDense.using(rank=2)})
plain = tfc.to_ordinary(small)
before = [np.copy(one.predict(x, verbose=0)) for one in (model, small, plain)]
for one in (model, small, plain):
    one.compile(keras.optimizers.Adam(0.01), "mse")
    one.fit(x, y, epochs=2, verbose=0)
    others = [other for other in (model, small, plain) if not other.compiled]
    for other in others:
        index = [model, small, plain].index(other)
        np.testing.assert_array_equal(other.predict(x, verbose=0), before[index])
for one in (model, small, plain):
    one.fit(x, y, verbose=0)
    assert np.isfinite(one.predict(x, verbose=0)).all()
"""
