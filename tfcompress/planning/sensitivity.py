"""Measures how much the loss rises when one layer is compressed and all others stay."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from tfcompress.graph.copy import copied
from tfcompress.graph.paths import check_keras_3, check_patterns, named_with_parts, walk
from tfcompress.graph.private_training import compiled_argument, compiled_loss
from tfcompress.layers.core.maker import Composed
from tfcompress.layers.core.opened import OpenedLayer
from tfcompress.measure.rows import fan_in_first
from tfcompress.planning.candidates import by_name, default_candidates
from tfcompress.reporting.notebook import table_html
from tfcompress.reporting.text import table_text
from tfcompress.rewriting.opening import opened_where
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.batches import check_repeats
from tfcompress.utils.plain import plain, unparsed
from tfcompress.utils.progress import progress, showing
from tfcompress.utils.types import ClassWeight, Data, Layers, Loss, Path, Verbose
from tfcompress.utils.writers import save_figure

BATCH_SIZE = 500
COLUMNS = ("layer", "candidate", "of float32", "measured", "predicted")


@dataclass(frozen=True)
class Damage:
    """How much one candidate for one layer raises the loss.

    Attributes:
        layer: path of the layer.
        candidate: name of the candidate.
        method: class name of the compressed layer.
        bits: stored bits of the kernel.
        share: `bits` divided by the bits of the float32 kernel.
        measured: the rise of the loss.
        predicted: the rise that the second-order form predicts, `1/2 sum_o g_o e_o^T A e_o`.
    """

    layer: str
    candidate: str
    method: str
    bits: int
    share: float
    measured: float
    predicted: float


@dataclass(frozen=True)
class Sensitivity:
    """The result of `sensitivity`, which can be printed and plotted.

    Attributes:
        loss: the loss of the unchanged model.
        rows: a `Damage` for each layer and candidate.
    """

    loss: float
    rows: list[Damage]

    def __repr__(self):
        layers = len({row.layer for row in self.rows})
        return f"<Sensitivity: loss {self.loss:.4f}, {len(self.rows)} forms, {layers} layer(s)>"

    def __str__(self):
        from rich.table import Table

        table = Table(title=self._title(), box=None, pad_edge=False)
        for name in COLUMNS:
            text = name in ("layer", "candidate")
            table.add_column(name, justify="left" if text else "right", overflow="fold")
        for row in map(_cells, self.rows):
            table.add_row(*row)
        return table_text(table)

    def _repr_html_(self) -> str:
        return table_html(self._title(), COLUMNS, map(_cells, self.rows))

    def _title(self) -> str:
        return f"Loss {self.loss:.4f}, and what is added"

    def plot(self, path: Path) -> None:
        """Draws the rise of the loss against size, and the measured against the predicted rise.

        Args:
            path: path of the `.png` file to write.

        Returns:
            The matplotlib figure.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 5), dpi=150, layout="constrained")
        curves, points = figure.subplots(1, 2)
        # the axes are logarithmic, and a rise may be zero or negative
        least = max(1e-9, 1e-4 * max(row.measured for row in self.rows))
        names = list(dict.fromkeys(row.layer for row in self.rows))
        methods = list(dict.fromkeys(row.method for row in self.rows))
        for layer, method in dict.fromkeys((row.layer, row.method) for row in self.rows):
            rows = [row for row in self.rows if (row.layer, row.method) == (layer, method)]
            rows.sort(key=lambda row: row.share)
            share = [row.share for row in rows]
            measured = np.maximum([row.measured for row in rows], least)
            predicted = np.maximum([row.predicted for row in rows], least)
            marker = "osD^vPX*"[methods.index(method) % 8]
            style = {"color": f"C{names.index(layer)}", "marker": marker, "ms": 4}
            curves.plot(share, measured, **style, label=unparsed(f"{layer}, {method}"))
            curves.plot(share, predicted, "--", color=style["color"], lw=1)
            points.plot(predicted, measured, ls="", **style)
        ends = [least, max(max(row.measured, row.predicted) for row in self.rows)]
        points.plot(ends, ends, color="0.6", lw=1, zorder=0)
        title = "measured (solid) and predicted (dashed)"
        curves.set(xlabel="share of float32 bits", ylabel="increase of the loss", title=title)
        points.set(xlabel="predicted", ylabel="measured", title="all layers and candidates")
        for axes in (curves, points):
            axes.set(xscale="log", yscale="log")
            axes.grid(alpha=0.3)
        curves.set_xticks((0.02, 0.05, 0.1, 0.2, 0.5, 1), ("2%", "5%", "10%", "20%", "50%", "100%"))
        curves.xaxis.set_minor_formatter("")
        figure.legend(loc="outside right upper", fontsize=7)  # of the curves
        save_figure(figure, path)
        return figure


def _cells(row) -> tuple[str, ...]:
    numbers = f"{row.share:.1%}", f"{row.measured:+.2g}", f"{row.predicted:+.2g}"
    return plain(row.layer), plain(row.candidate), *numbers


