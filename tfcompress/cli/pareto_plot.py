"""Plots accuracy against bytes."""

import math
from typing import Any

from tfcompress.utils.types import Path
from tfcompress.utils.writers import save_figure

DIRECTIONS = 16
DISTANCES = (10, 18, 28, 40, 55, 75, 100)  # of a label from its point, in units of 1/72 inch


def draw(results: Any, path: Path, title: str) -> None:
    """Plots accuracy against the bytes of each file and of its gzip, on a logarithmic axis.

    Args:
        results: objects with `name`, `litert_accuracy`, `file_bytes` and `gzip_bytes`.
        path: the path of the `.png` file.
        title: the title of the plot.

    Returns:
        The matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, PercentFormatter

    figure = Figure(figsize=(9, 5.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    files = [(r.file_bytes, r.litert_accuracy) for r in results]
    zipped = [(r.gzip_bytes, r.litert_accuracy) for r in results]
    for ends in zip(files, zipped, strict=True):
        axes.plot(*zip(*ends, strict=True), color="0.8", zorder=1)
    axes.scatter(*zip(*files, strict=True), color="tab:blue", label=".tflite file", zorder=2)
    axes.scatter(
        *zip(*zipped, strict=True), color="tab:orange", marker="D", label="gzip -9", zorder=2
    )
    axes.set(xscale="log", xlabel="size", ylabel="accuracy in LiteRT", title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(LogLocator(subs="all"))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    _label(figure, axes, zipped, [r.name for r in results], files + zipped)
    save_figure(figure, path)
    return figure


def _label(figure, axes, points, names, marked) -> None:
    """Writes each name near its point, where it covers no other name, no point and no legend."""
    figure.canvas.draw()
    taken = [axes.get_legend().get_window_extent()]
    for point in axes.transData.transform(marked):
        taken.append(_box(*point, 14, 14))
    for point, name in zip(points, names, strict=True):
        label = axes.annotate(
            name,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=10,
            arrowprops={"arrowstyle": "-", "color": "0.5", "shrinkA": 0, "shrinkB": 4},
        )
        size = label.get_window_extent()
        label.set_position(_free_offset(axes, point, size, taken, figure.dpi / 72))
        x, y = axes.transData.transform(point)
        dx, dy = (figure.dpi / 72 * part for part in label.get_position())
        taken.append(_box(x + dx, y + dy, size.width + 8, size.height + 8))


def _free_offset(axes, point, size, taken, scale):
    """The nearest offset at which a box of this size covers nothing, tried from the top round."""
    x, y = axes.transData.transform(point)
    inside = axes.get_window_extent()
    for distance in DISTANCES:
        for turn in range(DIRECTIONS):
            # Upwards first, then to the left and to the right in turn.
            angle = math.pi / 2 + (-1) ** turn * math.ceil(turn / 2) * 2 * math.pi / DIRECTIONS
            dx = math.cos(angle) * (distance + size.width / scale / 2)
            dy = math.sin(angle) * (distance + size.height / scale / 2)
            box = _box(x + dx * scale, y + dy * scale, size.width + 8, size.height + 8)
            within = inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)
            if within and not any(box.overlaps(other) for other in taken):
                return dx, dy
    return 0, DISTANCES[0]


def _box(x, y, width, height):
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
