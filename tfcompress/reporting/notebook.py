"""What a notebook shows of a result: its table, without the page around it."""

from collections.abc import Iterable, Sequence
from typing import Any

from tfcompress.reporting.html import facts_of, layer_cells, others
from tfcompress.reporting.html_text import escape

SIGNS = tuple("+-0123456789")  # that a number begins with
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
    body = [_row(row) for row in rows]
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f'<div style="overflow-x:auto"><p><b>{escape(title)}</b></p><table>'
        f"<thead>{_row(names, 'th')}</thead><tbody>{''.join(body)}</tbody></table>{below}</div>"
    )


def _row(cells, tag="td"):
    """A row in which numbers are at the right."""
    row = ""
    for cell in cells:
        side = "right" if cell[:1] in SIGNS else "left"
        row += f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>'
    return f"<tr>{row}</tr>"
