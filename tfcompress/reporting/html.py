"""A `ModelReport` as one self-contained HTML page that runs no scripts and loads nothing."""

import math
from collections.abc import Mapping
from html import escape as escaped
from typing import Any

from tfcompress.reporting.text import number, shape_text
from tfcompress.utils.plain import plain

MOST_COLORS = 7  # of layers; all smaller layers share one more
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1d2129; --soft: #5b6472; --line: #d9dee6;
  --bar: #2563c9; --ghost: #c9d3e3; --c0: #2563c9; --c1: #d9772b; --c2: #2f9461; --c3: #b4407a;
  --c4: #7a5cc7; --c5: #a88a12; --c6: #21899c; --c7: #8b95a5; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --text: #e8ebf0; --soft: #a2acba;
  --line: #333a45; --bar: #6ea2f5; --ghost: #3a4352; --c0: #6ea2f5; --c1: #eb9a57; --c2: #5dbd8b;
  --c3: #dd76a8; --c4: #a78ff0; --c5: #cdb347; --c6: #55b7c9; --c7: #7f8998; } }
body { margin: 0 auto; padding: 1.2rem; max-width: 64rem; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; color: var(--soft); overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; }
.facts div { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .7rem; }
.facts b { display: block; font-size: 1.25rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
.left { text-align: left; }
tfoot td { font-weight: 600; }
.layer { display: grid; grid-template-columns: 22% 1fr; gap: .2rem .8rem;
  margin: .5rem 0; align-items: center; }
.layer span { overflow-wrap: anywhere; }
.bar { height: .6rem; min-width: 1px; border-radius: 2px; margin: 2px 0; background: var(--bar); }
.ghost { background: var(--ghost); }
.layer small, .stack small { color: var(--soft); }
.stack { margin: .7rem 0; }
.stack div { display: flex; height: 1.5rem; border-radius: 3px; overflow: hidden; }
.stack i { min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; color: var(--soft); }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; }
.plot { position: relative; height: 18rem; margin: 1rem 1rem 2.6rem 3.6rem;
  border-left: 1px solid var(--line); border-bottom: 1px solid var(--line); }
.plot span { position: absolute; color: var(--soft); font-size: .8rem;
  white-space: nowrap; }
.plot .x { top: 100%; transform: translate(-50%, .3rem); }
.plot .y { right: 100%; transform: translate(-.4rem, 50%); }
.plot b { position: absolute; width: 1.35rem; height: 1.35rem; margin: 0 0 -.675rem -.675rem;
  border-radius: 50%; background: var(--ghost); color: var(--text); font-size: .75rem;
  line-height: 1.35rem; text-align: center; }
