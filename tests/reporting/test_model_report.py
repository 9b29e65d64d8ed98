import gzip
import json
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.export import to_tflite
from tfcompress.layers import BinaryDense, CPConv2D, HashedDense, LowRankDense
from tfcompress.reporting.file_constants import constants_of
from tfcompress.reporting.html import page
from tfcompress.reporting.model_report import report
from tfcompress.tflite.stored_tensors import stored_tensors

L = keras.layers


def net():
    return keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            L.Conv2D(16, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(name="relu"),
            L.Flatten(name="flatten"),
            L.Dense(32, activation="relu", name="fc1"),
            L.Dense(24, activation="relu", name="fc2"),
            L.Dense(5, name="out"),
        ],
        name="net",
    )


@pytest.fixture(scope="module")
def swapped():
    keras.utils.set_random_seed(0)
    model = net()
    model.get_layer("norm").set_weights([w + 0.5 for w in model.get_layer("norm").get_weights()])
    rules = {
        "conv": CPConv2D.using(rank=4),
        "fc1": BinaryDense.using(),
        "fc2": HashedDense.using(ratio=8),
    }
    small = tfc.swap(model, rules)
    return model, small, to_tflite(small)


def rows_of(made):
    return {row.path: row for row in made.rows}


def test_rows_worked_by_hand(swapped):
    model, small, _ = swapped
    made = report(small)
    rows = rows_of(made)
    assert list(rows) == ["conv", "fc1", "fc2", "out"]
    assert [row.method for row in made.rows] == ["CPConv2D", "BinaryDense", "HashedDense", "Dense"]
    assert rows["conv"].kernel_shape == (3, 3, 2, 16)
    assert rows["conv"].bits == 32 * 4 * (9 + 2 + 16)
    assert rows["conv"].macs == 4 * (144 * 2 + 100 * (9 + 16))
    assert rows["fc1"].bits == 1600 * 32 + 32 * 32
    assert rows["fc1"].ratio == pytest.approx(32 * 1600 * 32 / rows["fc1"].bits)
    assert rows["fc2"].bits == 32 * 32 * 24 / 8
    assert rows["out"].bits == rows["out"].float_bits == 32 * 24 * 5
    assert made.bits == sum(row.bits for row in made.rows)
    assert made.float_bits == 32 * (9 * 2 * 16 + 1600 * 32 + 32 * 24 + 24 * 5)
    assert made.other_bits == 32 * (4 * 16 + 32 + 24 + 5)
    assert made.macs == sum(row.macs for row in made.rows)
    assert made.left == {
        "norm": "no kernel",
        "relu": "no kernel",
        "flatten": "no kernel",
        "out": "ordinary float32",
    }
    assert made.file is None
    assert report(model).ratio == 1


def test_layers_whose_parts_hold_kernels_are_not_said_to_have_none():
    rnn = keras.layers.Bidirectional(keras.layers.LSTM(4), name="both")
    made = report(keras.Sequential([keras.Input((3, 5)), rnn, keras.layers.ReLU(name="relu")]))
    cells = dict.fromkeys([row.path for row in made.rows], "ordinary float32")
    assert made.left == {**cells, "relu": "no kernel"} and len(cells) == 2


def test_nonzero_is_the_share_of_stored_numbers():
    model = net()
    kernel, bias = model.get_layer("fc1").get_weights()
    kernel[:400] = 0
    model.get_layer("fc1").set_weights([kernel, bias])
    assert rows_of(report(model))["fc1"].nonzero == 0.75
    ternary = tfc.swap(model, {"fc1": tfc.layers.TernaryDense.using()})
    assert rows_of(report(ternary))["fc1"].nonzero < 0.75


