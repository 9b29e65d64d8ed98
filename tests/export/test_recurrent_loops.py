"""Recurrent layers as loops of the exporter's own, against Keras."""

import keras
import numpy as np
import pytest
from keras import layers
from oracles_export import call, error, load, run

from tfcompress import layers as layers_of
from tfcompress.export import to_tflite
from tfcompress.layers import rounding
from tfcompress.reporting.model_report import report
from tfcompress.rewriting.swap import swap
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name, read
from tfcompress.tflite.stored_tensors import stored_tensors

KINDS = {"LSTM": layers.LSTM, "GRU": layers.GRU, "SimpleRNN": layers.SimpleRNN}
BOTH = {"return_sequences": True, "return_state": True}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def model_of(function, shape=(None, 6), masked=False, **batch):
    inputs = keras.Input(shape, **batch)
    model = keras.Model(inputs, function(layers.Masking()(inputs) if masked else inputs))
    for seed, weight in enumerate(w for w in model.weights if w.dtype == "float32"):
        weight.assign(0.4 * normal(*weight.shape, seed=seed))
    return model


def samples(masked=False):
    x = normal(4, 9, 6)
    if masked:  # at the end, at the beginning, inside, everywhere
        x[0, 5:], x[1, :3], x[2, 2:4], x[3] = 0, 0, 0, 0
    return x


def agree(blob, model, batches):
    for x in batches:
        expected = [np.asarray(y) for y in keras.tree.flatten(model(x))]
        for delegates in (True, False):
            for y, right in zip(run(blob, [x], delegates), expected, strict=True):
                assert y.shape == right.shape
                np.testing.assert_allclose(y, right, atol=3e-5)


class Doubling(layers.Layer):
    """A cell of a user's own, whose output is none of its states."""

    state_size, output_size = (4, 4), 4

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, "tanh")

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1] + 4))
        self.built = True

    def call(self, inputs, states):
        h = self.dense(keras.ops.concatenate([inputs, states[0]], -1))
        return 2 * h, [h + states[1], h]


OPTIONS = {
    "last": ({}, False),
    "last, masked": ({}, True),
    "all": ({"return_sequences": True}, True),
    "backwards": ({"go_backwards": True} | BOTH, True),
    "dropout": ({"dropout": 0.3, "recurrent_dropout": 0.2, "use_bias": False} | BOTH, False),
    "zero": ({"return_sequences": True, "zero_output_for_mask": True}, True),
}


