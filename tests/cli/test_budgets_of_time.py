"""Budgets of time on the command line, on a machine whose times are known."""

import json

import keras
import pytest
from clockwork import Clockwork, milliseconds
from saved_net import save_net
from typer.testing import CliRunner

from tfcompress.cli.files import read_budgets
from tfcompress.planning import planner
from tfcompress.planning.latency import measured
from tfcompress_cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "timer_here", lambda threads=1: Clockwork())
    return save_net(tmp_path, monkeypatch, measured, planner)


def test_a_table_is_written_and_a_plan_reads_it(folder):
    done = run("bench", folder / "net.keras", "-o", folder / "times.json", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((folder / "times.json").read_text())
    whole = milliseconds(keras.models.load_model(folder / "net.keras"))
    given = ["--data", folder / "data.npz", "--latency", folder / "times.json", "--json"]
    for budget in (["80%", "--target", "milliseconds"], [f"{0.8 * whole}ms"]):
        done = run("plan", folder / "net.keras", *given, "--budget", *budget)
        assert done.exit_code == 0, done.output
        facts = json.loads(done.stdout)
        assert facts["target"] == "milliseconds" and facts["cost"] <= 0.8 * whole
        assert facts["float_milliseconds"] == pytest.approx(whole, rel=1e-9)
    output = ["--budget", "90%", "--budget", "1000ms", "--epochs", 0, "-o", folder / "small.tflite"]
    done = run("compress", folder / "net.keras", *given, *output)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["bytes"] == (folder / "small.tflite").stat().st_size
    assert 0 < facts["milliseconds"] < whole


def test_a_table_of_files_in_integers(folder):
    given = ["bench", folder / "net.keras", "-o", folder / "times.json", "--activations"]
    done = run(*given, "static_int8", "--json")
    assert done.exit_code == 0, done.output
    forms = [key for key in json.loads(done.stdout)["milliseconds"] if "units" in key]
    assert any(key.endswith("; fast, static_int8") for key in forms)
    assert "must be one of" in run(*given, "float32").stderr


def test_texts_of_budgets():
    assert read_budgets(["10%"], "bits") == 0.1
    assert read_budgets(["5ms"], "bits") == {"milliseconds": "5ms"}
    assert read_budgets(["300us", "80000"], "tflite") == {
        "milliseconds": "300us",
        "tflite": 80000.0,
    }
    assert read_budgets(["50%"], "milliseconds") == 0.5
    for texts in (["5ms", "6ms"], ["10%", "20%"], ["10%", "20%", "5ms"]):
        with pytest.raises(ValueError, match="one of size and one of time"):
            read_budgets(texts, "bits")
    with pytest.raises(ValueError, match="one of size and one of time"):
        read_budgets(["50%", "5ms"], "milliseconds")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.tflite", "-o", "times.json"], "one Keras model"),
        (["a.keras", "b.keras", "-o", "times.json"], "one Keras model"),
        (["a.keras", "-o", "times.txt"], "named .json"),
        (["a.keras", "--adb", "benchmark_model"], "give -o TIMES.json"),
        (["a.tflite", "--activations", "static_int8"], "give -o TIMES.json"),
    ],
)
def test_bad_input_of_bench(arguments, message):
    done = run("bench", *arguments)
    assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.stderr
