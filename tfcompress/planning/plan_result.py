"""The result of `plan`: the form of each layer, which prints, draws and gives rules for `swap`."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.numerics.knapsack import solve_knapsack, solve_knapsacks
from tfcompress.reporting.notebook import table_html
from tfcompress.reporting.text import table_text
from tfcompress.utils.plain import plain
from tfcompress.utils.types import Path
from tfcompress.utils.writers import save_figure


@dataclass(frozen=True)
class Option:
    """One form that a layer can take.

    Attributes:
        name: name of the candidate.
        maker: the maker of the form; None leaves the layer as it is.
        cost: in bits, bytes, MACs or milliseconds, depending on the target.
        predicted: `1/2 tr e^T A e`, where `e` is the change of the kernel; of a form in two steps,
            the change by the first step.
        measured: how much the loss on held-out data rises if this layer alone takes this form.
        parts: the names of the layers that replace it.
        milliseconds: of the layer alone in this form; None unless the plan counts them.
    """

    name: str
    maker: object
    cost: float
    predicted: float = 0.0
    measured: float = 0.0
    parts: tuple[str, ...] = ()
    milliseconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """The form of each layer. It can be printed, and its `rules` are those of `tfcompress.swap`.

    Attributes:
        target: what is counted: bits, bytes of a file or of an archive, MACs or milliseconds; of
            two budgets the one that is not of time.
        budget: how much was allowed.
        cost: how much the plan takes.
        float_cost: how much the original network takes.
        options: `{layer path: list of Option}`, all that were measured, by rising cost.
        chosen: `{layer path: the Option chosen}`.
        loss: of the original network, on held-out data.
        predicted: the predicted rise of the loss: the sum over the layers.
        measured: the rise of the loss of the whole network, swapped on the data and with batch
            normalization recalibrated.
        model: this network.
        milliseconds: of one run of its .tflite file, measured here, or predicted where a table was
            given; None unless the plan counts them.
        float_milliseconds: of the float32 file.
    """

    target: str
    budget: float
    cost: float
    float_cost: float
    options: dict[str, list[Option]]
    chosen: dict[str, Option]
    loss: float
    predicted: float
    measured: float
    model: keras.Model
    milliseconds: float | None = None
    float_milliseconds: float | None = None

    @property
    def rules(self) -> dict:
        """The rules for `tfcompress.swap`, by layer path."""
        return {
            path: option.maker for path, option in self.chosen.items() if option.maker is not None
        }

    def __repr__(self):
        return f"<Plan: {self._title()}, {len(self.rules)} of {len(self.options)} layers>"

    def __str__(self):
        from rich.table import Table

        table = Table(title=self._title(), box=None, pad_edge=False)
        for name in self._columns():
            table.add_column(name, justify="left" if name in ("layer", "form") else "right")
        for row in self._rows():
            table.add_row(*row)
        return f"{table_text(table)}\n{self._note()}"

    def _repr_html_(self) -> str:
        return table_html(self._title(), self._columns(), self._rows(), [self._note()])

    def _title(self) -> str:
        share, target = self.cost / self.float_cost, self.target
        cost, whole = amount(self.cost, target), amount(self.float_cost, target)
        title = f"{cost} {target} of {whole} ({share:.1%})"
        if self._counts_time_too():
            title += f", {self.milliseconds:.4g} milliseconds of {self.float_milliseconds:.4g}"
        return title

    def _counts_time_too(self) -> bool:
        return self.milliseconds is not None and self.target != "milliseconds"

    def _columns(self) -> tuple[str, ...]:
        times = ["milliseconds"] * self._counts_time_too()
        return "layer", "form", self.target, *times, "loss, this layer alone"

    def _rows(self) -> list[tuple[str, ...]]:
        found = []
        for path, option in self.chosen.items():
            cells = [plain(path), plain(option.name), amount(option.cost, self.target)]
            if self._counts_time_too():
                cells.append(f"{option.milliseconds:.4g}")
            found.append((*cells, f"{option.measured:+.4f}"))
        return found

    def _note(self) -> str:
        return (
            f"loss {self.loss:.4f}: {self.predicted:+.4f} predicted, {self.measured:+.4f} "
            "measured (swapped on the data, recalibrated)"
        )

    def plot(self, path: Path) -> None:
        """Draws the rise of the loss that the sum over the layers predicts for each budget.

        Args:
            path: path of the `.png` file to write.

        Returns:
            The matplotlib figure.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator

        costs, damages = tables(self.options)
        fixed = self.float_cost - sum(row[-1] for row in costs)
        low, high = sum(map(min, costs)), sum(map(max, costs))
        points, solve = [], _solve_one if self.target == "milliseconds" else solve_knapsack
        for budget in np.geomspace(max(low, 1e-3 * high), high, 60):
            picked = solve(costs, damages, max(budget, low))
            total = sum(row[i] for row, i in zip(costs, picked, strict=True))
            damage = sum(row[i] for row, i in zip(damages, picked, strict=True))
            points.append((total + fixed, damage))
        shares, rises = np.array(points).T
        lowest = max(1e-3 * rises.max(), 1e-6)  # the axis is logarithmic, and a rise may be 0
        figure = Figure(figsize=(7, 5), dpi=150, layout="constrained")
        axes = figure.subplots()
        shares = 100 * shares / self.float_cost
        axes.step(shares, np.maximum(rises, lowest), where="post", label="predicted")
        here = 100 * self.cost / self.float_cost, max(self.measured, lowest)
        axes.plot(*here, "o", label="this plan, measured")
        axes.set(xscale="log", yscale="log", ylabel=f"increase of the loss (at least {lowest:.0e})")
        axes.set_xlabel(f"{self.target}, % of float32")
        axes.set_title("What a budget costs: plans from the measured forms")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
        axes.legend()
        save_figure(figure, path)
        return figure


def amount(cost: float, target: str) -> str:
    """A cost as text."""
    return f"{cost:.4g}" if target == "milliseconds" else f"{cost:,}"


def _solve_one(costs, damages, budget):
    return solve_knapsacks([costs], damages, [budget * (1 + 1e-9)])


def tables(options: Any, factors: Any = None) -> Any:
    """The costs and the damages of each layer's options, for the knapsack.

    Args:
        options: `{layer path: list of Option}`.
        factors: `{layer path: factor}` by which the layer's damages are multiplied; None for 1.
    """
    costs = [[option.cost for option in row] for row in options.values()]
    damages = [
        [option.measured * (factors or {}).get(path, 1.0) for option in row]
        for path, row in options.items()
    ]
    return costs, damages