@pytest.mark.parametrize("options, masked", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_one_file_runs_any_batch_and_any_length(kind, options, masked):
    x = samples(masked)
    model = model_of(kind(5, **options), masked=masked)
    blob = to_tflite(model, check=x)
    agree(blob, model, [x, x[:1], x[:2, :1], normal(2, 40, 6)])


def cells(*cells, **options):
    return layers.RNN(layers.StackedRNNCells(list(cells)), **options)


OTHERS = {
    "reset before": (layers.GRU(5, reset_after=False, **BOTH), True),
    "stack": (cells(layers.LSTMCell(5), layers.GRUCell(4), layers.SimpleRNNCell(3), **BOTH), True),
    "stack of one": (cells(layers.LSTMCell(5), return_state=True), False),
    "own cell": (layers.RNN(Doubling(), **BOTH), True),
    "last of own cell": (layers.RNN(Doubling()), True),
    "other functions": (layers.LSTM(4, "relu", "hard_sigmoid"), False),
    "both ways": (layers.Bidirectional(layers.LSTM(5, return_sequences=True, dropout=0.1)), True),
    "sum": (layers.Bidirectional(layers.GRU(5), merge_mode="sum"), False),
    "two": (lambda x: layers.GRU(3)(layers.LSTM(5, return_sequences=True)(x)), True),
    "given states": (lambda x: layers.GRU(5)(x, initial_state=layers.Dense(5)(x[:, 0])), False),
}


@pytest.mark.parametrize("layer, masked", OTHERS.values(), ids=OTHERS)
def test_layers_of_other_kinds(layer, masked):
    x, model = samples(masked), model_of(layer, masked=masked)
    agree(to_tflite(model, check=x), model, [x, x[:2, :1]])


@pytest.mark.parametrize(
    "steps, unroll", [(2, False), (9, False), (9, True), (65, False), (96, False)]
)
def test_a_known_number_of_steps(steps, unroll):
    x = normal(2, steps, 6)
    x[1, 1:7] = 0
    for batch in (None, 2):
        layer = layers.LSTM(5, unroll=unroll, **BOTH)
        model = model_of(layer, (steps, 6), masked=True, batch_size=batch)
        blob = to_tflite(model, check=x)
        agree(blob, model, [x])
        file = read(blob)
        loops = sum(operator_name(file, o) == "WHILE" for o in file.subgraphs[0].operators)
        assert loops == (not unroll and steps > 2)


HALF = {"dtype": "float16", "return_sequences": True}


@pytest.mark.parametrize(
    "layer",
    [
        layers.Bidirectional(layers.LSTM(5, **HALF)),
        layers.GRU(5, **HALF),
        layers.GRU(5, reset_after=False, **HALF),
        layers.SimpleRNN(5, unroll=True, **HALF),
        layers.ConvLSTM1D(3, 2, padding="same", **HALF),
    ],
)
def test_layers_of_half_precision(layer):
    x = normal(3, 9, 6, *[1] * isinstance(layer, layers.ConvLSTM1D))
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    blob = to_tflite(model, check=x)
    for delegates in (True, False):
        assert error(run(blob, [x], delegates)[0], model(x)) < 5e-3


def test_outputs_of_a_known_size_are_no_constant_of_the_file():
    sizes = [
        len(to_tflite(model_of(layers.LSTM(8, return_sequences=True), (steps, 6), batch_size=1)))
        for steps in (10, 60)
    ]
    assert sizes[1] - sizes[0] < 100


CONVOLUTIONAL = {
    "1D": (layers.ConvLSTM1D(4, 3, padding="same", **BOTH), (7, 3)),
    "2D": (layers.ConvLSTM2D(4, 3, strides=2, dropout=0.1), (7, 6, 3)),
    "3D": (layers.ConvLSTM3D(2, 2, use_bias=False), (4, 4, 4, 2)),
    "both ways": (layers.Bidirectional(layers.ConvLSTM2D(3, 3, padding="same")), (5, 6, 2)),
}


@pytest.mark.parametrize("layer, shape", CONVOLUTIONAL.values(), ids=CONVOLUTIONAL)
def test_convolutional_recurrent_layers(layer, shape):
    model, x = model_of(layer, (None, *shape)), normal(3, 4, *shape)
    blob = to_tflite(model, check=x)
    agree(blob, model, [x[:1], x, x[:2, :1]])


KERNELS = {
    "LSTM": ["r/lstm_cell/kernel", "r/lstm_cell/recurrent_kernel"],
    "GRU": ["r/gru_cell/kernel", "r/gru_cell/recurrent_kernel"],
    "SimpleRNN": ["r/simple_rnn_cell/kernel", "r/simple_rnn_cell/recurrent_kernel"],
}


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_inside_and_before_the_loop_are_packed_and_found_by_path(kind, bits):
    x = 0.3 * normal(3, 6, 48)
    model = swap(model_of(KINDS[kind](64, name="r"), (None, 48)), rounding(bits))
    blob = to_tflite(model, check=x)
    stored = {row.layer: row.encoding for row in stored_tensors(blob)}
    assert all(stored[f"{name}/kernel"] == f"INT{bits}" for name in KERNELS[kind])
    rows = {row.path: row.encodings for row in report(model, tflite=blob).rows}
    assert rows == dict.fromkeys(KERNELS[kind], (f"INT{bits}",))
    exact = to_tflite(model, check=x, activations="float32")
    for batch in (x, x[:1, :2]):
        for delegates in (True, False):
            assert error(run(exact, [batch], delegates)[0], model(batch)) < 1e-4
            assert error(run(blob, [batch], delegates)[0], model(batch)) < 0.8


def test_the_two_products_of_a_reset_gate_before_keep_the_path_of_the_cell():
    model = model_of(layers.GRU(64, reset_after=False, name="r"), (None, 48))
    blob = to_tflite(model, check=0.3 * normal(3, 6, 48), rest="int8")
    rows = [r for r in stored_tensors(blob) if r.layer == "r/gru_cell/recurrent_kernel"]
    assert sorted((r.shape, r.encoding) for r in rows) == [((64, 64), "INT8"), ((128, 64), "INT8")]


def test_kernels_of_the_input_product_keep_the_graph_as_it_is():
    """The kernel that a cell with parts calls its own is that of a part."""
    model = swap(model_of(layers.LSTM(64, name="r"), (None, 48)), rounding(8))
    file = read(to_tflite(model, check=normal(3, 6, 48)))
    assert "MUL" not in {operator_name(file, o) for o in file.subgraphs[0].operators}


EACH_STEP = {
    "dense": lambda: layers.Dense(3),
    "a recurrent layer": lambda: layers.GRU(3, return_sequences=True),
    "a model": lambda: keras.Sequential(
        [layers.Conv1D(4, 2), layers.LayerNormalization(), layers.Flatten(), layers.Dense(5)]
    ),
}


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("kind", EACH_STEP)
def test_all_steps_of_time_distributed_are_one_batch(kind, steps, batch):
    each = layers.TimeDistributed(EACH_STEP[kind]())
    model = model_of(each, (steps, 7, 6), masked=kind != "a model", batch_size=batch)
    x = normal(batch or 3, steps or 5, 7, 6)
    x[:, 1, 2:] = 0  # masked
    blob = to_tflite(model, check=x)
    agree(blob, model, [x, *([] if steps else [x[:, :2]]), *([] if batch else [x[:1]])])


@pytest.mark.parametrize("form", [layers_of.CodebookDense, layers_of.HashedDense])
def test_shared_values_in_loops_are_exact_in_float32(form):
    model = keras.Sequential([keras.Input((7, 24)), layers.LSTM(24, name="lstm")])
    small = swap(model, {"lstm": form})
    x = np.random.default_rng(0).standard_normal((4, 7, 24)).astype("float32")
    blob = to_tflite(small, check=x, activations="float32")
    assert error(run(blob, [x])[0], small(x)) < 1e-5


TWO_LOOPS = {
    "one after the other": [layers.LSTM(6, return_sequences=True)],
    "a vector repeated": [layers.LSTM(8), layers.RepeatVector(5)],
    "a normalization between": [
        layers.LSTM(16, return_sequences=True),
        layers.LayerNormalization(),
    ],
    "a table before": [layers.Embedding(9, 6), layers.LSTM(6, return_sequences=True)],
}


@pytest.mark.parametrize("rest", ["float32", "int8"])
@pytest.mark.parametrize("first", TWO_LOOPS.values(), ids=TWO_LOOPS)
def test_one_interpreter_takes_batches_that_grow(first, rest):
    """Where the delegate took the RESHAPE between two loops, up to half of all runs were wrong."""
    ids = isinstance(first[0], layers.Embedding)
    inputs = keras.Input((None,) if ids else (None, 6), dtype="int32" if ids else "float32")
    last = [layers.LSTM(8, return_sequences=True), layers.Dense(3)]
    parts = [
        one.from_config({**one.get_config(), "name": f"part_{number}"})
        for number, one in enumerate((*first, *last))
    ]
    model = keras.Sequential([inputs, *parts])
    random = np.random.default_rng(0)

    def some(batch, steps):
        x = random.normal(size=(batch, steps, 6)).astype("float32")
        return (9 * random.random((batch, steps))).astype("int32") if ids else x

    blob = to_tflite(model, check=some(4, 7), rest=rest)
    graph = Graph(read(blob))
    for operator in graph.subgraph.operators:
        if operator_name(graph.model, operator) == "RESHAPE" and -1 in graph.shape(
            operator.inputs[0]
        ):
            assert graph.values(operator.inputs[1]) is None
    for _ in range(10):
        runner = load(blob)
        for batch in (some(1, 5), some(3, 5), some(4, 7)):
            np.testing.assert_allclose(call(runner, [batch])[0], run(blob, [batch])[0], atol=1e-5)
