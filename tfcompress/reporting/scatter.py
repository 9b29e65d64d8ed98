"""Accuracy against bytes as a matplotlib picture: axes, the front line, labels that are legible."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

Points = Sequence[tuple[float, float]]  # (bytes, accuracy)
DIRECTIONS = 16
STEPS = 20  # of each piece of the front line
# Of a label from its point, in units of 1/72 inch.
DISTANCES = (10, 18, 28, 40, 55, 75, 100, 130, 170, 220)


def new_axes(title: str, xlabel: str = "size") -> Any:
    """The axes of a new figure: bytes on a logarithmic axis, accuracy in per cent."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, PercentFormatter

    figure = Figure(figsize=(9, 5.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", xlabel=xlabel, ylabel="accuracy in LiteRT", title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(LogLocator(subs="all"))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    return axes


def front_of(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points for which no smaller one is as accurate, by rising bytes.

    >>> front_of([(3, 0.9), (1, 0.8), (2, 0.7)])
    [(1, 0.8), (3, 0.9)]
    """
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def draw_front(
    axes: Any, points: Points, float32: tuple[float, float] | None
) -> list[tuple[float, float]]:
    """A line through the front of the points, and a ring around the float net.

    Returns:
        Places on the line, which labels should not cover.
    """
    line = front_of(points)
    axes.plot(*zip(*line, strict=True), "--", color="0.55", lw=1, zorder=1, label="front")
    if float32 is not None:
        style = {"facecolors": "none", "edgecolors": "black", "s": 130, "linewidths": 1.3}
        axes.scatter(*float32, **style, zorder=3, label="the float net")
    return along(line)


def along(line: Points) -> list[tuple[float, float]]:
    """Places on a line through points, which labels should not cover."""
    shares = [step / STEPS for step in range(STEPS)]
    return [
        (x * (end_x / x) ** share, y + share * (end_y - y))
        for (x, y), (end_x, end_y) in pairwise(line)
        for share in shares
    ]


def place_labels(axes: Any, labels: Sequence[tuple[Any, str, str]], marked: Points) -> None:
    """Writes each name near its point, where it covers no other name, no point and no legend.

    Args:
        axes: with their limits and their legend as they will stay.
        labels: `(point, name, color)` of each label.
        marked: all points that no label may cover.
    """
    figure = axes.figure
    figure.canvas.draw()
    legend = axes.get_legend()
    taken = [] if legend is None else [legend.get_window_extent()]
    for point in axes.transData.transform(marked):
        taken.append(_box(*point, 14, 14))
    for point, name, color in labels:
        label = axes.annotate(
            name,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=10,
            color=color,
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
