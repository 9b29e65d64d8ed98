"""A `ModelReport` as text."""

import io
from typing import Any


def text(made: Any, width: int = 110) -> str:
    """The tables of a report for people: the layers, the totals, the layers left alone."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width)
    for part in (_table(made), *_notes(made)):
        console.print(part, highlight=False)
    return console.file.getvalue().rstrip()


def _table(made):
    from rich.table import Table

    table = Table(title=f"Model {made.name}", title_justify="left", box=None, pad_edge=False)
    names = ["layer", "method", "kernel", "stored bits", "float bits", "ratio", "MACs", "nonzero"]
    names += ["in the file"] if made.file else []
    for name in names:
        text = name in ("layer", "method", "kernel", "in the file")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    for row in made.rows:
        cells = [row.path, row.method, shape_text(row.kernel_shape), f"{row.bits:,}"]
        cells += [f"{row.float_bits:,}", f"{row.ratio:.1f}x", number(row.macs)]
        cells += [f"{row.nonzero:.0%}"] + ([_in_file(row)] if made.file else [])
        table.add_row(*cells)
    table.add_section()
    total = ["all kernels", "", "", f"{made.bits:,}", f"{made.float_bits:,}", f"{made.ratio:.1f}x"]
    table.add_row(*total, number(made.macs), "", *([""] if made.file else []))
    return table


def _notes(made):
    yield f"Biases, norms and other weights: {made.other_bits:,} bits"
    if made.file:
        ratio = made.file.latency_ratio
        speed = "" if ratio is None else f", {ratio:.2f} of the float32 file's time"
        size = f"{made.file.bytes:,} bytes, {made.file.gzip_bytes:,} gzipped"
        yield f".tflite file: {size}{speed}; for LiteRT {made.file.min_runtime} and newer"
    if any(row.full_size for row in made.rows):
        yield "FULL SIZE: the file holds the whole float32 kernel, whatever the layer stores."
    reasons = {}
    for path, reason in made.left.items():
        reasons.setdefault(reason, []).append(path)
    for reason, paths in reasons.items():
        yield f"Left as they are ({reason}): {', '.join(paths)}"


def _in_file(row):
    if row.file_bytes is None:
        return "not found"
    size = ", FULL SIZE" if row.full_size else ""
    return f"{row.file_bytes:,} B {'+'.join(row.encodings)}{size}"


def shape_text(shape: Any) -> str:
    if shape and isinstance(shape[0], tuple):
        return " ".join(map(shape_text, shape))
    return "x".join(map(str, shape))


def number(value: Any) -> str:
    return "unknown" if value is None else f"{value:,}"
