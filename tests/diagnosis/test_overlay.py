"""The files for Model Explorer, by its documented form and by its own reader."""

import json

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.tflite.reader import operator_name, read

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="files are made with TensorFlow"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlay")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.LSTM(16, name="lstm"), keras.layers.Dense(4, name="out")]
    model = keras.Sequential([keras.Input((5, 8)), keras.layers.Dense(8, name="in"), *layers])
    small = tfc.swap(model, tfc.layers.rounding(8))
    x = np.random.default_rng(0).standard_normal((32, 5, 8)).astype("float32")
    blob = tfc.to_tflite(small, folder / "small.tflite", activations="static_int8", check=x)
    found = tfc.explain(model, small, x, tflite=blob)
    found.to_model_explorer(folder / "data", folder / "small.tflite")
    names = ("error", "bytes", "milliseconds")
    return folder, blob, {n: json.loads((folder / "data" / f"{n}.json").read_text()) for n in names}


def test_each_value_belongs_to_an_operator(made):
    _, blob, data = made
    file = read(blob)
    graphs = {graph.name.decode(): graph for graph in file.subgraphs}
    for series in data.values():
        for name, node_data in series.items():
            places = set(map(int, node_data["results"]))
            assert places and max(places) < len(graphs[name].operators)
            assert all(set(one) == {"value"} for one in node_data["results"].values())
            assert all(np.isfinite(one["value"]) for one in node_data["results"].values())
            assert [stop["stop"] for stop in node_data["gradient"]] == [0, 1]


def test_errors_and_bytes_are_those_of_the_file(made):
    _, blob, data = made
    file = read(blob)
    codes = [operator_name(file, operator) for operator in file.subgraphs[0].operators]
    products = {str(n) for n, code in enumerate(codes) if code == "FULLY_CONNECTED"}
    (errors,) = data["error"].values()
    assert len(products & set(errors["results"])) == 2  # that of the cell is a part of the LSTM
    assert all(0 < one["value"] < 0.05 for one in errors["results"].values())
    read_ones = [(g, i) for g in file.subgraphs for o in g.operators for i in o.inputs if i >= 0]
    constants = {graph.tensors[index].buffer for graph, index in read_ones}
    sizes = [len(file.buffers[b].data) for b in constants if file.buffers[b].data is not None]
    results = [series["results"] for series in data["bytes"].values()]
    assert sum(one["value"] for result in results for one in result.values()) == sum(sizes)


def test_products_take_time(made):
    _, _, data = made
    (times,) = data["milliseconds"].values()
    assert len(times["results"]) > 4
    assert all(one["value"] > 0 for one in times["results"].values())


def test_model_explorer_reads_it(made):
    builder = pytest.importorskip("model_explorer.node_data_builder")
    adapter = pytest.importorskip("model_explorer.builtin_tflite_flatbuffer_adapter")
    folder, _, data = made
    read_file = adapter.BuiltinTfliteFlatbufferAdapter().convert(str(folder / "small.tflite"), {})
    graphs = {graph["id"]: graph for graph in read_file["graphCollections"][0].graphs}
    for series in data.values():
        for name, node_data in series.items():
            shown = builder.GraphNodeData(
                results={k: builder.NodeDataResult(**v) for k, v in node_data["results"].items()},
                name=node_data["name"],
                gradient=[builder.GradientItem(**stop) for stop in node_data["gradient"]],
            )
            written = builder.ModelNodeData({name: shown}).to_json_string()
            assert json.loads(written)[name].items() >= node_data.items()
            nodes = {node["id"]: node["label"] for node in graphs[name]["nodes"]}
            assert all(
                nodes[place] not in ("GraphInputs", "pseudo_const") for place in shown.results
            )