def test_the_file_is_found_layer_by_layer(swapped):
    _, small, blob = swapped
    made = report(small, tflite=blob)
    rows = rows_of(made)
    assert made.file.bytes == len(blob)
    assert made.file.gzip_bytes == len(gzip.compress(blob, 9))
    assert made.file.latency_ratio is None
    assert made.file.min_runtime == "2.1.2" and "LiteRT 2.1.2 and newer" in str(made)
    old = report(small, tflite=to_tflite(small, min_runtime="1.2"))
    assert json.loads(old.to_json())["file"]["min_runtime"] == "1.2.0"
    assert rows["fc1"].encodings == ("INT2",)
    assert rows["fc1"].file_bytes == 1600 * 32 / 4 + 12 * 32
    assert not rows["fc1"].full_size
    assert rows["conv"].file_bytes == 4 * 4 * (9 + 2 + 16)  # three kernels, the last one folded
    assert not rows["conv"].full_size
    assert rows["fc2"].encodings == ("INT8",)  # the whole kernel, its bank rounded
    assert rows["fc2"].file_bytes == 32 * 24 + 12 * 24
    assert not rows["fc2"].full_size
    assert rows["out"].file_bytes == 4 * 24 * 5
    assert not rows["out"].full_size  # it is an ordinary layer
    kernels = sum(row.file_bytes for row in made.rows)
    assert kernels < sum(tensor.bytes for tensor in stored_tensors(blob)) == len(blob)


