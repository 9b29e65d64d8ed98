import json
import re

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import tfcompress as tfc
from tfcompress_cli import app

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="files are made with TensorFlow"
)


def run(*arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(24, "relu", name="fc"), keras.layers.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((16,)), *layers], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    x = np.random.default_rng(0).standard_normal((80, 16)).astype("float32")
    y = np.argmax(model(x), -1)
    model.fit(x, y, epochs=1, verbose=0)
    model.save(folder / "model.keras")
    small = tfc.swap(model, {"fc": tfc.layers.LowRankDense.using(rank=1)})
    tfc.archive.save(small, folder / "small.tfc")
    tfc.to_tflite(small, folder / "small.tflite")
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


def test_the_layer_its_cause_and_its_cure_are_shown(files, tmp_path):
    page, folder = tmp_path / "page.html", tmp_path / "node-data"
    given = ("--baseline", files / "model.keras", "--data", files / "data.npz")
    file = ("--tflite", files / "small.tflite", "--html", page, "--model-explorer", folder)
    done = run(files / "small.tfc", *given, *file, "--try-cures")
    assert done.exit_code == 0, done.output
    assert "fc: rank below the knee: rank 1 of 16" in done.stdout
    assert 'cure = {"fc": tfc.layers.' in done.stdout
    assert "Where the accuracy went" in page.read_text()
    assert "rank below the knee" in page.read_text()
    assert re.search(
        r"<b>0\.\d{4}</b>accuracy</div><div><b>0\.\d{4}</b>accuracy before<", page.read_text()
    )
    assert (folder / "error.json").exists()


def test_all_is_printed_as_json(files):
    given = ("--baseline", files / "model.keras", "--data", files / "data.npz", "--json")
    done = run(files / "small.tfc", *given)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["layers"][0]["path"] == "fc"
    assert data["measure"] == "loss"


@pytest.mark.parametrize(
    "option, message",
    [
        (("--tflite", "absent.tflite"), "There is no such file: absent.tflite"),
        (("--html", "page.pdf"), "Expected an output named .html or .htm. Received: page.pdf"),
    ],
)
def test_files_are_checked_before_anything_is_measured(files, option, message):
    given = ("--baseline", files / "model.keras", "--data", files / "data.npz")
    done = run(files / "small.tfc", *given, *option)
    assert (done.exit_code, done.stderr) == (1, f"Error: {message}\n")


def test_node_data_need_a_file(files, tmp_path):
    given = ("--baseline", files / "model.keras", "--data", files / "data.npz")
    done = run(files / "small.tfc", *given, "--model-explorer", tmp_path)
    assert done.exit_code == 1
    assert "give `--tflite`" in done.output