def sensitivity(
    model: keras.Model,
    data: Data,
    layers: Layers = "*",
    candidates: Any = None,
    loss: Loss = None,
    verbose: Verbose = "auto",
    class_weight: ClassWeight = None,
) -> Sensitivity:
    """Measures the loss with each layer compressed in each way, while all other layers stay.

    Each kernel is fitted in the layer's Kronecker metric `(A, g)` and takes the place of the
    original, and the loss is measured again. Batch normalization keeps its statistics. For
    comparison, the result also has the rise that `1/2 sum_o g_o e_o^T A e_o` predicts, where `e` is
    the change of the kernel: the prediction ranks layers well and underestimates large damage. It
    needs TensorFlow.

    Cost: a pass over the data for each layer and candidate, and the cost of
    `curvature.kronecker`.

    Args:
        model: a built Sequential or Functional model; it stays as it is.
        data: inputs and labels in any form that `fit` can take more than once.
        layers: a name, path or glob, or a list of these; that of a layer made of others (a
            recurrent layer, an attention) means its kernels.
        candidates: makers such as `tfc.layers.LowRankConv2D.using(rank=8)`, as a list or as a dict
            `{name: maker}`, where in place of a maker there may be a list, of which a layer gets
            the first that accepts it. None takes those of `plan` that make one layer. A candidate
            is skipped for a layer that it does not accept, and a layer that is compressed already.
        loss: as in `compile`; None takes the compiled one.
        verbose: as in Keras' `fit`; see `swap`.
        class_weight: `{class: weight}` of the labels, as in `fit`.

    Returns:
        A `Sensitivity`: the `loss`, and in `rows` a `Damage` for each layer and candidate.

    Raises:
        ValueError: no layer matches; there is no loss; no candidate accepts any of the layers (the
            message says why).

    Example:

    >>> import keras, tfcompress as tfc
    >>> parts = [keras.Input((6,)), keras.layers.Dense(6, name="fc"), keras.layers.Dense(1)]
    >>> model, x = keras.Sequential(parts), np.eye(6)
    >>> makers = [tfc.layers.LowRankDense.using(rank=r) for r in (1, 2)]
    >>> found = tfc.sensitivity(model, (x, np.ones((6, 1))), "fc", makers, loss="mse")
    >>> [(row.layer, row.bits) for row in found.rows]
    [('fc', 384), ('fc', 768)]
    """
    check_keras_3(model)
    check_repeats(data, 2)
    if candidates is None:
        candidates = _of_one_kernel(default_candidates("bits"))
    candidates = by_name(candidates)
    if not candidates:
        raise ValueError("Expected `candidates` to hold at least one maker. Received: none")
    if loss is None and compiled_loss(model) is None:
        raise ValueError("The model is not compiled with a loss: give `loss`, as in `compile`.")
    model = _opened(model, layers)
    with showing(verbose):
        return _measured(model, data, _paths(model, layers), candidates, loss, class_weight)


def _measured(model, data, paths, candidates, loss, class_weight) -> Sensitivity:
    from tfcompress.measure.kronecker import COMPILED, kronecker
    from tfcompress.measure.objective import mean_loss

    named = COMPILED if loss is None else loss
    metrics = kronecker(model, data, named, class_weight=class_weight)
    fitted, reasons = {}, []
    for path in progress(paths, "Fitting kernels", len(paths), str):
        for name, makers in candidates.items():
            layer, reason = _fitted(makers, walk(model)[path][0], metrics.get(path))
            if layer is None:
                reasons.append(f"- {path}, {name}: {reason}")
            else:
                fitted[path, name] = layer
    if not fitted:
        raise ValueError("No candidate takes any of the layers:\n" + "\n".join(reasons))
    changed = copied(model)
    measure = partial(mean_loss, changed, data, loss, BATCH_SIZE, model, class_weight)
    base, rows = measure(), []
    pairs = progress(fitted.items(), "Measuring the loss", len(fitted), _pair_name)
    for (path, name), layer in pairs:
        rows.append(_damage(path, name, layer, changed, measure, base, metrics[path]))
    return Sensitivity(base, rows)


def _pair_name(item):
    return ", ".join(item[0])


def _of_one_kernel(candidates):
    """Those that make one layer, and not a chain."""
    lists = {
        name: [maker for maker in makers if not isinstance(maker, Composed)]
        for name, makers in candidates.items()
    }
    return {name: makers for name, makers in lists.items() if makers}


def _fitted(makers, layer, metric):
    """What the first of some makers that takes a layer makes of it, or None and the reason."""
    reason = "there is no maker"
    for maker in makers:
        if isinstance(maker, Composed):
            reason = "it makes a chain of layers, whose kernel cannot stand in the layer's place"
            continue
        try:
            return maker(layer, metric), None
        except ValueError as error:
            reason = error
    return None, reason


def _damage(path, name, layer, model, measure, base, metric):
    """The `Damage` of a compressed layer's kernel in the place of the original one."""
    kernel = walk(model)[path][0].kernel
    before, now = to_numpy(kernel), to_numpy(layer.kernel)
    kernel.assign(now)
    increase = measure() - base
    kernel.assign(before)
    change = fan_in_first(layer, np.subtract(before, now, dtype="float64"))
    predicted = metric.quadratic(change)
    method, share = type(layer).__name__, layer.bits / (32 * now.size)
    return Damage(path, name, method, layer.bits, share, increase, predicted)


def _opened(model, layers):
    """The model with kernels as layers of their own, and with its compiled loss."""
    new = opened_where(model, layers)
    if new is not model and compiled_loss(model) is not None:
        new.compile(loss=model.loss, loss_weights=compiled_argument(model, "loss_weights"))
    return new


def _paths(model, patterns) -> list[str]:
    """The paths of the layers with a kernel that the patterns match."""
    listed = {path: layer for path, (layer, _) in walk(model).items()}
    kernels = [path for path, layer in listed.items() if _has_kernel(layer)]
    chosen = set(named_with_parts(patterns, listed))
    if not chosen.intersection(kernels):
        raise ValueError(
            f"No ordinary layer with a kernel matches {check_patterns(patterns)}. The layers: "
            f"{', '.join(kernels)}"
        )
    return [path for path in kernels if path in chosen]


def _has_kernel(layer):
    ordinary = isinstance(getattr(layer, "kernel", None), keras.Variable)
    return ordinary and not isinstance(layer, OpenedLayer)
