import keras
import pytest

import tfcompress as tfc
from tfcompress.planning.costs import file_of
from tfcompress.planning.latency.layer_times import (
    EMPTY,
    LayerTimes,
    file_key,
    form_key,
    kept,
    read_times,
)

L = keras.layers
DENSE = "Dense(units=8, activation='relu', use_bias=True)"
FOUR = "QuantizedDense(activation='relu', use_bias=True, units=8, bits=4, levels='linear')"


def built(layer, shape=(None, 4)):
    layer.build(shape)
    return layer


def test_a_key_tells_shape_form_and_how_it_is_stored():
    dense, four = (
        L.Dense(8, "relu", name="any"),
        tfc.layers.QuantizedDense(8, bits=4, activation="relu"),
    )
    assert form_key([dense], (None, 4), "fast") == f"[1, 4] {DENSE}; fast"
    assert form_key([dense], (3, 4), "small", "int8") == f"[1, 4] {DENSE}; small, rest int8"
    # what is compressed already is stored as it is, whatever becomes of the rest
    assert form_key([four], (None, 2, 4), "fast", "int8") == f"[1, 2, 4] {FOUR}; fast"
    assert form_key([dense, four], (None, 4), "fast") == f"[1, 4] {DENSE} > {FOUR}; fast"


def test_a_key_does_not_tell_what_takes_no_time():
    options = {"kernel_initializer": "zeros", "bias_regularizer": "l2", "trainable": False}
    keys = [form_key([L.Dense(8, "relu", **o)], (None, 4), "fast") for o in ({}, options)]
    assert keys[0] == keys[1]


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"known sizes.*\(None, None, 4\) for fc"):
        form_key([L.Dense(8, name="fc")], (None, None, 4), "fast")


def test_files_that_differ_in_numbers_have_one_key():
    keras.utils.set_random_seed(0)
    keys = [
        file_key(file_of([built(layer)], (None, 4), "fast"))
        for layer in (L.Dense(8), L.Dense(8), L.Dense(9), L.Dense(8, "relu"))
    ]
    assert keys[0] == keys[1] and len(set(keys)) == 3
    assert keys[0].startswith("file of 1 operators, ")


def test_layers_take_what_their_files_take_without_what_any_file_takes():
    dense = L.Dense(8, "relu")
    times = {EMPTY: 0.25, f"[1, 4] {DENSE}; fast": 1.0, f"[1, 5] {DENSE}; fast": 0.125}
    table = LayerTimes("LiteRT 2", "a processor", 1, times)
    assert table.of([dense], [(None, 4)], "fast", "float32") == 0.75
    # of two uses, and never less than nothing
    assert table.of([dense], [(None, 4), (None, 5), (None, 4)], "fast", "float32") == 1.5
    with pytest.raises(ValueError, match=r"No time is known of \[1, 4\] Dense.*small"):
        table.of([dense], [(None, 4)], "small", "float32")


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = LayerTimes("LiteRT 2", "a processor", 2, {EMPTY: 0.5})
    table.write(tmp_path / "times.json")
    assert read_times(tmp_path / "times.json") == table
    assert str(table).splitlines()[0] == "1 files; LiteRT 2, a processor, 2 thread(s)"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"a": 1}',
        '{"runtime": "r", "processor": "p", "milliseconds": {"k": -1}}',
        '{"runtime": "r", "processor": "p", "milliseconds": {"k": "1"}}',
        '{"runtime": "r", "processor": "p", "milliseconds": [1]}',
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="Expected a table of times"):
        read_times(path)


def test_times_of_each_processor_and_runtime_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("tfcompress.planning.latency.layer_times._cache_folder", lambda: tmp_path)
    tables = LayerTimes("LiteRT 2.3", "A (R) 7"), LayerTimes("LiteRT 2.4", "A (R) 7")
    paths = [kept(table) for table in (*tables, LayerTimes("LiteRT 2.3", "A (R) 7", 4))]
    assert paths[0] == str(tmp_path / "tfcompress/times-a-r-7-litert-2.3-1-threads.json")
    assert len(set(paths)) == 3
