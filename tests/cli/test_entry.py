"""The command as it is installed: `tfcompress_cli.main` in a process of its own."""

import os
import subprocess
import sys
from importlib.metadata import version

import keras
import numpy as np
import pytest

PROGRAM = """
import sys, tfcompress_cli
try:
    tfcompress_cli.main()
finally:
    print("LOADED", sorted({"keras", "tensorflow", "tfcompress"} & set(sys.modules)))
"""


def run(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--help"], "Usage: tfcompress [OPTIONS] COMMAND"),
        (["--version"], version("tfcompress")),
        (["compress", "--help"], "Usage: tfcompress compress [OPTIONS]"),
    ],
)
def test_help_and_version_import_neither_keras_nor_tensorflow(arguments, told):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert told in done.stdout
    assert done.stdout.endswith("LOADED []\n")


def test_an_unknown_command_is_refused_at_once():
    done = run("compres")
    assert done.returncode == 2
    assert "No such command 'compres'" in done.stderr
    assert done.stdout == "LOADED []\n"


def test_a_command_that_works_writes_no_noise_of_tensorflow(tmp_path):
    missing = tmp_path / "missing.keras"
    done = run("report", str(missing))
    assert done.returncode == 1
    assert done.stderr == f"Error: There is no such file: {missing}\n"
    assert done.stdout == "LOADED ['keras', 'tensorflow', 'tfcompress']\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that was trained for a step, whose optimizer is in the file, and data."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(80, 6, 8)).astype("float32")
    y = np.arange(80) % 3
    layers = keras.layers
    inner = [layers.Conv1D(8, 3, name="conv"), layers.LSTM(8), layers.Dense(256), layers.Dense(3)]
    model = keras.Sequential([keras.Input((6, 8)), *inner])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, y, verbose=0)
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


ALSO = ("export", "prune", "plan")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["compress", *(pytest.param(n, marks=pytest.mark.matrix) for n in ALSO)]
)
def test_nothing_but_ours_is_written_to_stderr(folder, name):
    model, data = str(folder / "model.keras"), ["--data", str(folder / "data.npz")]
    output = ["-o", str(folder / f"{name}.tflite")]
    rest = {
        "export": [*output, "--activations", "static_int8", "--check", data[1]],
        "compress": [*output, *data, "--budget", "70%", "--epochs", "1"],
        "prune": [*output, *data, "--sparsity", "0.5"],
        "plan": [*data, "--budget", "30%", "--target", "tflite"],
    }
    done = run(name, model, *rest[name])
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_library_wrote_is_shown_with_an_error_that_nobody_expected():
    program = """
import os
from tfcompress_cli.quiet import errors_as_messages
with errors_as_messages():
    os.write(2, b"from C++\\n")
    raise KeyError("unexpected")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "from C++\n" in done.stderr and "KeyError: 'unexpected'" in done.stderr


def test_python_m_runs_the_same_commands():
    done = subprocess.run(
        [sys.executable, "-m", "tfcompress", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{version('tfcompress')}\n")
