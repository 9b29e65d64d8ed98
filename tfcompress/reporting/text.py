"""A `ModelReport` as text."""

import io
from typing import Any

from tfcompress.utils.plain import plain, plain_lines


def text(report: Any, width: int = 110) -> str:
    """A report as text: the layers, the totals and the layers that stay as they are."""
    return table_text(_table(report), *_notes(report), width=width)


def table_text(table: Any, *notes: str, width: int = 110) -> str:
    """A rich table and the lines below it as plain text of at most `width` columns.

    No name in them is read as markup, as a picture or as a command to the terminal.
    """
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    for part in (table, *map(plain, notes)):
        console.print(part)
    return plain_lines(console.file.getvalue().rstrip())


def _table(report):
    from rich.table import Table

    table = Table(
        title=f"Model {plain(report.name)}", title_justify="left", box=None, pad_edge=False
    )
    names = ["layer", "method", "kernel", "stored bits", "float bits", "ratio", "MACs", "nonzero"]
    names += ["in the file"] if report.file else []
    for name in names:
        is_text = name in ("layer", "method", "kernel", "in the file")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for row in report.rows:
        cells = [plain(row.path), row.method, shape_text(row.kernel_shape), f"{row.bits:,}"]
        cells += [f"{row.float_bits:,}", f"{row.ratio:.1f}x", number(row.macs)]
        cells += [f"{row.nonzero:.0%}"] + ([_in_file(row)] if report.file else [])
        table.add_row(*cells)
        for part in row.parts:
            table.add_row(*part_cells(part), *([_in_file(part)] if report.file else []))
    table.add_section()
    total = [
        "all kernels",
        "",
        "",
        f"{report.bits:,}",
        f"{report.float_bits:,}",
        f"{report.ratio:.1f}x",
    ]
    table.add_row(*total, number(report.macs), "", *([""] if report.file else []))
    return table


def _notes(report):
    yield f"Biases, norms and other weights: {report.other_bits:,} bits"
    if report.file:
        ratio = report.file.latency_ratio
        speed = "" if ratio is None else f", {than_float32(ratio)}"
        size = f"{report.file.bytes:,} bytes, {report.file.gzip_bytes:,} gzipped"
        yield f".tflite file: {size}{speed}; for LiteRT {report.file.min_runtime} and newer"
        if report.file.samples is not None:
            yield (
                f"Verified on {report.file.samples:,} samples: outputs differ by at most "
                f"{report.file.largest_difference:.2g} of their root mean square"
            )
    if any(row.full_size for row in report.rows):
        yield "FULL SIZE: the file holds the whole float32 kernel, whatever the layer stores."
    for reason, paths in reasons(report).items():
        yield f"Left as they are ({reason}): {', '.join(paths)}"


def part_cells(row: Any) -> list[str]:
    """The cells of a layer that with others stands in the place of one: it has no own ratio."""
    cells = [f"· {plain(row.path)}", row.method, shape_text(row.kernel_shape), f"{row.bits:,}"]
    return [*cells, "", "", number(row.macs), f"{row.nonzero:.0%}"]


def reasons(report: Any) -> dict[str, list[str]]:
    """The layers that are not compressed, by the reason why."""
    found: dict[str, list[str]] = {}
    for path, reason in report.left.items():
        found.setdefault(reason, []).append(path)
    return found


def times_faster(ratio: float) -> str:
    """A share of another file's time in words: `"1.5 times faster"`, `"1.2 times slower"`."""
    if f"{ratio:.2f}" == "1.00":
        return "as fast"
    return f"{1 / ratio:.2f} times faster" if ratio < 1 else f"{ratio:.2f} times slower"


def than_float32(ratio: float) -> str:
    """The same as a comparison: `"1.5 times faster than the float32 file"`."""
    words = times_faster(ratio)
    return f"{words} {'as' if words == 'as fast' else 'than'} the float32 file"


def _in_file(row):
    if row.file_bytes is None:
        return "not found"
    size = ", FULL SIZE" if row.full_size else ""
    return f"{row.file_bytes:,} B {encodings_text(row)}{size}"


def encodings_text(row: Any) -> str:
    """The types of a layer's constants in a file, and whether they lie in the body of a loop."""
    loops = any(row.subgraphs), 0 not in row.subgraphs
    where = {(True, True): ", in a loop", (True, False): ", partly in a loop"}.get(loops, "")
    return "+".join(row.encodings) + where


def shape_text(shape: Any) -> str:
    """`"3x3x16"`, or several of these for a layer with several kernels."""
    if shape and isinstance(shape[0], tuple):
        return " ".join(map(shape_text, shape))
    return "x".join(map(str, shape))


def number(value: Any) -> str:
    """A number with commas, or `"unknown"` for None."""
    return "unknown" if value is None else f"{value:,}"
