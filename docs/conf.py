"""Sphinx: `sphinx-build -W -b html docs build/docs`."""

import json
import pathlib
import re

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from myst_parser.parsers.sphinx_ import MystParser

import tfcompress

project = "tfcompress"
copyright = "the authors of tfcompress"
version = release = tfcompress.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"tfcompress {release}"
default_role = "code"
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False

SECTIONS = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Example|Examples):$")


def to_rst(app, what, name, obj, options, lines):
    """Docstrings hold plain text: `code` in backticks, and formulas as indented blocks.

    Blocks that are indented outside a section become literal, and so does what is in backticks;
    other signs that reStructuredText would take for its own are escaped.
    """
    section, literal, blocks = False, False, []
    for block in "\n".join(lines).split("\n\n"):
        if not block.startswith(" "):
            section, literal = False, False
        if block.startswith("    ") and not section:
            blocks += ([] if literal else ["::"]) + [block]
            literal = True
        elif block.lstrip().startswith(">>> "):
            blocks.append(block)
        else:
            blocks.append(re.sub(r"`([^`]+)`(\w?)|(?<!^)(?<! )[*|]|[*|](?!\*)", escaped, block))
        section = section or bool(SECTIONS.match(block.split("\n")[0]))
    lines[:] = "\n\n".join(blocks).split("\n")


def escaped(match):
    code, after = match.group(1), match.group(2)
    if code is None:
        return "\\" + match.group()
    return f"``{' '.join(code.split())}``" + (f"\\ {after}" if after else "")


class Results(Directive):
    """The rows of the first table of a benchmark's page that has rows with the pattern in it."""

    required_arguments = 1
    option_spec = {"rows": str}  # noqa: RUF012

    def run(self):
        path = pathlib.Path(self.state.document.settings.env.srcdir, self.arguments[0])
        for head, rows in tables(path.read_text(encoding="utf-8").splitlines()):
            rows = [row for row in rows if re.search(self.options["rows"], row)]
            if rows:
                node = nodes.Element()
                self.state.nested_parse(StringList([*head, *rows], source=str(path)), 0, node)
                return node.children
        raise self.error(f"no row of {path.name} has {self.options['rows']!r}")


def tables(lines):
    """`(the two lines of its head, its rows)` of each table."""
    table = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            table.append(line)
        elif table:
            yield table[:2], table[2:]
            table = []


class Notebook(MystParser):
    """A .ipynb file as a page: its text, its code and what this printed when it was last run."""

    supported = ("notebook",)

    def parse(self, inputstring, document):
        cells = json.loads(inputstring)["cells"]
        super().parse("\n\n".join(map(cell_text, cells)), document)


def cell_text(cell):
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            parts.append(f"```text\n{''.join(output['text'])}```")
        elif "text/html" in output["data"]:
            parts.append("````{raw} html\n" + "".join(output["data"]["text/html"]) + "\n````")
        else:
            parts.append(f"```text\n{''.join(output['data']['text/plain'])}\n```")
    return "\n\n".join(parts)


def setup(app):
    app.connect("autodoc-process-docstring", to_rst, priority=100)
    app.add_directive("results", Results)
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(Notebook)
