"""Text, sizes and rows of tables as a page holds them."""

from collections.abc import Sequence
from html import escape as escaped

from tfcompress.utils.plain import plain

LEFT = 3  # columns of text: layer, method, kernel


def escape(text: str) -> str:
    """Text as a page shows it: neither markup nor control characters."""
    return escaped(plain(text))


def table_row(cells: Sequence[str], tag: str = "td") -> str:
    """A row whose first three cells are text, and the others numbers."""
    cells_of = (
        f"<{tag}{' class=left' if place < LEFT else ''}>{escape(cell)}</{tag}>"
        for place, cell in enumerate(cells)
    )
    return f"<tr>{''.join(cells_of)}</tr>"


def size(count: int) -> str:
    """Bytes in a readable unit: `"1.2 MB"`."""
    for unit in ("B", "KB", "MB", "GB"):
        text = f"{count:.0f}" if unit == "B" else f"{count:.3g}"
        if float(text) < 1000 or unit == "GB":  # 999.6 is shown as 1000
            return f"{text} {unit}"
        count /= 1000
