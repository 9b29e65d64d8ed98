"""The pages: their code runs, their commands exist, and every public name has an entry."""

import importlib.util
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import tfcompress as tfc

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
BLOCK = re.compile(r"^```([\w{}:-]*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SKETCH = re.compile(r"(#|//) a sketch\b")
RUN = ("python", "sh")  # what a test runs or checks; all other code is marked as a sketch
NO_CODE = ("", "text")
NEEDS = ("keras_hub", "tensorly", "tensorflow_model_optimization", "jax", "optuna")


def blocks(text):
    """`[(language, code)]` of the blocks of a page that are no directives."""
    return [(kind, code) for kind, code in BLOCK.findall(text) if not kind.startswith("{")]


def python_of(page):
    found = [code for kind, code in blocks(page.read_text()) if kind == "python"]
    return [code for code in found if not SKETCH.match(code)]


@pytest.mark.parametrize("page", [p for p in PAGES if python_of(p)], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    code = "\n".join(python_of(page))
    for package in NEEDS:
        if f"import {package}" in code or f"from {package}" in code:
            pytest.importorskip(package)
    if "tensorflow_model_optimization" not in code:
        monkeypatch.chdir(tmp_path)
        exec(compile(code, str(page), "exec"), {"__name__": page.stem})
        return
    # That package sets TF_USE_LEGACY_KERAS for the process that imports it.
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_that_does_not_run_is_marked_as_a_sketch(page):
    for kind, code in blocks(page.read_text()):
        assert kind in (*RUN, *NO_CODE) or SKETCH.match(code), code


def test_a_block_is_found_with_its_language():
    text = "a\n```kotlin\nval x\n```\n```{results} a.md\n:rows: b\n```\n```python\n1\n```\n"
    assert blocks(text) == [("kotlin", "val x\n"), ("python", "1\n")]


def commands():
    """The `tfcompress` commands of all pages, with lines joined that end in a backslash."""
    for page in PAGES:
        for kind, code in blocks(page.read_text()):
            lines = code.replace("\\\n", " ").splitlines() if kind == "sh" else ()
            found = (line.split("#")[0].split() for line in lines if line.startswith("tfcom"))
            yield from (words for words in found if not words[1].startswith("-"))


def test_commands_of_the_pages_exist():
    import typer

    from tfcompress_cli import app

    group, found = typer.main.get_command(app), list(commands())
    assert {words[1] for words in found} == set(group.commands)
    for _, name, *arguments in found:
        options = {o for p in group.commands[name].params for o in (*p.opts, *p.secondary_opts)}
        used = {a for a in arguments if a.startswith("-")}
        assert used <= options | {"--help"}, (name, used - options)


def public_names():
    """All that a user may type after `tfc.`: functions, classes and those of public modules."""
    for name in tfc.__all__:
        thing = getattr(tfc, name)
        if not inspect.ismodule(thing):
            yield f"tfcompress.{name}"
        elif thing is tfc.interop:
            for bridge in thing.__all__:
                yield from members(getattr(thing, bridge))
        else:
            yield from members(thing)


def members(module):
    names = {
        name
        for name, thing in vars(module).items()
        if name[0] != "_"
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and (thing.__module__ == module.__name__ or is_public_layer(module, thing))
    }
    return sorted(f"{module.__name__}.{name}" for name in names | {*getattr(module, "__all__", ())})


def is_public_layer(module, thing):
    """Layers that `tfc.layers` has beside those of its `__all__`."""
    is_layer = inspect.isclass(thing) and issubclass(thing, tfc.layers.CompressedLayer)
    return module is tfc.layers and is_layer


def entries():
    """The full names that the pages under API list, by autodoc or in a table of autosummary."""
    found = set()
    for page in (DOCS / "api").glob("*.md"):
        module = ""
        for line in page.read_text().splitlines():
            if match := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = match[1] + "."
            if match := re.match(r"\.\. auto(?:function|class|exception|data):: (\S+)", line):
                found |= {match[1], module + match[1]}
            if match := re.match(r"   ([\w.]+)$", line):
                found |= {match[1], module + match[1]}
    return found


def test_every_public_name_has_an_entry():
    names = set(public_names())
    assert {"tfcompress.swap", "tfcompress.layers.QuantizedConv3D", "tfcompress.score.obd"} <= names
    missing = sorted(names - entries())
    assert not missing


def test_pictures_and_pages_that_are_named_exist():
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_heading_stands_once(page):
    """Two are what a careless merge leaves."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^## .*", text, re.M)
    assert len(headings) == len(set(headings))


def runner():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and book["metadata"]["kernelspec"]["name"] == "python3"
    assert all(isinstance(cell["source"], list) and cell["id"] for cell in book["cells"])
    if any("import keras_hub" in "".join(cell["source"]) for cell in book["cells"]):
        pytest.importorskip("keras_hub")
    monkeypatch.chdir(tmp_path)
    outputs = runner().outputs_of(book["cells"])
    saved = [cell["outputs"] for cell in book["cells"] if cell["cell_type"] == "code"]
    kinds = [[output["output_type"] for output in cell] for cell in outputs]
    assert kinds == [[output["output_type"] for output in cell] for cell in saved]


def test_a_cell_shows_what_it_prints_and_its_last_value():
    cells = [
        {"cell_type": "code", "source": ["x = 1\n", "print(x)\n", "x + 1"]},
        {"cell_type": "markdown", "source": ["text"]},
        {"cell_type": "code", "source": ["x += 1"]},
    ]
    first, second = runner().outputs_of(cells)
    assert first[0]["text"] == ["1\n"] and first[1]["data"] == {"text/plain": ["2"]}
    assert second == []


def test_there_are_three_notebooks():
    assert len(NOTEBOOKS) >= 3
