"""The scripts of the papers run, keep what they found, and the page is that of their results."""

import json
import pathlib
import runpy
import sys
import types

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "papers"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in ("results", "page"))


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_quick_run_prints_accuracies_and_keeps_nothing(path, monkeypatch, capsys):
    before = {file: file.read_bytes() for file in (FOLDER / "results").glob("*")}
    monkeypatch.setattr(sys, "argv", [str(path), "--quick"])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.count("'accuracy'") == 2
    assert {file: file.read_bytes() for file in (FOLDER / "results").glob("*")} == before


def test_each_script_tells_how_to_run_it():
    assert len(SCRIPTS) == 9
    for path in SCRIPTS:
        assert f"python papers/{path.name} [--quick]" in path.read_text()


def test_what_is_done_is_not_run_again(tmp_path, monkeypatch):
    import results

    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    given = types.SimpleNamespace(quick=False, validation=False, seeds=[0, 1], rows=["a"], epochs=3)
    ran = []

    def run(row, seed):
        ran.append((row, seed))
        if ran[-1] == ("a2", 1) and len(ran) < 5:
            raise KeyboardInterrupt
        return {"accuracy": 0.5}

    with pytest.raises(KeyboardInterrupt):
        results.each(given, "papers/net.py", ["a1", "a2", "b"], run)
    assert ran == [("a1", 0), ("a2", 0), ("a1", 1), ("a2", 1)]
    results.each(given, "papers/net.py", ["a1", "a2", "b"], run)
    assert ran[4:] == [("a2", 1)]
    found = json.loads((tmp_path / "results" / "net.json").read_text())
    assert found["a2"]["1"].keys() == {"epochs", "accuracy", "seconds"}
    given.epochs = 4  # another training
    results.each(given, "papers/net.py", ["a1"], run)
    assert ran[5:] == [("a1", 0), ("a1", 1)]


def test_means_ranges_and_missing_seeds_are_shown(tmp_path):
    import page

    entries = {
        "all": {str(seed): {"accuracy": a} for seed, a in enumerate((0.99, 0.98, 0.97))},
        "one": {"1": {"accuracy": 0.95}},
    }
    (tmp_path / "net.json").write_text(json.dumps(entries))
    found = page.Results("net", tmp_path)
    assert found.shown("all") == "2.00 (1.00 to 3.00)"
    assert found.shown("one") == "5.00, 1 of 3 seeds"
    assert found.shown("none") == "not run yet"
    assert found.above("one", "all") == pytest.approx(3)
    claim = page.CLAIMS[0]
    other = page.Claim(**vars(claim) | {"needs": ("all",), "holds": lambda r: r.mean("all") < 2.5})
    assert other.verdict(found) == "holds"
    assert page.Claim(**vars(other) | {"needs": ("all", "one")}).verdict(found) == "holds so far"
    assert page.Claim(**vars(other) | {"needs": ("none",)}).verdict(found) == "open"


def test_the_page_is_that_of_the_results():
    import page

    assert page.PAGE.read_text() == page.page(), "run `python papers/page.py`"
