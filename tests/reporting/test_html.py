"""The page of a report: well formed, on its own, and with the figures of the report."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.reporting.html import page
from tfcompress.reporting.html_pictures import pareto
from tfcompress.reporting.html_text import size


class Page(HTMLParser):
    """Texts and tags of a page, which must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def made():
    layers = [keras.layers.Dense(64, name=f"fc{i}") for i in range(10)]
    layers.append(keras.layers.Dense(3, name="out"))
    model = keras.Sequential([keras.Input((64,)), *layers])
    small = tfc.swap(model, {f"fc{i}": tfc.layers.BinaryDense for i in range(9)})
    made = tfc.report(small, tflite=tfc.to_tflite(small))
    last = replace(made.rows[-1], path="<out> & more")
    return replace(made, name="a<b>", rows=(*made.rows[:-1], last))


def test_the_page_holds_the_figures_of_the_report(made, tmp_path):
    made.to_html(tmp_path / "a.html")
    shown = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    for row in made.rows:
        assert row.path in shown.texts
        assert f"{row.bits:,}" in shown.texts
        assert f"{row.file_bytes:,} {'+'.join(row.encodings)}" in shown.texts
    for text in (made.name, f"{made.bits:,}", f"{made.ratio:.1f}", size(made.file.bytes)):
        assert text in shown.texts


def test_it_needs_nothing_from_elsewhere(made):
    text = page(made)
    tags = {tag for tag, _ in Page(text).tags}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"https?:|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def widths(text, pattern):
    return [float(width) for width in re.findall(pattern + r'"?\s*style="width:([\d.]+)%', text)]


def test_bars_are_as_long_as_the_bytes_are(made):
    text = page(made)
    before, after = widths(text, 'class="bar ghost'), widths(text, 'class="bar')
    widest = max(row.float_bits for row in made.rows)
    for row, b, a in zip(made.rows, before, after, strict=True):
        assert b == pytest.approx(100 * row.float_bits / widest, abs=1e-3)
        assert a == pytest.approx(100 * row.bits / widest, abs=1e-3)
    stacks = re.findall(r'<div class="stack"><small>([^<]+)</small><div>(.*?)</div>', text)
    names = ["in float32", "as stored", "as stored, enlarged", "in the .tflite file"]
    assert [told.split(":")[0] for told, _ in stacks] == names
    lengths = [np.sum(widths(pieces, "<i")) for _, pieces in stacks]
    whole = (made.float_bits + made.other_bits) / 8
    share = (made.bits + made.other_bits) / 8 / whole
    expected = [100, 100 * share, 100, 100 * made.file.bytes / whole]
    assert lengths == pytest.approx(expected, abs=0.02)


def test_points_that_none_beats_are_filled(made):
    points = {"big": (9000, 0.91), "worse": (5000, 0.80), "small": (1000, 0.85)}
    shown = Page(page(made, points))
    marks = [attributes for tag, attributes in shown.tags if tag == "b" and "style" in attributes]
    assert [(m["title"], m.get("class")) for m in marks] == [
        ("small", "front"),
        ("worse", None),
        ("big", "front"),
    ]
    assert marks[0]["style"] == f"left:8.00%;bottom:{8 + 84 * 5 / 11:.2f}%"
    assert marks[2]["style"] == "left:92.00%;bottom:92.00%"
    Page(page(made, {"only": (10, 0.5)}))


def test_it_names_the_date_the_versions_the_accuracy_and_what_was_left(made):
    shown = Page(page(made, accuracy=0.91234))
    assert "0.9123" in shown.texts and "0.9123" not in Page(page(made)).texts
    (line,) = [text for text in shown.texts if text.startswith("Written on ")]
    assert re.fullmatch(r"Written on \d{4}-\d\d-\d\d with .*\bkeras \d+\.\d+.*", line)
    assert "Left as they are" in shown.texts
    assert "fc9, out: ordinary float32" in shown.texts


def test_a_slow_file_is_said_to_be_slower(made):
    for ratio, value, label in (
        (0.5, "2.00", "times faster than"),
        (1.25, "1.25", "times slower than"),
        (1.001, "as", "fast as"),
    ):
        shown = Page(page(replace(made, file=replace(made.file, latency_ratio=ratio))))
        place = shown.texts.index(f"{label} the float32 file")
        assert shown.texts[place - 1] == value


def test_the_line_joins_the_front_and_a_ring_marks_the_float_net():
    text = pareto({"float32": (9000, 0.91), "worse": (5000, 0.80), "small": (1000, 0.85)})
    (line,) = re.findall(r'<polyline points="([^"]*)"', text)
    y = 100 - (8 + 84 * 5 / 11)
    assert line == f"8.00,{y:.2f} 92.00,8.00"
    marks = [dict(attributes) for tag, attributes in Page(text).tags if tag == "b"]
    assert [mark.get("class") for mark in marks] == ["front", None, "front float"]


def test_ticks_of_a_narrow_range_differ():
    text = pareto({"a": (4_000, 0.90001), "b": (9_000, 0.90034)})
    ticks = re.findall(r'<span class="(.)" style="[^"]*">([^<]*)<', text)
    assert [text for axis, text in ticks if axis == "x"] == ["4 KB", "9 KB"]
    assert [text for axis, text in ticks if axis == "y"] == ["90.01%", "90.02%", "90.03%"]


def test_ticks_are_round():
    ticks = re.findall(
        r'<span class="(.)" style="[^"]*">([^<]*)<',
        pareto({"a": (120_000, 0.88), "b": (3_200_000, 0.915)}),
    )
    assert [text for axis, text in ticks if axis == "x"] == ["200 KB", "500 KB", "1 MB", "2 MB"]
    assert [text for axis, text in ticks if axis == "y"] == ["88.0%", "89.0%", "90.0%", "91.0%"]


def test_sizes_for_people():
    assert [size(n) for n in (0, 12.4, 999, 999.7, 1234, 999_600, 56_700_000, 5e12)] == [
        "0 B",
        "12 B",
        "999 B",
        "1 KB",
        "1.23 KB",
        "1 MB",
        "56.7 MB",
        "5e+03 GB",
    ]


@pytest.mark.parametrize("bytes_", [0, -5, float("nan")])
def test_points_have_bytes(made, bytes_, tmp_path):
    with pytest.raises(ValueError, match="Expected `bytes of a` above 0"):
        made.to_html(tmp_path / "a.html", points={"a": (bytes_, 0.5)})
    assert not list(tmp_path.iterdir())
