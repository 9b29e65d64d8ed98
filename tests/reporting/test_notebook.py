"""What a notebook and a prompt show of results: the figures, nothing long, no markup of names."""

import re
from html.parser import HTMLParser

import keras
import pytest

import tfcompress as tfc
from tfcompress.planning.compressed import Compressed
from tfcompress.planning.plan_result import Option, Plan
from tfcompress.planning.sensitivity import Damage, Sensitivity
from tfcompress.reporting.benchmark import Benchmark, Timing
from tfcompress.reporting.notebook import table_html

SHORT = 200


class Cells(HTMLParser):
    """The cells of all tables, by row; tags must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def model():
    layers = [keras.layers.Dense(64, name="fc"), keras.layers.Dense(3, name="out")]
    return keras.Sequential([keras.Input((64,)), *layers], name="<b>net")


@pytest.fixture(scope="module")
def plan(model):
    chosen = Option("ternary", tfc.layers.TernaryDense.using(), 2000, measured=0.01)
    kept = Option("as it is", None, 192, measured=0.0)
    options = {"fc": [chosen], "<out>": [kept]}
    picked = {"fc": chosen, "<out>": kept}
    return Plan("bits", 3000, 2192, 10_000, options, picked, 0.5, 0.01, 0.02, model)


def test_a_report(model):
    report = tfc.report(model)
    rows = Cells(report._repr_html_()).rows
    assert rows[1][:5] == ["fc", "Dense", "64x64", f"{64 * 64 * 32:,}", f"{64 * 64 * 32:,}"]
    assert rows[-1][0] == "all kernels"
    assert (
        repr(report)
        == "<ModelReport <b>net: 2 layers, 137,216 bits of 137,216 (1.0 times smaller)>"
    )


def test_a_plan(plan):
    assert repr(plan) == "<Plan: 2,192 bits of 10,000 (21.9%), 1 of 2 layers>"
    assert Cells(plan._repr_html_()).rows == [
        ["layer", "form", "bits", "loss, this layer alone"],
        ["fc", "ternary", "2,000", "+0.0100"],
        ["<out>", "as it is", "192", "+0.0000"],
    ]


def test_sensitivity():
    rows = [Damage("fc", f"c{i}", "TernaryDense", 100, 0.1, 0.5, 0.25) for i in range(100)]
    made = Sensitivity(0.3, rows)
    assert repr(made) == "<Sensitivity: loss 0.3000, 100 forms, 1 layer(s)>"
    assert Cells(made._repr_html_()).rows[1] == ["fc", "c0", "10.0%", "+0.5", "+0.25"]


def test_a_benchmark():
    operators = ("FULLY_CONNECTED",) * 500
    timing = Timing("a", 1234, 0.5, 1.0, 0.9, 1.1, 500, operators, (), None)
    other = Timing("b", 1000, 0.25, 2.0, 1.9, 2.1, 500, operators, (), None)
    made = Benchmark((timing, other), 31, 1, 1)
    assert repr(made) == "<Benchmark of 31 rounds: a 0.5 ms, b 0.25 ms>"
    assert len(repr(timing)) < SHORT
    _, first, second = Cells(made._repr_html_()).rows
    assert first == ["a", "1,234", "0.5", "", "-", "500 of 500 delegated"]
    assert second[3] == "2.00 times faster (1.90 to 2.10)"


def test_a_compressed_model_prints_neither_its_weights_nor_its_file(model, plan):
    sizes = plan.cost, plan.float_cost
    made = Compressed(
        model, b"\0" * 90_000, plan, tfc.report(model), "accuracy", 0.9, 0.89, *sizes, []
    )
    assert repr(made) == "<Compressed <b>net: 2,192 of 10,000 bits, accuracy 0.9000 -> 0.8900>"
    assert "&lt;b&gt;net" in made._repr_html_() and "<b>net" not in made._repr_html_()
    assert ["fc", "ternary", "2,000", "+0.0100"] in Cells(made._repr_html_()).rows


def test_a_file_prints_its_size():
    blob = tfc.to_tflite(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    assert repr(blob) == f"<TFLiteFile of {len(blob):,} bytes>"
    assert bytes(blob) == blob


def test_columns_of_numbers_are_at_the_right():
    rows = [["a", "8 bits", "-1.5e-07", "1.0 (0.9-1.1)"], ["b", "float32", "12%", "-"]]
    text = table_html("t", ["name", "form", "loss", "times"], rows)
    sides = re.findall(r"text-align:(\w+)", text)
    assert sides == 3 * ["left", "left", "right", "right"]
    assert "<th" in table_html("no rows", ["a", "b"], [])
