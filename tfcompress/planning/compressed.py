"""The result of `compress` and `search`."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import keras

from tfcompress.export import to_tflite
from tfcompress.planning.attempts import REST
from tfcompress.planning.plan_result import Plan, amount
from tfcompress.planning.training.trainer import Training
from tfcompress.reporting.html_text import escape
from tfcompress.reporting.model_report import ModelReport, report
from tfcompress.utils.errors import ExportError, WriteError
from tfcompress.utils.plain import plain
from tfcompress.utils.types import Path

UNIT = {"tflite": ".tflite bytes", "archive": "archive bytes", "macs": "MACs", "milliseconds": "ms"}


@dataclass(frozen=True)
class Compressed:
    """The result of `compress`.

    Attributes:
        model: the compressed Keras model, without compiled state.
        tflite: the content of its .tflite file, which was verified.
        plan: the form of each layer.
        report: the size of each layer, compared with the original model.
        metric: the name of what is measured.
        before, after: the metric of the original and the compressed model on the validation data.
        size: in the unit of the target: bytes of the file or of the archive, bits, MACs, or
            milliseconds.
        float_size: of the original model, in the same unit.
        tried: `[(budget, size, score)]` of all budgets that were tried, in the order of the trials.
        asked: the arguments that say how small.
        seconds: that it took.
        training: what it gave and cost, a `Training`; None without.
    """

    model: keras.Model
    tflite: bytes
    plan: Plan
    report: ModelReport
    metric: str
    before: float
    after: float
    size: float
    float_size: float
    tried: list[tuple[float, float, float]]
    asked: str = ""
    seconds: float = 0.0
    training: Training | None = None

    def __repr__(self):
        return f"<Compressed {plain(self.model.name)}: {self._reached()}>"

    def _repr_html_(self) -> str:
        head = f"<p>{escape(repr(self))}</p><p>{escape(self._asked())}</p>"
        return f"{head}{self.plan._repr_html_()}{self.report._repr_html_()}"

    def _reached(self):
        target = self.plan.target
        size, whole = amount(self.size, target), amount(self.float_size, target)
        change = f"{plain(self.metric)} {self.before:.4f} -> {self.after:.4f}"
        return f"{size} of {whole} {UNIT.get(target, target)}, {change}"

    def _asked(self):
        return f"asked for: {self.asked}; it took {self.seconds:.0f} s"

    def __str__(self):
        target = self.plan.target
        tried = "".join(
            f"\nbudget {budget:.4g}: {amount(size, target)} {target}, {self.metric} {score:.4f}"
            for budget, size, score in self.tried
        )
        trained = "" if self.training is None else f"\ntraining: {self.metric} {self.training}"
        ends = f"{self._asked()}\nreached: {self._reached()}{trained}"
        return f"{self.plan}\n{self.report}\n{ends}{tried}"


def finish(
    compressor: Any, attempt: Any, path: Path | None, asked: dict[str, Any], begin: float
) -> Compressed:
    """Exports and verifies the model of an attempt.

    Args:
        compressor: the `Compressor`.
        attempt: one of its attempts.
        path: where to write the file; None writes none.
        asked: the arguments that say how small; None was not given.
        begin: the time at which the work began.

    Raises:
        ExportError, WriteError: see `to_tflite`. Their attribute `model` is the compressed model.
    """
    terms = {"store": compressor.store, "activations": compressor.activations, "rest": REST}
    try:
        blob = to_tflite(attempt.model, path, check=compressor.check, **terms)
    except (ExportError, WriteError) as error:
        error.model = attempt.model  # which may have been trained for hours
        error.add_note("The compressed model is the attribute `model` of this error.")
        raise
    return Compressed(
        model=attempt.model,
        tflite=blob,
        plan=attempt.plan,
        report=report(attempt.model, compressor.model, blob),
        metric=compressor.quality.name,
        before=compressor.before,
        after=attempt.score,
        size=attempt.size,
        float_size=compressor.float_size,
        tried=compressor.tried,
        asked=", ".join(f"{name}={value!r}" for name, value in asked.items() if value is not None),
        seconds=perf_counter() - begin,
        training=attempt.training,
    )
