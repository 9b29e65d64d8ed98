import json

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import TERNARY, on_grid

from tfcompress.export import to_tflite
from tfcompress.reporting import benchmark
from tfcompress.reporting.benchmark import bench


@pytest.fixture(scope="module")
def files():
    image = keras.Input((10, 10, 64))
    model = on_grid(keras.Model(image, layers.Conv2D(64, 3)(image)), TERNARY)
    return {"fast": to_tflite(model), "small": to_tflite(model, store="small")}


def test_figures_of_each_file(files, tmp_path):
    path = tmp_path / "small.tflite"
    path.write_bytes(files["small"])
    result = bench({"fast": files["fast"], "small": path}, rounds=8, batch=2)
    assert (result.rounds, result.threads, result.batch) == (8, 1, 2)
    fast, small = result.timings
    assert result["small"] is small
    assert (fast.ratio, fast.ratio_low, fast.ratio_high) == (1.0, 1.0, 1.0)
    assert small.ratio_low <= small.ratio <= small.ratio_high
    assert (fast.bytes, small.bytes) == (len(files["fast"]), len(files["small"]))
    assert min(fast.milliseconds, small.milliseconds) > 0
    assert fast.delegated == ("CONV_2D",) and fast.left == ()
    assert "GATHER" in small.left and "FULLY_CONNECTED" in small.delegated
    assert small.operators == len(small.delegated) + len(small.left)
    assert fast.peak_bytes is None or 10_000 < fast.peak_bytes < 1e9


def test_ratios_are_taken_within_each_round(files, monkeypatch):
    fixed = {"a": np.array([2.0, 30.0, 4.0]), "b": np.array([1.0, 10.0, 4.0])}
    monkeypatch.setattr(benchmark, "_times", lambda *_: fixed)
    result = bench({"a": files["fast"], "b": files["fast"]}, memory=False)
    assert result["b"].ratio == 2.0 and result["b"].milliseconds == 4000.0
    assert (result["b"].ratio_low, result["b"].ratio_high) == (1.5, 2.5)


def test_table_and_json(files):
    result = bench(files, rounds=2, memory=False)
    assert json.loads(result.to_json())["timings"][1]["name"] == "small"
    text = str(result)
    assert f"{len(files['fast']):,}" in text and "1 of 1 delegated" in text and "GATHER" in text


def test_bad_files_are_refused(files):
    for blob in (files["fast"][:500], b"not a model", b""):
        with pytest.raises(ValueError, match="tflite file"):
            bench({"a": files["fast"], "b": blob})
    with pytest.raises(ValueError, match="at least one"):
        bench({})
    with pytest.raises(FileNotFoundError):
        bench({"a": "missing.tflite"})
