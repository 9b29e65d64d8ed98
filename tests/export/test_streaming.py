"""Files that are given sequences piece by piece, against Keras on whole sequences."""

import itertools

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers
from oracles_export import encodings, operators

from tfcompress.export import ExportError, to_tflite
from tfcompress.layers import LowRankConv1D, QuantizedConv1D, rounding
from tfcompress.rewriting.swap import swap


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def model_of(*parts, shape=(None, 6), **batch):
    inputs = x = keras.Input(shape, **batch)
    for part in parts:
        x = part(x)
    model = keras.Model(inputs, x)
    for seed, weight in enumerate(w for w in model.weights if w.dtype == "float32"):
        weight.assign(0.2 * normal(*weight.shape, seed=seed) ** 2)
    return model


def streamed(blob, x, ends, delegates=True):
    """The output of each piece between two ends of a sequence, and the states behind all."""
    kind = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    runner = Interpreter(model_content=blob, experimental_op_resolver_type=kind)
    runner = runner.get_signature_runner()
    known = runner.get_input_details()
    names = [name for name in known if "_state_" in name]
    (own,) = known.keys() - set(names)
    states = {n: np.zeros((len(x), *known[n]["shape"][1:]), "float32") for n in names}
    pieces = []
    for begin, end in itertools.pairwise(ends):
        outputs = runner(**{own: x[:, begin:end]}, **states)
        states = {name: outputs.pop(name) for name in names}
        pieces.append(next(iter(outputs.values())))
    return pieces, states


def agree(blob, model, x, ends):
    expected = np.asarray(keras.tree.flatten(model(x))[0])
    for delegates in (True, False):
        pieces, _ = streamed(blob, x, ends, delegates)
        steps = pieces[0].ndim == expected.ndim and pieces[0].shape[1] == ends[1]
        y = np.concatenate(pieces, 1) if steps else pieces[-1]
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, atol=1e-5)


def stack():
    cells = [layers.LSTMCell(5), layers.GRUCell(4)]
    return layers.RNN(cells, return_sequences=True)


ALL = {"return_sequences": True}
MODELS = {
    "LSTM": (layers.LSTM(5, **ALL),),
    "last of GRU": (layers.GRU(5, dropout=0.1, recurrent_dropout=0.1),),
    "masked": (layers.Masking(), layers.SimpleRNN(5, **ALL), layers.GRU(4, **ALL)),
    "masked stack": (layers.Masking(), stack()),
    "zeros": (layers.Masking(), layers.LSTM(5, zero_output_for_mask=True, **ALL)),
    "keyword spotting": (
        layers.Conv1D(8, 3, padding="causal", dilation_rate=2, activation="relu"),
        layers.BatchNormalization(),
        layers.GRU(5, **ALL),
        layers.Conv1D(4, 2, padding="causal"),
        layers.Dense(3, "softmax"),
    ),
    "depthwise after zeros": (
        layers.ZeroPadding1D((4, 0)),
        layers.DepthwiseConv1D(3, dilation_rate=2, activation="relu"),
        layers.Conv1D(5, 1),
        layers.ZeroPadding1D((1, 0)),
        layers.DepthwiseConv1D(2),
    ),
}


@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS)
def test_pieces_give_what_the_whole_sequence_gives(parts):
    x = normal(3, 9, 6)
    x[0, 5:], x[1, :3], x[2, 2:4] = 0, 0, 0
    model = model_of(*parts)
    blob = to_tflite(model, check=x, streaming=True)
    agree(blob, model, x, [0, 1, 2, 7, 9])
    agree(blob, model, x[:1], range(10))


def test_a_model_of_a_known_length_and_a_model_in_it():
    inner = keras.Sequential(
        [keras.Input((9, 6)), layers.Dense(5), layers.LSTM(4, unroll=True, name="lstm", **ALL)],
        name="inner",
    )
    model = model_of(inner, layers.GRU(3, name="gru", **ALL), shape=(9, 6), name="x")
    blob = to_tflite(model, streaming=True)
    agree(blob, model, normal(2, 9, 6), [0, 1, 4, 9])
    assert "RESHAPE" not in operators(blob)  # of free sizes: LiteRT plans no memory for them
    (signature,) = Interpreter(model_content=blob).get_signature_list().values()
    states = {"inner_lstm_state_0", "inner_lstm_state_1", "gru_state_0"}
    assert set(signature["inputs"]) == states | {"x"}
    assert set(signature["outputs"]) == states | {"gru"}


