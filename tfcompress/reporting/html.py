"""A `ModelReport` as one self-contained HTML page that runs no scripts and loads nothing."""

from collections.abc import Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tfcompress.reporting.html_pictures import bars, pareto, stacks
from tfcompress.reporting.html_style import STYLE
from tfcompress.reporting.html_text import escape, size, table_row
from tfcompress.reporting.text import (
    encodings_text,
    number,
    part_cells,
    reasons,
    shape_text,
    than_float32,
)

PACKAGES = ("tfcompress", "keras", "tensorflow", "ai-edge-litert")


def page(
    report: Any,
    points: Mapping[str, tuple[float, float]] | None = None,
    accuracy: float | None = None,
    explanation: Any = None,
) -> str:
    """The page of a report.

    Args:
        report: a `ModelReport`.
        points: dict `{name: (bytes, accuracy)}` of models to compare, or None.
        accuracy: of the model, where it is known.
        explanation: an `Explanation` of where its accuracy went, or None.
    """
    name = escape(report.name)
    parts = [
        f"<h1>{name}</h1>",
        f"<p>{_made_with()}</p>",
        _facts(report, accuracy, explanation),
        _notes(report),
    ]
    parts += [pareto(points)] if points else []
    parts += [stacks(report), bars(report), _table(report), _left(report)]
    if explanation is not None:
        parts += ["<h2>Where the accuracy went</h2>", explanation._repr_html_()]
    return whole_page(report.name, "\n".join(parts))


def whole_page(name: str, body: str) -> str:
    """A page of that title."""
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{STYLE}</style></head>\n<body>\n"
        + body
        + "\n</body>\n</html>\n"
    )


def _made_with() -> str:
    """The date, and the versions of the packages that are installed."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"Written on {date.today().isoformat()} with {escape(', '.join(versions))}"


def facts_of(report: Any, accuracy: float | None = None) -> dict[str, str]:
    """What the whole model takes: `{name: value}`, as text."""
    facts = {} if accuracy is None else {"accuracy": f"{accuracy:.4f}"}
    facts |= {
        "kernels as stored": size(report.bits / 8),
        "in float32": size(report.float_bits / 8),
        "times smaller": f"{report.ratio:.1f}",
        "MACs per sample": number(report.macs),
    }
    if report.file:
        facts[".tflite file"] = size(report.file.bytes)
        facts["gzipped"] = size(report.file.gzip_bytes)
        facts["oldest LiteRT"] = report.file.min_runtime
        if report.file.latency_ratio is not None:
            times, words = than_float32(report.file.latency_ratio).split(" ", 1)
            facts[words] = times
    return facts


def _facts(report, accuracy, explanation):
    facts = facts_of(report, accuracy)
    metric = getattr(explanation, "metric", None)
    if accuracy is None and metric is not None:
        facts = {metric[0]: f"{metric[2]:.4f}", f"{metric[0]} before": f"{metric[1]:.4f}"} | facts
    boxes = (f"<div><b>{value}</b>{escape(label)}</div>" for label, value in facts.items())
    return f'<div class="facts">{"".join(boxes)}</div>'


def _notes(report):
    full = [row.path for row in report.rows if row.full_size]
    if not full:
        return ""
    return f"<p>The file holds the whole float32 kernel of: {escape(', '.join(full))}.</p>"


def _left(report):
    """The layers that nobody compressed and have a kernel, by the reason why."""
    found = {reason: paths for reason, paths in reasons(report).items() if reason != "no kernel"}
    lines = (
        f"<p>{escape(', '.join(paths))}: {escape(reason)}</p>" for reason, paths in found.items()
    )
    return "<h2>Left as they are</h2>\n" + "\n".join(lines) if found else ""


def layer_cells(report: Any) -> tuple[list[str], list[list[str]], list[str]]:
    """The names of the columns, a row for each layer with a kernel, and the row of totals."""
    names = ["layer", "method", "kernel", "stored bits", "float bits", "ratio", "MACs", "nonzero"]
    names += ["bytes in the file"] if report.file else []
    rows = []
    for row in report.rows:
        cells = [row.path, row.method, shape_text(row.kernel_shape), f"{row.bits:,}"]
        cells += [f"{row.float_bits:,}", f"{row.ratio:.1f}", number(row.macs), f"{row.nonzero:.0%}"]
        for one, texts in (row, cells), *((part, part_cells(part)) for part in row.parts):
            rows.append(texts + ([_in_file(one)] if report.file else []))
    total = ["all kernels", "", "", f"{report.bits:,}", f"{report.float_bits:,}"]
    total += [f"{report.ratio:.1f}", number(report.macs), ""] + ([""] if report.file else [])
    return names, rows, total


def others(report: Any) -> str:
    """What the weights take that are no kernels."""
    return f"Biases, norms and other weights: {report.other_bits:,} bits."


def _table(report):
    names, rows, total = layer_cells(report)
    body = "\n".join(table_row(row) for row in rows)
    return (
        f'<h2>Layers</h2>\n<div class="scroll"><table>\n<thead>{table_row(names, "th")}</thead>\n'
        f"<tbody>{body}</tbody>\n<tfoot>{table_row(total)}</tfoot>\n</table></div>\n"
        f"<p>{others(report)}</p>"
    )


def _in_file(row):
    if row.file_bytes is None:
        return "not found"
    return f"{row.file_bytes:,} {encodings_text(row)}"
