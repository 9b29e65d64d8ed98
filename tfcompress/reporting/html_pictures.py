"""The pictures of a report's page, made of boxes: no scripts, nothing loaded."""

import math
from collections.abc import Mapping
from typing import Any

from tfcompress.reporting.html_text import escape, size, table_row

MOST_COLORS = 7  # of layers; all smaller layers share one more


def bars(report: Any) -> str:
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


def stacks(report: Any) -> str:
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


def pareto(points: Mapping[str, tuple[float, float]]) -> str:
    """Accuracy against bytes on a logarithmic axis, with a line through the Pareto front."""
    items = sorted(points.items(), key=lambda item: item[1])
    logs = [math.log10(bytes_) for _, (bytes_, _) in items]
    accuracies = [accuracy for _, (_, accuracy) in items]
    xs, ys = _axis_scale(logs), _axis_scale(accuracies)
    marks, rows, line, best = [], [], [], -math.inf
    for place, (name, (bytes_, accuracy)) in enumerate(items):
        front, best = accuracy > best, max(best, accuracy)
        x, y = xs(logs[place]), ys(accuracy)
        line += [f"{x:.2f},{100 - y:.2f}"] if front else []
        kind = " ".join(["front"] * front + ["float"] * name.lower().startswith("float"))
        mark = f' class="{kind}"' if kind else ""
        at = f"left:{x:.2f}%;bottom:{y:.2f}%"
        marks.append(f'<b{mark} style="{at}" title="{escape(name)}">{place + 1}</b>')
        rows.append(table_row([str(place + 1), name, "", f"{bytes_:,}", f"{accuracy:.4f}"]))
    ticks = [_tick("x", "left", xs(at), size(10**at)) for at in _log_ticks(logs)]
    ticks += [_tick("y", "bottom", ys(at), text) for at, text in _ticks(accuracies)]
    head = table_row(["", "model", "", "bytes", "accuracy"], "th")
    return (
        "<h2>Accuracy against bytes</h2>\n<p>Bytes are on a logarithmic axis; a point is filled, "
        "and on the line, where no smaller one is as accurate; a ring marks float32.</p>\n"
        f'<div class="plot">{"".join(ticks)}<svg viewBox="0 0 100 100" preserveAspectRatio="none">'
        f'<polyline points="{" ".join(line)}"></polyline></svg>{"".join(marks)}</div>\n'
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
        "</div>"
    )


def _tick(axis, side, place, text):
    at = f'class="{axis}" style="{side}:{place:.2f}%"'
    return f"<i {at}></i><span {at}>{text}</span>"


def _axis_scale(values):
    """A function that maps the range of the values to 8 to 92 per cent of an axis."""
    low, high = min(values), max(values)
    return lambda value: 8 + 84 * (value - low) / (high - low) if high > low else 50.0


def _log_ticks(logs):
    """Round numbers in the range: the fewer, the wider it is; its ends where it is narrow."""
    low, high = min(logs), max(logs)
    if high - low < math.log10(3):
        return list(dict.fromkeys((low, high)))
    factors = (1, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [power + math.log10(factor) for power in powers for factor in factors]
    return [tick for tick in ticks if low - 0.05 <= tick <= high + 0.05]


def _ticks(values):
    """Three to nine round numbers in the range of the values, or their only value, as text too."""
    low, high = min(values), max(values)
    if low == high:
        return [(low, f"{low:.2%}")]
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(s for s in (step, step / 2, step / 5, step / 10) if (high - low) / s >= 3)
    digits = max(1, -math.floor(math.log10(step)) - 2)
    steps = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [(step * n, f"{step * n:.{digits}%}") for n in steps]