def test_a_layer_that_is_called_twice_has_states_for_each_call():
    layer = layers.GRU(6, name="gru", **ALL)
    model = model_of(layer, layer)
    blob = to_tflite(model, check=normal(2, 5, 6), streaming=True)
    _, states = streamed(blob, normal(2, 5, 6), [0, 2, 5])
    assert sorted(states) == ["gru_state_0", "gru_state_1"]
    assert np.abs(states["gru_state_0"] - states["gru_state_1"]).max() > 1e-3
    agree(blob, model, normal(2, 5, 6), [0, 2, 5])


def test_a_state_has_another_name_than_a_layer():
    x = keras.Input((None, 6), name="x")
    y = layers.GRU(4, name="gru", **ALL)(x)
    model = keras.Model(x, [y, layers.Dense(3, name="gru_state_0")(y)])
    blob = to_tflite(model, check=normal(2, 5, 6), streaming=True)
    (signature,) = Interpreter(model_content=blob).get_signature_list().values()
    assert set(signature["outputs"]) == {"gru", "gru_state_0", "gru_state_0_1"}
    assert set(signature["inputs"]) == {"x", "gru_state_0_1"}


def test_stateful_layers():
    layer = layers.LSTM(5, stateful=True, name="lstm", **ALL)
    model, x = model_of(layer, batch_size=2), normal(2, 6, 6)
    with pytest.raises(ExportError, match=r"'lstm' keeps its states .* `streaming=True`"):
        to_tflite(model, check=x)
    blob = to_tflite(model, check=x, streaming=True)
    assert all(np.all(np.asarray(state) == 0) for state in layer.states)
    pieces, states = streamed(blob, x, [0, 2, 6])
    np.testing.assert_allclose(pieces[0], model(x[:, :2]), atol=1e-5)
    np.testing.assert_allclose(pieces[1], model(x[:, 2:]), atol=1e-5)
    np.testing.assert_allclose(states["lstm_state_1"], layer.states[1], atol=1e-5)


@pytest.mark.parametrize("maker", [QuantizedConv1D.using(bits=4), LowRankConv1D.using(rank=3)])
def test_compressed_causal_convolutions(maker):
    x = normal(3, 9, 6)
    conv = layers.Conv1D(40, 3, padding="causal", activation="relu", name="conv")
    small = swap(model_of(conv, layers.Dense(3)), {"conv": maker})
    blob = to_tflite(small, check=x, streaming=True, activations="float32")
    agree(blob, small, x, [0, 1, 2, 7, 9])


STATIC = {
    "quiet at the end": [layers.Conv1D(8, 3, padding="causal")],
    "begins with zeros": [layers.SimpleRNN(8, **ALL), layers.Dense(4)],
    "a loop joined with a state": [layers.LSTM(9, **ALL), layers.Conv1D(8, 3, padding="causal")],
}


IN_8_BITS = [(parts, "static_int8") for parts in STATIC.values()]
WITHOUT_A_LOOP = [(STATIC["quiet at the end"], "static_int16")]


@pytest.mark.parametrize("parts, activations", IN_8_BITS + WITHOUT_A_LOOP)
def test_integers_hold_the_states_at_any_step(parts, activations):
    model, x = model_of(*(one.from_config(one.get_config()) for one in parts)), normal(16, 10, 6)
    x[:, -4:] *= 0.02
    blob = to_tflite(model, check=x, streaming=True, activations=activations)
    expected = np.asarray(model(x))
    for ends in ([0, 10], [0, 2, 4, 6, 8, 10]):
        for delegates in (True, False):
            pieces, _ = streamed(blob, x, ends, delegates)
            off = np.concatenate(pieces, 1) - expected
            assert np.sqrt(np.mean(off**2)) < 0.05 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("unroll", [False, True])