def stock(model):
    """A file whose constants have the names that the stock converter gives."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    blob = converter.convert()
    assert b"transposed/kernel" not in blob
    return blob


@pytest.mark.parametrize("converter", [stock, to_tflite])
def test_every_kind_of_kernel_is_found(converter):
    x = keras.Input((8, 8, 4))
    y = L.DepthwiseConv2D(3, name="depthwise")(x)
    y = L.BatchNormalization(name="norm", gamma_initializer="random_normal")(y)
    y = L.SeparableConv2D(6, 3, name="separable")(y)
    y = L.Conv2DTranspose(3, 3, name="transposed")(y)
    y = L.Reshape((6, 18), name="rows")(y)
    y = L.Conv1D(7, 3, name="line")(y)
    y = L.EinsumDense("abc,cde->abde", (4, 3, 5), name="einsum")(y)
    model = keras.Model(x, L.Dense(2, name="out")(L.Flatten(name="flatten")(y)))
    found = constants_of(model, converter(model))
    for path in ("depthwise", "separable", "transposed", "line", "einsum", "out"):
        layer = model.get_layer(path)
        expected = sum(4 * np.prod(v.shape) for v in layer.weights if len(v.shape) > 1)
        assert sum(tensor.bytes for tensor in found[path]) == expected, path


def test_a_file_of_another_model(swapped):
    blob = swapped[2].replace(b"fc1/", b"xx1/")
    with pytest.raises(ValueError, match=r"not that of model .*\(None, 7\).*Received: .*12, 12, 2"):
        report(keras.Sequential([keras.Input((7,)), L.Dense(3, name="fc1")]), tflite=blob)
    other = keras.Sequential([keras.Input((12, 12, 2)), L.Flatten(), L.Dense(3, name="fc1")])
    made = report(other, tflite=blob)
    assert made.rows[0].file_bytes is None
    assert "not found" in str(made)


def test_baseline_gives_ratios_and_latency(swapped, monkeypatch):
    model, small, blob = swapped
    given = {}

    def bench(files, **kwargs):
        given.update(files)
        return {"model": types.SimpleNamespace(ratio=4.0)}  # four times faster

    stub = types.SimpleNamespace(bench=bench)
    monkeypatch.setitem(sys.modules, "tfcompress.reporting.benchmark", stub)
    ordinary = tfc.to_ordinary(small)  # the factors are layers of their own here
    made = report(ordinary, baseline=model, tflite=blob)
    assert made.file.latency_ratio == 0.25
    assert len(given["float32"]) > len(blob) == len(given["model"])
    assert made.float_bits == report(model).float_bits
    conv = rows_of(made)["conv"]
    assert conv.float_bits == 32 * 9 * 2 * 16  # of the layer of that name
    assert conv.bits == 32 * 4 * (2 + 9 + 16) == rows_of(report(small))["conv"].bits
    assert conv.ratio == conv.float_bits / conv.bits
    assert [part.path for part in conv.parts] == ["conv_in", "conv_space", "conv"]
    check_sums(made)


def needs_inputs():
    """A model of positive numbers, and one of ids, that it is given as floats."""
    x = keras.Input((8,))
    roots = keras.Model(x, L.Dense(4)(keras.ops.log(x)))
    return {"logarithm": roots, "ids": keras.Sequential([keras.Input((6,)), L.Embedding(50, 8)])}


@pytest.mark.parametrize("kind", ["logarithm", "ids"])
def test_a_baseline_whose_inputs_are_no_random_numbers_is_timed(kind):
    model = needs_inputs()[kind]
    blob = to_tflite(model, check=np.full((4, *model.input_shape[1:]), 3.0, "float32"))
    assert report(model, model, blob).file.latency_ratio > 0


def test_a_baseline_that_cannot_be_timed_takes_nothing_from_the_report():
    class Ids(keras.Model):
        def __init__(self):
            super().__init__()
            self.table, self.fc = L.Embedding(50, 8), L.Dense(3)

        def call(self, ids):
            if ids.dtype != "int32":
                raise RuntimeError("These are no ids.")
            return self.fc(self.table(ids))

    model, ids = Ids(), np.ones((4, 6), "int32")
    model(ids)
    made = report(model, model, to_tflite(model, check=ids))
    assert made.file.latency_ratio is None and made.file.bytes > 0


def check_sums(made):
    """Rows add up to the footer, and parts to their row."""
    assert made.float_bits == sum(row.float_bits for row in made.rows)
    assert made.bits == sum(row.bits for row in made.rows)
    for row in made.rows:
        for name in ("bits", "macs", "numbers"):
            whole = [getattr(part, name) for part in row.parts] or [getattr(row, name)]
            assert getattr(row, name) == sum(whole)
    data = json.loads(made.to_json())
    assert [len(row["parts"]) for row in data["rows"]] == [len(row.parts) for row in made.rows]


def test_one_row_and_one_ratio_for_each_layer_of_the_baseline(tmp_path):
    """Chains in graphs and in models of a class, opened layers, removed and new ones."""

    class Written(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc, self.fc_2 = L.Dense(16, name="fc"), L.Dense(8, name="fc_2")

        def call(self, x):
            return self.fc_2(self.fc(x))

    inputs = keras.Input((6, 16))
    x = L.LSTM(8, return_sequences=True, name="lstm")(L.Dense(16, name="fc")(inputs))
    graph = keras.Model(inputs, L.Dense(8, name="fc_2")(x))
    written = Written()
    written(np.ones((1, 16), "float32"))
    rank = LowRankDense.using(rank=2)
    for model in (graph, written):
        rules = {"fc": rank.then(tfc.layers.QuantizedDense.using(bits=8)), "fc_2": rank}
        if model is graph:
            rules["lstm"] = rank
        small = tfc.swap(model, rules)
        small = tfc.to_ordinary(small) if model is graph else small
        made, alone = report(small, baseline=model), report(model)
        check_sums(made)
        assert [row.path for row in made.rows] == [row.path for row in alone.rows]
        assert [row.float_bits for row in made.rows] == [row.bits for row in alone.rows]
        assert made.bits == report(small).bits
        fc = rows_of(made)["fc"]
        assert [part.path.rpartition("/")[2] for part in fc.parts] == ["fc_in", "fc"]
        lines = [line.split() for line in str(made).splitlines()]
        (line,) = [line for line in lines if line[:1] == ["fc"]]
        assert f"{fc.ratio:.1f}x" in line
        for line in lines:
            if line[:1] == ["·"]:
                assert not any(cell.endswith("x") and cell[0].isdigit() for cell in line)
        made.to_html(tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        assert all(f"· {part.path}" in page for part in fc.parts)
        assert page.count(f">{fc.ratio:.1f}<") >= 1


@pytest.mark.parametrize("names", [("left", "right"), ("dense", "dense_1"), ("dense_1", "dense")])
@pytest.mark.parametrize("changed", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("kind", ["dense", "tucker"])
def test_chains_in_branches_belong_to_their_own_layers(names, changed, kind):
    if kind == "dense":
        x = keras.Input((16,))
        ends = [L.Dense(64, name=name)(x) for name in names]
        maker = LowRankDense.using(rank=2).then(tfc.layers.QuantizedDense.using(bits=8))
        links = ["_in", ""]
    else:
        x = keras.Input((6, 6, 16))
        ends = [L.Conv2D(16, 3, name=name)(x) for name in names]
        last = tfc.layers.QuantizedConv2D.using(bits=8)
        maker = tfc.layers.TuckerConv2D.using(rank=0.25).then(last)
        links = ["_in", "_core", ""]
    model = keras.Model(x, L.Dense(3, name="head")(L.Add(name="add")(ends)))
    small = tfc.swap(model, {names[i]: maker for i in changed})
    made = report(small, baseline=model)
    check_sums(made)
    rows, alone = rows_of(made), rows_of(report(small))
    assert list(rows) == [*names, "head"]
    for i, name in enumerate(names):
        parts = [f"{name}{link}" for link in links] if i in changed else []
        assert [part.path for part in rows[name].parts] == parts
        assert rows[name].bits == sum(alone[path].bits for path in parts or [name])


def test_a_new_layer_in_another_branch_is_no_part_of_a_chain():
    x = keras.Input((16,))
    before = keras.Model(x, L.Dense(16, name="dense")(x))
    after = keras.Model(x, L.Add()([L.Dense(16, name="dense_9")(x), L.Dense(16, name="dense")(x)]))
    rows = rows_of(report(after, baseline=before))
    assert rows.keys() == {"dense", "dense_9"} and not rows["dense"].parts
    assert rows["dense_9"].float_bits == 0


def test_removed_and_new_layers_of_a_comparison():
    before = keras.Sequential([keras.Input((4,)), L.Dense(4, name="a"), L.Dense(4, name="b")])
    after = keras.Sequential([keras.Input((4,)), L.Dense(4, name="b"), L.Dense(3, name="b_2")])
    made = report(after, baseline=before)
    check_sums(made)
    found = {row.path: (row.method, row.bits, row.float_bits) for row in made.rows}
    assert found == {
        "a": ("removed", 0, 512),
        "b": ("Dense", 512, 512),
        "b_2": ("Dense", 384, 0),
    }


@pytest.mark.parametrize(
    "kind, maker", [("ours", None), ("ours", BinaryDense.using()), ("stock", None)]
)
def test_equal_kernels_share_what_the_file_holds(kind, maker):
    kernel = keras.initializers.GlorotUniform(3)
    stack = [L.Dense(64, kernel_initializer=kernel, name=name) for name in ("a", "b")]
    model = keras.Sequential([keras.Input((64,)), *stack, L.Dense(3, name="out")])
    model.get_layer("b").set_weights(model.get_layer("a").get_weights())
    small = model if maker is None else tfc.swap(model, {"a": maker, "b": maker})
    if kind == "ours":
        blob = to_tflite(small, activations="float32")
    else:
        blob = tf.lite.TFLiteConverter.from_keras_model(small).convert()
    rows = rows_of(report(small, tflite=blob))
    held = [t for t in stored_tensors(blob) if t.shape and sorted(t.shape) == [64, 64]]
    assert rows["a"].file_bytes + rows["b"].file_bytes == sum(t.bytes for t in held)
    assert abs(rows["a"].file_bytes - rows["b"].file_bytes) <= 1


def test_biases_of_two_axes_are_no_kernels():
    inputs = keras.Input((5, 4))
    heads = L.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="de", name="heads")(inputs)
    gru = L.GRU(6, name="gru")(L.Reshape((5, 6))(heads))
    made = report(keras.Model(inputs, gru))
    rows = rows_of(made)
    assert rows["heads"].kernel_shape == (4, 2, 3)
    assert rows["heads"].bits == 32 * 24
    assert rows["gru/gru_cell"].kernel_shape == ((6, 18), (6, 18))
    assert made.other_bits >= 32 * (6 + 2 * 18)


def test_json_and_text(swapped):
    small = swapped[1]
    blob = to_tflite(small, activations="float32")  # holds the whole hashed kernel
    made = report(small, tflite=blob)
    data = json.loads(made.to_json())
    assert data["bits"] == made.bits
    assert data["rows"][2]["full_size"] is True
    assert data["file"]["bytes"] == len(blob)
    shown = []
    made.print(print_fn=shown.append)
    assert shown == [str(made)]
    text = shown[0]
    for part in (
        "BinaryDense",
        "1600x32",
        "51,200",
        "FULL SIZE",
        "Left as they are",
        f"{len(blob):,}",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 110


def test_nested_shared_recurrent_and_embedding_layers():
    block = keras.Sequential([keras.Input((6, 8)), L.Dense(8, name="fc")], name="block")
    x = keras.Input((6,), dtype="int32")
    y = L.Embedding(11, 8, name="words")(x)
    y = L.LSTM(4, name="lstm")(block(block(y)))
    made = report(keras.Model(x, y))
    rows = rows_of(made)
    assert list(rows) == ["words", "block/fc", "lstm/lstm_cell"]
    assert rows["words"].macs == 0
    assert rows["block/fc"].macs == 2 * 6 * 64
    assert rows["lstm/lstm_cell"].kernel_shape == ((8, 16), (4, 16))
    assert rows["lstm/lstm_cell"].macs == 6 * (8 * 16 + 4 * 16)  # six steps
    assert made.macs == rows["block/fc"].macs + rows["lstm/lstm_cell"].macs
    any_length = keras.Sequential([keras.Input((None, 8)), L.LSTM(4, name="lstm")])
    made = report(any_length)
    assert rows_of(made)["lstm/lstm_cell"].macs is made.macs is None
    assert "unknown" in str(made)


@pytest.mark.parametrize("cut", [0, 3, 40, 1000, -1])
def test_a_truncated_file_is_a_clear_error(swapped, cut, tmp_path):
    _, small, blob = swapped
    path = tmp_path / "cut.tflite"
    path.write_bytes(blob[:cut])
    with pytest.raises(ValueError, match=r"\.tflite file"):
        report(small, tflite=path)


def test_bad_input():
    with pytest.raises(ValueError, match="not built"):
        report(keras.Sequential([L.Dense(3)]))
    with pytest.raises(ValueError, match=r"no such file: model\.keras"):
        report("model.keras")
    with pytest.raises(TypeError, match=r"keras\.Model"):
        report(3)
    with pytest.raises(OSError):
        report(net(), tflite="nowhere.tflite")


def test_low_rank_and_pruned_kernels_keep_their_own_columns():
    model = tfc.swap(net(), {"fc1": LowRankDense.using(rank=4)})
    row = rows_of(report(model))["fc1"]
    assert row.bits == 32 * 4 * (1600 + 32)
    assert row.kernel_shape == (1600, 32)
    assert row.nonzero == 1


def test_kernels_in_loops_are_told_from_others():
    start = keras.Input((6, 16))
    model = keras.Model(start, L.Dense(32, name="out")(L.LSTM(24, name="rnn")(start)))
    small = tfc.swap(model, tfc.layers.rounding(8))
    blob = to_tflite(small, check=np.zeros((2, 6, 16), "float32"))
    made = report(small, tflite=blob, baseline=model)
    rows = rows_of(made) | {part.path: part for row in made.rows for part in row.parts}
    graphs = {path.rpartition("/")[2]: row.subgraphs for path, row in rows.items()}
    assert graphs["kernel"] == graphs["out"] == (0,)
    assert len(graphs["recurrent_kernel"]) == 1 and graphs["recurrent_kernel"] > (0,)
    shown = page(made)
    assert shown.count("INT8, partly in a loop") == 1  # the sum of both kernels
    assert shown.count("INT8, in a loop") == 1
    assert "loop" in str(made)
    assert sum(t.bytes for t in stored_tensors(blob)) == len(blob)