.plot b.front { background: var(--bar); color: var(--back); }
"""


def escape(text: str) -> str:
    """Text as a page shows it: neither markup nor control characters."""
    return escaped(plain(text))


def page(report: Any, points: Mapping[str, tuple[float, float]] | None = None) -> str:
    """The page of a report.

    Args:
        report: a `ModelReport`.
        points: dict `{name: (bytes, accuracy)}` of models to compare, or None.
    """
    name = escape(report.name)
    parts = [f"<h1>{name}</h1>", _facts(report), _notes(report)]
    parts += [_pareto(points)] if points else []
    parts += [_stacks(report), _bars(report), _table(report)]
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _facts(report):
    facts = {
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
            facts["of the float32 file's time"] = f"{report.file.latency_ratio:.2f}"
    boxes = (f"<div><b>{value}</b>{label}</div>" for label, value in facts.items())
    return f'<div class="facts">{"".join(boxes)}</div>'


def _notes(report):
    full = [row.path for row in report.rows if row.full_size]
    if not full:
        return ""
    return f"<p>The file holds the whole float32 kernel of: {escape(', '.join(full))}.</p>"


def _table(report):
    names = ["layer", "method", "kernel", "stored bits", "float bits", "ratio", "MACs", "nonzero"]
    names += ["bytes in the file"] if report.file else []
    rows = [
        [row.path, row.method, shape_text(row.kernel_shape), f"{row.bits:,}", f"{row.float_bits:,}"]
        + [f"{row.ratio:.1f}", number(row.macs), f"{row.nonzero:.0%}"]
        + ([_in_file(row)] if report.file else [])
        for row in report.rows
    ]
    total = ["all kernels", "", "", f"{report.bits:,}", f"{report.float_bits:,}"]
    total += [f"{report.ratio:.1f}"]
    total += [number(report.macs), ""] + ([""] if report.file else [])
    body = "\n".join(_table_row(row) for row in rows)
    return (
        f'<h2>Layers</h2>\n<div class="scroll"><table>\n<thead>{_table_row(names, "th")}</thead>\n'
        f"<tbody>{body}</tbody>\n<tfoot>{_table_row(total)}</tfoot>\n</table></div>\n"
        f"<p>Biases, norms and other weights: {report.other_bits:,} bits.</p>"
    )


def _table_row(cells, tag="td"):
    first = len(("layer", "method", "kernel"))
    cells_of = (
        f"<{tag}{' class=left' if place < first else ''}>{escape(cell)}</{tag}>"
        for place, cell in enumerate(cells)
    )
    return f"<tr>{''.join(cells_of)}</tr>"


def _in_file(row):
    if row.file_bytes is None:
        return "not found"
    return f"{row.file_bytes:,} {'+'.join(row.encodings)}"


def _bars(report):
    """A pair of bars for each layer: its kernel in float32, and as stored."""
    widest = max((row.float_bits for row in report.rows), default=0) or 1
    rows = []
    for row in report.rows:
        before, after = (100 * bits / widest for bits in (row.float_bits, row.bits))
        sizes = f"{size(row.float_bits / 8)} to {size(row.bits / 8)}"
        caption = f"{sizes}, {row.ratio:.1f} times smaller"
        rows.append(
            f'<div class="layer"><span>{escape(row.path)}</span><div>'
            f'<div class="bar ghost" style="width:{before:.3f}%"></div>'
            f'<div class="bar" style="width:{after:.3f}%"></div><small>{caption}</small>'
            "</div></div>"
        )
    return "<h2>Each kernel, in float32 and as stored</h2>\n" + "\n".join(rows)


def _stacks(report):
    """Which layers take the bytes: a bar in float32, and two as stored, one of them enlarged."""
    ranked = sorted(report.rows, key=lambda row: -row.float_bits)
    groups = [(row.path, [row]) for row in ranked[:MOST_COLORS]]
    groups += [("all else", ranked[MOST_COLORS:])]
    before = [sum(row.float_bits for row in rows) / 8 for _, rows in groups]
    after = [sum(row.bits for row in rows) / 8 for _, rows in groups]
    for sizes in (before, after):
        sizes[-1] += report.other_bits / 8
    whole = max(sum(before), sum(after)) or 1
    bars = [_stack("in float32", before, whole), _stack("as stored", after, whole)]
    if 0 < sum(after) < whole / 2:
        bars.append(_stack("as stored, enlarged", after, sum(after)))
    if report.file:
        parts = [sum(row.file_bytes or 0 for row in rows) for _, rows in groups]
        parts[-1] += max(report.file.bytes - sum(parts), 0)
        bars.append(_stack("in the .tflite file", parts, max(whole, sum(parts))))
    names = (
        f"<span><i style='background:var(--c{_color(place, groups)})'></i>{escape(name)}</span>"
        for place, (name, _) in enumerate(groups)
    )
    legend = f'<div class="legend">{"".join(names)}</div>'
    return "<h2>Where the bytes are</h2>\n" + "\n".join([*bars, legend])


def _stack(name, sizes, whole):
    pieces = (
        f'<i style="width:{100 * part / whole:.3f}%;background:var(--c{_color(place, sizes)})" '
        f'title="{size(part)}"></i>'
        for place, part in enumerate(sizes)
    )
    caption = f"<small>{name}: {size(sum(sizes))}</small>"
    return f'<div class="stack">{caption}<div>{"".join(pieces)}</div></div>'


def _color(place, groups):
    return MOST_COLORS if place == len(groups) - 1 else place


def _pareto(points):
    """Accuracy against bytes on a logarithmic axis, with the points of the Pareto front filled."""
    items = sorted(points.items(), key=lambda item: item[1])
    logs = [math.log10(bytes_) for _, (bytes_, _) in items]
    accuracies = [accuracy for _, (_, accuracy) in items]
    xs, ys = _axis_scale(logs), _axis_scale(accuracies)
    marks, rows, best = [], [], -math.inf
    for place, (name, (bytes_, accuracy)) in enumerate(items):
        front, best = accuracy > best, max(best, accuracy)
        at = f"left:{xs(logs[place]):.2f}%;bottom:{ys(accuracy):.2f}%"
        mark = ' class="front"' if front else ""
        marks.append(f'<b{mark} style="{at}" title="{escape(name)}">{place + 1}</b>')
        rows.append(_table_row([str(place + 1), name, "", f"{bytes_:,}", f"{accuracy:.4f}"]))
    for end in dict.fromkeys((min(logs), max(logs))):
        marks.append(f'<span class="x" style="left:{xs(end):.2f}%">{size(10**end)}</span>')
    for end in dict.fromkeys((min(accuracies), max(accuracies))):
        marks.append(f'<span class="y" style="bottom:{ys(end):.2f}%">{end:.2%}</span>')
    head = _table_row(["", "model", "", "bytes", "accuracy"], "th")
    return (
        "<h2>Accuracy against bytes</h2>\n<p>Bytes are on a logarithmic axis; a point is filled "
        f'where no smaller one is as accurate.</p>\n<div class="plot">{"".join(marks)}</div>\n'
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
        "</div>"
    )


def _axis_scale(values):
    """A function that maps the range of the values to 8 to 92 per cent of an axis."""
    low, high = min(values), max(values)
    return lambda value: 8 + 84 * (value - low) / (high - low) if high > low else 50.0


def size(count: int) -> str:
    """Bytes in a readable unit: `"1.2 MB"`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
