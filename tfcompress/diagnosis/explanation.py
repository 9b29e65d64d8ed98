"""The result of `explain`: a row for each layer, as text, as data, as a page and as a picture."""

import dataclasses
import json
from typing import Any

from tfcompress.diagnosis.case import Cause
from tfcompress.diagnosis.cures import Cure
from tfcompress.reporting.html_text import escape
from tfcompress.reporting.notebook import table_html
from tfcompress.reporting.text import table_text
from tfcompress.utils.checks import check_ending
from tfcompress.utils.plain import plain, unparsed
from tfcompress.utils.types import Path
from tfcompress.utils.writers import save_figure, write_file

COLUMNS = ("layer", "method", "share", "of the rise", "kernel error", "output error", "cause")
EXPLAINED = 5  # layers whose causes and cures are printed
IN_FILE = ("of the file", "error in the file")


@dataclasses.dataclass(frozen=True)
class ExplainedLayer:
    """What one layer does to the model.

    Attributes:
        path: of the layer in the float model; of a layer that only the small one has, its own.
        method: the classes of the layers in its place.
        share: its share of the rise of the loss, in units of the loss.
        error: the standard error of `share` over the examples.
        moved: its share of the change of the outputs, `(z - z0)^2 / var z0`.
        kernel_error: the change of its kernel, as a share of its norm; None without a kernel.
        output_error: the root mean square of the error of its outputs on the inputs that it gets,
            as a share of that of the outputs; None if nothing is finite.
        worst: numbers, in the data, of the examples whose loss it raises most.
        file_share: the part of `share` that only the .tflite file has.
        file_error: like `output_error`, of what the file makes of the inputs that it has there,
            beside what the layer would; None without a file, and where it does not differ.
        cause: a `Cause`, or None.
        cured: the loss once its cure is applied; None if that was not tried.
    """

    path: str
    method: str
    share: float
    error: float
    moved: float
    kernel_error: float | None
    output_error: float | None
    worst: tuple[int, ...]
    cause: Cause | None
    file_share: float = 0.0
    file_error: float | None = None
    cured: float | None = None

    @property
    def cure(self) -> Cure | None:
        """What can be done: `str` of it is code, `apply` runs it."""
        return None if self.cause is None else self.cause.cure


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where the accuracy of a compressed model went.

    Attributes:
        name: of the compressed model.
        measure: what is measured: "loss", or without labels "change of the outputs".
        before, after: the loss of the float model and of the compressed one, or of its file.
        rest: the part of the rise that is no layer's: what the models differ in beside layers.
        metric: what the user judges by and its values before and after, or None.
        layers: an `ExplainedLayer` for each layer that differs, the worst first.
        by_loss: whether that is by `share`. It is by `moved` where no layer raises the loss by more
            than chance, or some layer lowers it by more.
        orders: the number of orders in which layers were put back.
        examples: the number of examples.
        file_errors: `{index: error}` of the tensors of the .tflite file that belong to an operation
            of the model.
    """

    name: str
    measure: str
    before: float
    after: float
    rest: float
    metric: tuple[str, float, float] | None
    layers: tuple[ExplainedLayer, ...]
    by_loss: bool
    orders: int
    examples: int
    file_errors: dict[int, float] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def rise(self) -> float:
        """By how much the loss is higher than that of the float model."""
        return self.after - self.before

    def __getitem__(self, path) -> ExplainedLayer:
        """The row of a layer."""
        for row in self.layers:
            if row.path == path:
                return row
        names = [row.path for row in self.layers]
        raise KeyError(f"No layer that differs has this path. Expected one of {names}: {path!r}")

    def to_json(self, indent: int | None = 2) -> str:
        """All data as JSON, the cures as code."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["rise"] = self.rise
        data["layers"] = [_as_data(row) for row in self.layers]
        return json.dumps(data, indent=indent)

    def to_html(self, path: Path) -> None:
        """Writes one self-contained page.

        Raises:
            ValueError: the path has the ending of another format.
            WriteError: the file cannot be written.
        """
        from tfcompress.reporting.html import whole_page

        check_ending(path, ".html")
        write_file(path, whole_page(self.name, self._repr_html_()))

    def to_model_explorer(self, folder: Path, tflite: Path | bytes) -> None:
        """Writes what Model Explorer shows on the graph of the .tflite file.

        The files are node data, with one number for each operator: `error.json`, the error of its
        outputs from the numbers that it gets; `bytes.json`, of its constants; `milliseconds.json`,
        its time when it runs alone. Start `model-explorer small.tflite` and upload them.

        Args:
            folder: of the three files.
            tflite: the file that was explained.
        """
        from tfcompress.diagnosis.file.overlay import write_overlays

        write_overlays(self.file_errors, tflite, folder)

    def plot(self, path: Path) -> Any:
        """Draws the share of each layer, with its standard error.

        Args:
            path: path of the `.png` file to write.

        Returns:
            The matplotlib figure.
        """
        from matplotlib.figure import Figure

        rows = self.layers[:30][::-1]
        figure = Figure(figsize=(8, 1.5 + 0.3 * len(rows)), dpi=150, layout="constrained")
        axes = figure.subplots()
        errors = [row.error for row in rows]
        axes.barh(range(len(rows)), [row.share for row in rows], xerr=errors, ecolor="0.4")
        names = [unparsed(row.path) for row in rows]
        axes.set_yticks(range(len(rows)), names)
        causes = [row.cause.name if row.cause else "" for row in rows]
        for place, (row, cause) in enumerate(zip(rows, causes, strict=True)):
            axes.annotate(
                f" {unparsed(cause)}", (max(row.share, 0), place), va="center", fontsize=7
            )
        axes.margins(x=0.25)
        axes.set(xlabel=f"share of the rise of the {self.measure}", title=unparsed(self._title()))
        save_figure(figure, path)
        return figure

    def __repr__(self):
        worst = f", most by {plain(self.layers[0].path)}" if self.layers else ""
        return f"<Explanation of {plain(self.name)}: {self.measure} {self.rise:+.4g}{worst}>"

    def __str__(self):
        if not self.layers:
            return "\n".join([self._title(), *self._notes()])
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left", box=None, pad_edge=False)
        for name in self._columns():
            text = name in ("layer", "method", "cause")
            table.add_column(name, justify="left" if text else "right", overflow="fold")
        for row in self.layers:
            table.add_row(*self._cells(row))
        return table_text(table, *self._notes(), width=150)

    def _repr_html_(self) -> str:
        if not self.layers:
            return "".join(f"<p>{escape(line)}</p>" for line in str(self).split("\n"))
        rows = [self._cells(row) for row in self.layers]
        return table_html(self._title(), self._columns(), rows, list(self._notes()))

    def _title(self) -> str:
        text = f"{plain(self.name)}: {self.measure} {self.before:.4g} -> {self.after:.4g}"
        if self.metric is not None:
            name, before, after = self.metric
            text += f", {plain(name)} {before:.4g} -> {after:.4g}"
        return text

    @property
    def _has_file(self) -> bool:
        return any(row.file_error is not None for row in self.layers)

    def _columns(self):
        return (*COLUMNS[:-1], *(IN_FILE if self._has_file else ()), COLUMNS[-1])

    def _cells(self, row):
        part = f"{row.share / self.rise:.0%}" if self.rise > 0 else "-"
        cause = "-" if row.cause is None else row.cause.name
        errors = (_percent(row.kernel_error), _percent(row.output_error))
        if self._has_file:
            errors = (*errors, f"{row.file_share:+.2g}", _percent(row.file_error))
        return [plain(row.path), row.method, f"{row.share:+.2g}", part, *errors, cause]

    def _notes(self):
        for row in self.layers[:EXPLAINED]:
            if row.cause is not None:
                yield f"{plain(row.path)}: {row.cause}"
            if row.cure is not None:
                gain = "" if row.cured is None else f"  # {self.measure} {row.cured:.4g}"
                yield f"    {row.cure}{gain}"
        if abs(self.rest) > 1e-6 * max(1.0, abs(self.before)):
            yield f"No layer's: {self.rest:+.2g}, by what the models differ in beside layers"
        if self.layers and not self.by_loss:
            yield "The loss does not tell the layers apart: the first ones change the outputs most."
        if not self.layers:
            yield "There is no difference: both models have the same layers and the same weights."
        else:
            yield f"On {self.examples:,} examples; layers put back in {self.orders} orders."


def _percent(value) -> str:
    return "-" if value is None else f"{value:.2%}"


def _as_data(row):
    data = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    data["cause"] = row.cause and row.cause.name
    data["evidence"] = row.cause and row.cause.evidence
    data["cure"] = row.cure and str(row.cure)
    return data
