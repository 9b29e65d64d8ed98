"""What a notebook shows of a result: its table, without the page around it."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tfcompress.reporting.html import facts_of, layer_cells, others
from tfcompress.reporting.html_text import escape

NUMBER = re.compile(r"([-+]?[\d.,]+(e[-+]?\d+)?%?( \(.*\)| [KMG]?B)?|-|unknown|)")
BOX = "display:inline-block;margin:0 .4em .4em 0;padding:.2em .6em;border:1px solid #8886"


def report_html(report: Any) -> str:
    """The totals and the layers of a `ModelReport`."""
    boxes = (
        f'<span style="{BOX}"><b>{escape(value)}</b> {escape(label)}</span>'
        for label, value in facts_of(report).items()
    )
    names, rows, total = layer_cells(report)
    facts = f"<div>{''.join(boxes)}</div>"
    return facts + table_html(report.name, names, [*rows, total], [others(report)])


def table_html(
    title: str, names: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    """A table under a title, with lines below it, in a box that scrolls sideways."""
    rows = list(rows)
    sides = [
        "right" if all(map(NUMBER.fullmatch, column)) else "left"
        for column in zip(*rows, strict=True)
    ] or ["left"] * len(names)
    body = "".join(_row(row, sides) for row in rows)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f'<div style="overflow-x:auto"><p><b>{escape(title)}</b></p><table>'
        f"<thead>{_row(names, sides, 'th')}</thead><tbody>{body}</tbody></table>{below}</div>"
    )


def _row(cells, sides, tag="td"):
    row = ""
    for cell, side in zip(cells, sides, strict=True):
        row += f'<{tag} style="text-align:{side};padding:.15em .6em">{escape(cell)}</{tag}>'
    return f"<tr>{row}</tr>"
