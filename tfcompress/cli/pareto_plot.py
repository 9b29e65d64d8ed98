"""Plots accuracy against bytes."""

from typing import Any

from tfcompress.reporting.scatter import along, draw_front, new_axes, place_labels
from tfcompress.utils.types import Path
from tfcompress.utils.writers import save_figure


def draw(results: Any, path: Path, title: str) -> None:
    """Plots accuracy against the bytes of each file and of its gzip, on a logarithmic axis.

    Args:
        results: objects with `name`, `litert_accuracy`, `file_bytes` and `gzip_bytes`.
        path: the path of the `.png` file.
        title: the title of the plot.

    Returns:
        The matplotlib figure.
    """
    axes, lines = new_axes(title), []
    files = [(r.file_bytes, r.litert_accuracy) for r in results]
    zipped = [(r.gzip_bytes, r.litert_accuracy) for r in results]
    for ends in zip(files, zipped, strict=True):
        axes.plot(*zip(*ends, strict=True), color="0.8", zorder=1)
        lines += along(ends)
    axes.scatter(*zip(*files, strict=True), color="tab:blue", label=".tflite file", zorder=2)
    axes.scatter(
        *zip(*zipped, strict=True), color="tab:orange", marker="D", label="gzip -9", zorder=2
    )
    floats = [point for point, r in zip(files, results, strict=True) if r.name == "float32"]
    front = draw_front(axes, files, floats[0] if floats else None)
    axes.legend(loc="best")
    labels = [(point, r.name, "black") for point, r in zip(zipped, results, strict=True)]
    place_labels(axes, labels, files + zipped + lines + front)
    save_figure(axes.figure, path)
    return axes.figure
