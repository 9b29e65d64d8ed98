"""Times .tflite files against each other, and counts the operators that the delegate runs."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike

import numpy as np

from tfcompress.reporting.notebook import table_html
from tfcompress.reporting.text import table_text, times_faster
from tfcompress.tflite.reader import load, operator_name, read
from tfcompress.tflite.run_in_child import peak_memory, time_files
from tfcompress.utils.checks import check_above_zero, whole_number
from tfcompress.utils.plain import plain
from tfcompress.utils.types import Path

COLUMNS = ("file", "bytes", "ms", "beside the first", "peak memory", "operators")


@dataclass(frozen=True)
class Timing:
    """The measurements of one file.

    Attributes:
        bytes: the file's size.
        milliseconds: the time of one run, the median over the rounds.
        ratio: how many times faster it is than the first file, the median of the rounds' ratios.
        ratio_low, ratio_high: the quartiles of these ratios.
        operators: the number of operators in the file.
        delegated: the names of the operators that the delegate runs.
        left: the names of the operators that the builtin kernels run.
        peak_bytes: by how much loading and running the file raises the peak memory of a fresh
            process; None where the system does not report it.
    """

    name: str
    bytes: int
    milliseconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    operators: int
    delegated: tuple[str, ...] = field(repr=False)
    left: tuple[str, ...] = field(repr=False)
    peak_bytes: int | None


@dataclass(frozen=True)
class Benchmark:
    """The timings of several files from one run; `print` shows a table.

    Attributes:
        timings: one `Timing` for each file; the first is the reference.
        rounds: how often each file was timed, in turn with the others.
        threads, batch: the arguments of `bench`.
    """

    timings: tuple[Timing, ...]
    rounds: int
    threads: int
    batch: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def __getitem__(self, name) -> Timing:
        for timing in self.timings:
            if timing.name == name:
                return timing
        names = [timing.name for timing in self.timings]
        raise KeyError(f"No file that was timed has this name. Expected one of {names}: {name!r}")

    def __repr__(self):
        times = (f"{plain(t.name)} {t.milliseconds:.3g} ms" for t in self.timings)
        return f"<Benchmark of {self.rounds} rounds: {', '.join(times)}>"

    def __str__(self):
        from rich.table import Table

        table = Table(title=self._title())
        for column in COLUMNS:
            is_text = column in ("file", "operators")
            table.add_column(column, justify="left" if is_text else "right")
        for row in self._rows():
            table.add_row(*row)
        return table_text(table, width=120) + "\n"

    def _title(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        run = f"{self.rounds} rounds, {threads}, batch {self.batch}"
        return f"{run}; in brackets the middle half of the rounds"

    def _rows(self) -> list[list[str]]:
        return [_cells(timing, timing is self.timings[0]) for timing in self.timings]

    def _repr_html_(self) -> str:
        return table_html(self._title(), COLUMNS, self._rows())


def bench(
    files: Mapping[str, Path | bytes] | Sequence[Path] | Path,
    threads: int = 1,
    batch: int = 1,
    rounds: int = 31,
    warmup: int = 3,
    seconds: float = 5.0,
    memory: bool = True,
    steps: int = 1,
) -> Benchmark:
    """Times .tflite files in turn in one process, under the same conditions.

    That is a process of its own with a limit of time, so that no file can take this one down. Each
    round runs every file once (a quick file several times) after one run that warms its
    caches. Compare files by the ratios within the rounds: milliseconds differ from run to run.

    Args:
        files: dict `{name: bytes or path}`, or paths; the first is the reference.
        threads: the number of threads that run each file.
        batch: the size of the first axis of the inputs, where the file leaves it free.
        rounds: the largest number of rounds. If they would take longer than `seconds`, there are
            fewer, but at least 7.
        warmup: the number of runs of each file before the first round.
        seconds: about how long all rounds together may take.
        memory: whether to measure the peak memory of each file in a process of its own.
        steps: the size of the second axis of the inputs, where the file leaves it free.

    Raises:
        ValueError: an argument is out of range; a file is no whole .tflite file, or LiteRT does not
            load it, or it ends the process or takes a minute for one run.

    Example:

    >>> import keras, tfcompress as tfc
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    >>> result = tfc.bench({"float32": tfc.to_tflite(model)}, rounds=7, memory=False)
    >>> result["float32"].ratio
    1.0
    """
    if isinstance(files, (str, PathLike)):
        files = [files]
    if isinstance(files, (list, tuple)):
        files = {str(path): path for path in files}
    if not isinstance(files, Mapping) or not files:
        raise ValueError(
            "Expected `files` to be a path, several of them, or a dict `{name: bytes or path}` of "
            f"at least one file. Received: {reprlib.repr(files)}"
        )
    for name, value, least in (
        ("threads", threads, 1),
        ("batch", batch, 1),
        ("steps", steps, 1),
        ("rounds", rounds, 1),
        ("warmup", warmup, 0),
    ):
        whole_number(value, name, least)
    check_above_zero(seconds, "seconds")
    blobs = {name: load(source) for name, source in files.items()}
    files_of = {name: read(blob) for name, blob in blobs.items()}
    times, nodes = time_files(blobs, threads, (batch, steps), rounds, warmup, seconds)
    reference, timings = np.array(times[0]), []
    for (name, blob), seconds_of, groups in zip(blobs.items(), times, nodes, strict=True):
        low, middle, high = np.quantile(reference / seconds_of, (0.25, 0.5, 0.75)).tolist()
        delegated, left = _delegated(files_of[name], groups)
        timings.append(
            Timing(
                name=name,
                bytes=len(blob),
                milliseconds=float(np.median(seconds_of)) * 1e3,
                ratio=middle,
                ratio_low=low,
                ratio_high=high,
                operators=len(delegated) + len(left),
                delegated=delegated,
                left=left,
                peak_bytes=peak_memory(blob, threads, (batch, steps)) if memory else None,
            )
        )
    return Benchmark(tuple(timings), len(reference), threads, batch)


def _delegated(file, groups):
    """The names of the operators of the main graph that the delegate runs, and of the others.

    A group of operators that the delegate took over is known by the tensors that go in and out:
    its operators lie between these.
    """
    operators = file.subgraphs[0].operators or []
    makers = {output: place for place, o in enumerate(operators) for output in o.outputs}
    taken = set()
    for inputs, outputs in groups:
        ends, waiting = set(inputs), list(outputs)
        while waiting:
            index = waiting.pop()
            place = makers.get(index)
            if index in ends or place is None or place in taken:
                continue
            taken.add(place)
            waiting += operators[place].inputs
    names = [operator_name(file, operator) for operator in operators]
    return (
        tuple(name for place, name in enumerate(names) if place in taken),
        tuple(name for place, name in enumerate(names) if place not in taken),
    )


def _cells(t, first) -> list[str]:
    low, high = sorted(r if t.ratio >= 1 else 1 / r for r in (t.ratio_low, t.ratio_high))
    return [
        plain(t.name),
        f"{t.bytes:,}",
        f"{t.milliseconds:.4g}",
        "" if first else f"{times_faster(1 / t.ratio)} ({low:.2f} to {high:.2f})",
        "-" if t.peak_bytes is None else f"{t.peak_bytes / 1e6:.1f} MB",
        _operators(t),
    ]


def _operators(timing) -> str:
    left = plain(", ".join(sorted(set(timing.left))))
    text = f"{len(timing.delegated)} of {timing.operators} delegated"
    return f"{text}; builtin: {left}" if left else text
