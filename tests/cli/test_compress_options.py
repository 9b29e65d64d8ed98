"""`tfcompress compress`: what it trains on, how long, and what the file computes in."""

import pytest
from saved_net import save_net
from typer.testing import CliRunner

from tfcompress.planning import planner
from tfcompress_cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return save_net(tmp_path, monkeypatch, planner)


def test_training_that_is_found_out_on_a_dataset_of_ones_own(folder, monkeypatch):
    (folder / "own_data.py").write_text(
        "import tensorflow as tf, numpy as np\n"
        "def noisy():\n"
        "    x = np.load('data.npz')['x'].astype('float32')\n"
        "    data = tf.data.Dataset.from_tensor_slices(x).batch(20)\n"
        "    return data.map(lambda x: x + tf.random.normal(tf.shape(x), 0.0, 0.1))\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    given = ["compress", "net.keras", "--data", "data.npz", "--budget", "90%", "-o", "small.tflite"]
    given += ["--train", "own_data:noisy", "--epochs"]
    done = run(*given, "auto", "--validation", "data.npz")
    assert done.exit_code == 0, done.output
    assert "training: accuracy" in done.output or "training: change" in done.output
    assert "Give `validation_data`" in run(*given, "auto").output
    assert "`--epochs` must be a number" in run(*given, "-1").output


def test_full_integer_files(folder):
    given = ["compress", folder / "net.keras", "--data", folder / "data.npz", "--budget", "95%"]
    given += ["--epochs", 0, "--activations"]
    done = run(*given, "static_int8", "-o", folder / "small.tflite")
    assert done.exit_code == 0, done.output
    assert "activations='static_int8'" in done.output
    assert "an archive holds no" in run(*given, "static_int8", "-o", folder / "small.tfc").output
    assert "must be one of" in run(*given, "int4", "-o", folder / "small.tflite").output
