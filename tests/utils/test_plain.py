"""Names are shown as they are: in tables, pages, pictures, progress bars, errors."""

import io
import os
import pathlib

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import tfcompress as tfc
from tfcompress.planning.sensitivity import Damage, Sensitivity
from tfcompress.reporting.benchmark import Benchmark, Timing
from tfcompress.utils import progress as bars
from tfcompress.utils.plain import plain, plain_lines
from tfcompress_cli import app

NASTY = "[bold]fc[/bold] :smile: $x_ \x1b[31m\x07\u202e<b>&"
SHOWN = r"[bold]fc[/bold] :smile: $x_ \x1b[31m\x07\u202e<b>&"


def test_plain():
    assert plain("fc/kernel é 漢") == "fc/kernel é 漢"
    assert plain(NASTY) == SHOWN
    assert plain(os.fsdecode(b"\xff")) == r"\udcff"
    assert plain(pathlib.PurePosixPath("a\nb")) == r"a\nb"
    assert plain_lines("a\nb\x1b") == "a\nb\\x1b"


@given(st.text())
def test_plain_text_is_printable_and_can_be_written(text):
    shown = plain(text)
    assert shown.isprintable()
    shown.encode()
    assert plain(shown) == shown


def nasty_model():
    i = keras.Input((4,), name="i")
    return keras.Model(i, keras.layers.Dense(3, name=NASTY.replace("/", "|"))(i), name=NASTY[:9])


def is_clean(text):
    return all(character.isprintable() or character == "\n" for character in text)


def test_a_report(tmp_path):
    report = tfc.report(nasty_model())
    shown = SHOWN.replace("/", "|")
    text = str(report)
    assert is_clean(text)
    assert shown in "".join(line.split("  ")[0] for line in text.splitlines()) or shown in text
    report.to_html(tmp_path / "a.html", {NASTY: (10, 0.5)})
    page = (tmp_path / "a.html").read_text()
    assert is_clean(page)
    assert "<b>&" not in page
    assert r"\x1b[31m\x07\u202e&lt;b&gt;&amp;" in page


def test_tables():
    damage = Damage(
        layer=NASTY, candidate=NASTY, method="x", bits=1, share=0.5, measured=0.1, predicted=0.1
    )
    timing = Timing(NASTY, 1, 1.0, 1.0, 1.0, 1.0, 1, (), (NASTY,), None)
    for made in (Sensitivity(1.0, [damage]), Benchmark((timing,), 7, 1, 1)):
        text = str(made)
        assert is_clean(text)
        assert "[bold]" in text and ":smile:" in text and r"\x1b[31m" in text


def test_a_picture_takes_no_name_for_a_formula(tmp_path):
    damage = Damage("$\\frac{", "x", "x", 1, 0.5, 0.1, 0.1)
    Sensitivity(1.0, [damage]).plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_progress_bar(monkeypatch):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=120)
    monkeypatch.setattr("rich.console.Console", lambda **kwargs: console)
    monkeypatch.setattr(bars, "DELAY", -1.0)
    list(bars.progress(range(3), "[bold]a[/bold]\x07\x1b[31m", 3))
    assert r"[bold]a[/bold]\x07\x1b[31m" in file.getvalue()
    assert "\x07" not in file.getvalue()


def test_errors(tmp_path):
    model = nasty_model()
    with pytest.raises(ValueError) as caught:
        tfc.swap(model, {model.layers[1].name: tfc.layers.BinaryConv2D})
    assert is_clean(str(caught.value))
    path = tmp_path / "[bold]\x1b[31m.tfc"
    path.write_bytes(b"none")
    with pytest.raises(tfc.archive.ArchiveError) as caught:
        tfc.archive.load(path)
    assert r"[bold]\x1b[31m.tfc is no archive" in str(caught.value)
    done = CliRunner().invoke(app, ["report", str(path)])
    assert done.exit_code == 1
    assert r"[bold]\x1b[31m.tfc is no archive" in done.output
    assert is_clean(done.output)


def test_a_file_name_that_is_not_utf_8(tmp_path):
    path = os.path.join(tmp_path, os.fsdecode(b"\xff.keras"))
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    output = os.path.join(tmp_path, os.fsdecode(b"\xfe.tfc"))
    done = CliRunner().invoke(app, ["archive", path, "-o", output])
    assert done.exit_code == 0, done.output
    assert r"\udcfe.tfc: " in done.output
    assert np.array_equal(tfc.archive.load(output)(np.ones((1, 4))).shape, (1, 2))
