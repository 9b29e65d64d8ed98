"""What `plan` finds: the form of each layer, to print, to draw, and to swap by."""

import io
from dataclasses import dataclass

import keras
import numpy as np

from tfcompress.numerics.knapsack import choose


@dataclass(frozen=True)
class Option:
    """One form that a layer can take.

    Attributes:
        name: of the candidate.
        maker: what makes it; None leaves the layer as it is.
        cost: in bits, bytes or MACs, as the target says.
        predicted: `1/2 tr e^T A e` of the kernel's change e; of two steps, that of the first.
        measured: rise of the loss on held-out data with this layer alone in this form.
        parts: the names of the layers that take its place.
    """

    name: str
    maker: object
    cost: int
    predicted: float = 0.0
    measured: float = 0.0
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The form of each layer. `print` it; `rules` go to `tfcompress.swap`.

    Attributes:
        target, budget, cost: what is counted, how much was allowed, and how much the plan takes.
        float_cost: what the network as it is takes.
        options: `{layer path: list of Option}`, those that were measured, by rising cost.
        chosen: `{layer path: the Option taken}`.
        loss: of the network as it is, on held-out data.
        predicted: the rise of the loss as the sum over layers.
        measured: that of the whole network, swapped on the data and recalibrated.
        model: this network.
    """

    target: str
    budget: int
    cost: int
    float_cost: int
    options: dict[str, list[Option]]
    chosen: dict[str, Option]
    loss: float
    predicted: float
    measured: float
    model: keras.Model

    @property
    def rules(self) -> dict:
        """The rules for `tfcompress.swap`, by layer path."""
        return {path: one.maker for path, one in self.chosen.items() if one.maker is not None}

    def __str__(self):
        from rich.console import Console
        from rich.table import Table

        share = self.cost / self.float_cost
        title = f"{self.cost:,} {self.target} of {self.float_cost:,} ({share:.1%})"
        table = Table(title=title, box=None, pad_edge=False)
        for name in ("layer", "form", self.target, "loss, this layer alone"):
            table.add_column(name, justify="left" if name in ("layer", "form") else "right")
        for path, one in self.chosen.items():
            table.add_row(path, one.name, f"{one.cost:,}", f"{one.measured:+.4f}")
        console = Console(file=io.StringIO(), width=110)
        console.print(table, highlight=False)
        return (
            console.file.getvalue().rstrip()
            + f"\nloss {self.loss:.4f}: {self.predicted:+.4f} predicted, {self.measured:+.4f} "
            "measured (swapped on the data, recalibrated)"
        )

    def plot(self, path):
        """Draws what each budget would cost in loss, as the sum over layers predicts it.

        Args:
            path: of the `.png` file.

        Returns:
            The matplotlib figure.
        """
        from matplotlib.figure import Figure

        costs, harms = tables(self.options)
        fixed = self.float_cost - sum(max(row) for row in costs)
        low, high = sum(map(min, costs)), sum(map(max, costs))
        points = []
        for budget in np.geomspace(max(low, 1), high, 60).astype(int):
            picked = choose(costs, harms, max(int(budget), low))
            total = sum(row[i] for row, i in zip(costs, picked, strict=True))
            points.append((total + fixed, sum(h[i] for h, i in zip(harms, picked, strict=True))))
        shares, harms = np.array(points).T
        lowest = max(1e-3 * harms.max(), 1e-6)
        figure = Figure(figsize=(7, 5), dpi=150, layout="constrained")
        axes = figure.subplots()
        shares = 100 * shares / self.float_cost
        axes.step(shares, np.maximum(harms, lowest), where="post", label="predicted")
        here = 100 * self.cost / self.float_cost, max(self.measured, lowest)
        axes.plot(*here, "o", label="this plan, measured")
        axes.set(xscale="log", yscale="log", ylabel=f"increase of the loss (at least {lowest:.0e})")
        axes.set_xlabel(f"{self.target}, % of float32")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="minor", labelsize=7)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path)
        return figure


def tables(options, scales=None):
    """Costs and damages of the options of each layer, the damages times a scale of each."""
    costs = [[one.cost for one in row] for row in options.values()]
    harms = [
        [one.measured * (scales or {}).get(path, 1.0) for one in row]
        for path, row in options.items()
    ]
    return costs, harms
