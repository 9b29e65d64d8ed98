"""`benchmarks/speech.py --quick` runs: made tones, without data and without espeak-ng."""

import pathlib
import runpy
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_speech_in_small(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["speech.py", "--quick"])
    runpy.run_path(str(FOLDER / "speech.py"), run_name="__main__")
    page = capsys.readouterr().out
    assert page.count("| DS-CNN | ") >= 6
    assert "pieces equal the whole to 0.0001 in float32 arithmetic" in page
