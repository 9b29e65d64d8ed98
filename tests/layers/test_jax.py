"""The layer contract on Keras' JAX backend, in a process of its own."""

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


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="this is the process on JAX")
def test_the_layer_contract_holds_on_jax():
    tests = pathlib.Path(__file__).parent / "test_layers.py"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", str(tests), "-k", CHOSEN],
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
