"""What long work shows: a bar in a terminal, lines elsewhere, as `verbose` says."""

import io
import logging
import re

import keras
import numpy as np
import pytest
from rich.console import Console

import tfcompress as tfc
from tfcompress.utils import progress as bars
from tfcompress.utils.progress import progress, showing


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in which bars appear at once; gives what is written to it."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=160)
    monkeypatch.setattr("rich.console.Console", lambda **kwargs: console)
    monkeypatch.setattr(bars, "DELAY", -1.0)
    return file


def layers(number=3):
    return progress(range(number), "Fitting", number, lambda item: f"layer{item}")


def test_a_bar_has_the_layer_and_how_many_there_are(terminal):
    assert list(layers()) == [0, 1, 2]
    assert re.search(r"Fitting .* 0/3 .* layer0", terminal.getvalue())
    assert "0:00:00" in terminal.getvalue() or "-:--:--" in terminal.getvalue()


def test_a_loop_in_a_loop_is_a_second_bar_of_one_display(terminal):
    with showing(1):
        seen = [(a, b) for a in layers() for b in progress("xy", "Batches")]
    assert len(seen) == 6
    assert "Fitting" in terminal.getvalue() and "Batches" in terminal.getvalue()
    assert bars._DISPLAY.get() is None


def test_verbose_0_shows_nothing_even_inside_another(terminal, capsys):
    with showing(0):
        list(layers())
    assert terminal.getvalue() == ""
    with showing(2), showing(0):
        list(layers())
    assert capsys.readouterr().out == ""


def test_verbose_2_prints_a_line_for_each_layer_but_none_for_batches_inside(capsys):
    with showing(2):
        for _ in layers():
            list(progress("xy", "Batches"))
        list(progress("xyz", "Images"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"Fitting: {i + 1} of 3, layer{i}" for i in range(3)]
    assert re.fullmatch(r"Images: 3, \d+ s", lines[3]) and len(lines) == 4


def test_without_a_terminal_there_is_a_line_a_minute_in_the_log(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "tfcompress"):
        for _ in layers(10):
            now[0] += 25.0
    assert [record.getMessage() for record in caplog.records] == [
        "Fitting: 3 of 10, layer2",
        "Fitting: 6 of 10, layer5",
        "Fitting: 9 of 10, layer8",
    ]


def test_the_log_says_where_each_loop_is_and_how_much_time_is_left(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "tfcompress"), showing("auto"):
        for _ in layers(4):
            now[0] += 50.0
            list(progress("xy", "Batches", 2))
    first = caplog.records[0].getMessage()
    assert first == "Fitting: 1 of 4, layer1, 5 min left; Batches: 0 of 2"


def test_a_loop_that_was_left_does_not_disturb_later_ones(capsys):
    left = None
    with pytest.raises(KeyError), showing(2):
        left = layers()
        next(left)
        raise KeyError
    with showing(2):
        left.close()
        list(layers(1))
    assert capsys.readouterr().out == "Fitting: layer0\n"
    assert bars._DISPLAY.get() is None


@pytest.mark.parametrize("wrong", [True, 3, -1, "yes", None, 1.5])
def test_what_verbose_takes(wrong):
    message = r"`verbose` to be 'auto', 0, 1 or 2\. Received: "
    with pytest.raises(ValueError, match=message), showing(wrong):
        pass


def test_a_model_of_python_code_names_its_layers(capsys):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = (keras.layers.Dense(8, name=n) for n in ("one", "two"))

        def call(self, x):
            return self.second(self.first(x))

    model, x = Net(), np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    model(x)
    with showing(2):
        tfc.swap(model, tfc.layers.rounding(4), data=x)
    assert "one" in capsys.readouterr().out