def test_kernels_are_packed_and_full_integer_files_stream(unroll):
    model, x = model_of(layers.GRU(32, unroll=unroll, **ALL), shape=(9, 6)), normal(8, 9, 6)
    small = to_tflite(swap(model, rounding(4)), check=x, streaming=True)
    assert set(encodings(small).values()) == {"INT4"}
    static = to_tflite(model, check=x, streaming=True, activations="static_int8")
    pieces, _ = streamed(static, x, [0, 4, 9])
    expected = np.asarray(model(x))
    assert np.sqrt(np.mean((np.concatenate(pieces, 1) - expected) ** 2)) < 0.1 * expected.std()


def twice(y):
    return layers.MultiHeadAttention(2, 3, name="bad")(y, y)


REFUSED = {
    "Bidirectional": ((layers.Bidirectional(layers.GRU(4), name="bad"),), "from their end"),
    "backwards": ((layers.GRU(4, go_backwards=True, name="bad"),), "from their end"),
    "anew": ((layers.TimeDistributed(layers.GRU(4), name="bad"),), "anew at each step"),
    "convolution": ((layers.Conv1D(4, 3, padding="same", name="bad"), layers.GRU(4)), "piece"),
    "strides": (
        (layers.Conv1D(4, 3, 2, padding="causal", name="bad"), layers.GRU(4)),
        "strides over steps",
    ),
    "too few zeros": (
        (layers.ZeroPadding1D((1, 0)), layers.DepthwiseConv1D(3, name="bad")),
        "piece",
    ),
    "zeros behind": ((layers.GRU(4, **ALL), layers.ZeroPadding1D((2, 1), name="bad")), "piece"),
    "pooling": ((layers.MaxPooling1D(2, name="bad"), layers.GRU(4)), "piece"),
    "mean": ((layers.GRU(4, **ALL), layers.GlobalAveragePooling1D(name="bad")), "piece"),
    "attention": ((layers.GRU(6, **ALL), twice), "piece"),
    "shape": ((layers.GRU(4, **ALL), layers.Flatten(name="bad"), layers.Dense(3)), "piece"),
    "states": (
        (lambda x: layers.GRU(4, name="bad")(x, initial_state=layers.Dense(4)(x[:, 0])),),
        "begins with states",
    ),
}


@pytest.mark.parametrize("parts, reason", REFUSED.values(), ids=REFUSED)
def test_layers_that_need_whole_sequences_are_named(parts, reason, monkeypatch):
    monkeypatch.setattr("tfcompress.export.exporter.run_passes", None)  # nothing is converted
    shape = (2, 9, 6) if "anew" in reason else (9, 6)
    with pytest.raises(ExportError, match=f"Layer 'bad' .*{reason}"):
        to_tflite(model_of(*parts, shape=shape), streaming=True)


def test_without_states_or_with_one_step_it_is_refused():
    with pytest.raises(ValueError, match="recurrent layers or causal convolutions"):
        to_tflite(model_of(layers.Dense(3)), streaming=True)
    with pytest.raises(ValueError, match="at least 2 steps"):
        to_tflite(model_of(layers.GRU(3)), check=normal(2, 1, 6), streaming=True)


def test_attention_alone_is_named_as_what_needs_the_whole_sequence():
    inputs = keras.Input((None, 4))
    outputs = layers.MultiHeadAttention(2, 2, name="heads")(inputs, inputs)
    with pytest.raises(ExportError, match="'heads' needs more than the steps of one piece"):
        to_tflite(keras.Model(inputs, layers.Dense(3)(outputs)), streaming=True)


def test_loops_in_16_bits_are_refused_by_name():
    model = keras.Sequential(
        [keras.Input((8, 6)), layers.LSTM(8, return_sequences=True, name="lstm")]
    )
    with pytest.raises(ExportError, match=r"which layers .'lstm/lstm_cell'"):
        to_tflite(model, check=normal(8, 8, 6), activations="static_int16", streaming=True)
