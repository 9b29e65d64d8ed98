import itertools
import types

import numpy as np
import pytest

from tfcompress.cli.pareto_plot import draw
from tfcompress.reporting.scatter import front_of

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.mark.parametrize("seed", range(2))
def test_labels_cover_neither_each_other_nor_points_nor_the_legend(seed, tmp_path):
    rng = np.random.default_rng(seed)
    results = [
        types.SimpleNamespace(
            name=f"method {number}",
            litert_accuracy=0.9 + 0.002 * rng.standard_normal(),  # a crowd
            file_bytes=int(900_000 * rng.uniform(0.8, 1)),
            gzip_bytes=int(700_000 * rng.uniform(0.8, 1)),
        )
        for number in range(8)
    ]
    results[-1].file_bytes, results[-1].gzip_bytes = 90_000, 40_000
    figure = draw(results, tmp_path / "a.png", "noise")
    (axes,) = figure.axes
    labels = {text.get_text(): text for text in axes.texts}
    assert set(labels) == {r.name for r in results}
    boxes = [super(type(t), t).get_window_extent() for t in labels.values()]  # without the line
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    points = [(r.gzip_bytes, r.litert_accuracy) for r in results]
    points += [(r.file_bytes, r.litert_accuracy) for r in results]
    for x, y in axes.transData.transform(points):
        assert not any(box.contains(x, y) for box in boxes)
    legend = axes.get_legend().get_window_extent()
    assert not any(box.overlaps(legend) for box in boxes)
    whole = axes.get_window_extent()
    assert all(whole.contains(*box.min) and whole.contains(*box.max) for box in boxes)
    (front,) = [line for line in axes.lines if line.get_label() == "front"]
    files = [(r.file_bytes, r.litert_accuracy) for r in results]
    assert list(zip(*front.get_data(), strict=True)) == front_of(files)
    assert (tmp_path / "a.png").stat().st_size > 10_000
