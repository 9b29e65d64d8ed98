"""Sphinx: `sphinx-build -W -b html docs build/docs`."""

import pathlib
import re

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

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
    """The rows of the first table of a benchmark's page in which a pattern occurs."""

    required_arguments = 1
    option_spec = {"rows": str}  # noqa: RUF012

    def run(self):
        path = pathlib.Path(self.state.document.settings.env.srcdir, self.arguments[0])
        lines = path.read_text(encoding="utf-8").splitlines()
        start = next(place for place, line in enumerate(lines) if line.startswith("|"))
        end = next((p for p in range(start, len(lines)) if not lines[p].startswith("|")), None)
        head, rows = lines[start : start + 2], lines[start + 2 : end]
        rows = [row for row in rows if re.search(self.options["rows"], row)]
        if not rows:
            raise self.error(f"no row of {path.name} has {self.options['rows']!r}")
        node = nodes.Element()
        self.state.nested_parse(StringList([*head, *rows], source=str(path)), 0, node)
        return node.children


def setup(app):
    app.connect("autodoc-process-docstring", to_rst, priority=100)
    app.add_directive("results", Results)
