import json

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import TERNARY, on_grid

import tfcompress as tfc
from tfcompress.export import to_tflite
from tfcompress.reporting import benchmark
from tfcompress.reporting.benchmark import bench
from tfcompress.tflite import reader, run_in_child
from tfcompress.tflite.runtimes import min_runtime
from tfcompress.tflite.stored_tensors import stored_tensors
from tfcompress.tflite.writer import write


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


def test_sizes_that_a_file_leaves_free(tmp_path):
    frames = keras.Input((None, 8))
    sample = np.ones((2, 3, 8), "float32")
    free = to_tflite(keras.Model(frames, layers.Dense(4)(frames)), check=sample)
    assert run_in_child._file(tmp_path / "free.tflite", free, (2, 5))["shapes"] == [[2, 5, 8]]
    known = to_tflite(keras.Sequential([keras.Input((7, 8)), layers.Dense(4)]))
    assert run_in_child._file(tmp_path / "known.tflite", known, (2, 5))["shapes"] == [[2, 7, 8]]
    assert bench({"free": free}, rounds=2, steps=50, memory=False)["free"].milliseconds > 0


def test_ids_of_a_small_table_are_rows_of_it():
    ids = keras.Input((5,), dtype="int32")
    for first in (ids, keras.Input((5,))):
        model = keras.Model(first, layers.Embedding(1, 4)(first))
        blob = to_tflite(model, check=np.zeros((2, 5), first.dtype))
        assert bench({"one row": blob}, rounds=2, memory=False)["one row"].milliseconds > 0


def test_ratios_are_taken_within_each_round(files, monkeypatch):
    fixed = [[2.0, 30.0, 4.0], [1.0, 10.0, 4.0]]
    monkeypatch.setattr(benchmark, "time_files", lambda *_: (fixed, [[], []]))
    result = bench({"a": files["fast"], "b": files["fast"]}, memory=False)
    assert result["b"].ratio == 2.0 and result["b"].milliseconds == 4000.0
    assert (result["b"].ratio_low, result["b"].ratio_high) == (1.5, 2.5)
    assert "2.00 times faster (1.50 to 2.50)" in str(result)
    fixed.reverse()
    slower = str(bench({"a": files["fast"], "b": files["fast"]}, memory=False))
    assert "2.00 times slower (1.33 to 2.40)" in slower


def test_table_and_json(files):
    result = bench(files, rounds=2, memory=False)
    assert json.loads(result.to_json())["timings"][1]["name"] == "small"
    text = str(result)
    assert f"{len(files['fast']):,}" in text and "1 of 1 delegated" in text and "GATHER" in text


@pytest.mark.parametrize(
    "act, message",
    [
        ("os.abort()", r"does not run the file 'b': it ends the process \(SIGABRT\)"),
        ("sys.exit(3)", r"does not run the file 'b': it ends the process \(exit code 3\)"),
        ("time.sleep(60)", "does not run the file 'b': it takes too long"),
        ("print('at 1' * 10**6)", "does not run the file 'b': it ends the process"),
    ],
)
def test_a_file_that_takes_its_process_down(act, message, files, tmp_path, monkeypatch):
    program = tmp_path / "child.py"
    program.write_text(f"import os, sys, time\nprint('at 0\\nat 1', flush=True)\n{act}\n")
    monkeypatch.setattr(run_in_child, "PROGRAM", str(program))
    monkeypatch.setattr(run_in_child, "STEP_SECONDS", 0.5)
    with pytest.raises(ValueError, match=message):
        bench({"a": files["fast"], "b": files["small"]})


def changed(blob, change):
    model = reader.read(blob)
    graph = model.subgraphs[0]
    change(graph.tensors[graph.operators[0].inputs[1]], graph)
    return write(model)


def test_files_that_litert_refuses_or_cannot_hold(files):
    def huge(tensor, graph):
        graph.tensors[graph.inputs[0]].shape = np.array([2**31 - 1] * 4, np.int32)

    with pytest.raises(ValueError, match="LiteRT does not run the file 'b'"):
        bench({"a": files["fast"], "b": changed(files["fast"], huge)}, memory=False)


def test_files_that_the_reader_refuses(files):
    model = keras.Sequential([keras.Input((10, 10, 64)), layers.Conv2D(64, 3)])

    def not_utf_8(tensor, graph):
        tensor.name = b"\xff\xfe"

    def without_metadata(tensor, graph):
        tensor.sparsity = reader.schema().SparsityParametersT()

    def no_weights(tensor, graph):
        graph.operators[0].inputs = np.array([0, -1, -1], np.int32)

    changes = (not_utf_8, "utf-8"), (without_metadata, "where its entries are")
    for change, message in (*changes, (no_weights, "lacks inputs")):
        blob = changed(files["fast"], change)
        for use in (
            lambda blob: bench({"a": blob}),
            lambda blob: tfc.report(model, tflite=blob),
            stored_tensors,
            min_runtime,
        ):
            with pytest.raises(ValueError, match=message) as caught:
                use(blob)
            assert type(caught.value) is ValueError


def test_bad_files_are_refused(files):
    for blob in (files["fast"][:500], b"not a model", b""):
        with pytest.raises(ValueError, match="tflite file"):
            bench({"a": files["fast"], "b": blob})
    with pytest.raises(ValueError, match="at least one"):
        bench({})
    with pytest.raises(FileNotFoundError):
        bench({"a": "missing.tflite"})
