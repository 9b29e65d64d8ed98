"""Reports what a model takes: stored bits, bytes in a file, multiply-accumulates."""

import dataclasses
import gzip
import json
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfcompress.archive.model_files import model_of
from tfcompress.graph.paths import walk
from tfcompress.measure.macs import macs
from tfcompress.reporting.file_constants import check_is_file_of, constants_of
from tfcompress.reporting.html import page
from tfcompress.reporting.layer_row import (
    LayerRow,
    float_kernels,
    kernels_of,
    layer_row,
    rows_by_original,
    variable_bits,
    why_left,
)
from tfcompress.reporting.notebook import report_html
from tfcompress.reporting.text import text
from tfcompress.rewriting.counterparts import link_owners
from tfcompress.tflite.reader import load
from tfcompress.tflite.runtimes import min_runtime
from tfcompress.utils.checks import check_above_zero, check_ending, check_share
from tfcompress.utils.plain import plain
from tfcompress.utils.types import Path
from tfcompress.utils.writers import write_file


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """The facts about a .tflite file.

    Attributes:
        bytes, gzip_bytes: its size, and its size after `gzip -9`.
        latency_ratio: its time per run divided by that of the baseline's float32 file (below 1 is
            faster); None without a baseline, or where one of the two does not run on random
            inputs.
        min_runtime: the oldest LiteRT that is known to run it correctly (see
            `tfcompress.tflite.runtimes`).
        samples: the number of samples on which `to_tflite` verified it; None where it was read from
            a path or another converter made it.
        largest_difference: the largest difference from the model's outputs on them, in units of an
            output's root mean square.
    """

    bytes: int
    gzip_bytes: int
    latency_ratio: float | None
    min_runtime: str
    samples: int | None = None
    largest_difference: float | None = None


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The result of `report`, as data, as text and as a page.

    Attributes:
        name: the name of the model.
        rows: the layers with a kernel, in the order of the model; with a baseline one row for each
            of its layers, with the `parts` that stand in its place.
        left: `{path: reason}` of the layers that are not compressed.
        other_bits: the stored bits of biases, norms and all else that is no kernel.
        float_bits: the bits in float32 of all kernels of the baseline, or else of the model.
        macs: multiply-accumulates per sample of the whole model, None if those of a layer are
            unknown.
        file: the facts about the .tflite file, or None.
    """

    name: str
    rows: tuple[LayerRow, ...]
    left: dict[str, str]
    other_bits: int
    float_bits: int
    macs: int | None
    file: FileFacts | None = None

    @property
    def bits(self) -> int:
        """The stored bits of all kernels."""
        return sum(row.bits for row in self.rows)

    @property
    def ratio(self) -> float:
        """How many times fewer bits all kernels take than in float32."""
        return self.float_bits / max(self.bits, 1)

    def to_json(self, indent: int | None = 2) -> str:
        """All data as JSON."""
        data = dataclasses.asdict(self) | {"bits": self.bits, "ratio": self.ratio}
        for row, source in zip(data["rows"], self.rows, strict=True):
            row["ratio"] = source.ratio
        return json.dumps(data, indent=indent)

    def to_html(
        self,
        path: Path,
        points: Mapping[str, tuple[float, float]] | None = None,
        accuracy: float | None = None,
        explanation: Any = None,
    ) -> None:
        """Writes one self-contained HTML page with the sizes of layers before and after.

        Args:
            path: the path of the page.
            points: dict `{name: (bytes, accuracy)}` of models to plot, or None.
            accuracy: of this model, to be shown with the totals, or None.
            explanation: of where its accuracy went, as from `tfc.explain`, or None.

        Raises:
            ValueError: the path has the ending of another format; `accuracy` is not in [0, 1]; a
                point has no bytes.
            WriteError: the file cannot be written.
        """
        check_ending(path, ".html", ".htm")
        for name, point in (points or {}).items():
            if not isinstance(point, (tuple, list)) or len(point) != 2:
                raise ValueError(
                    "Expected `points` as a dict `{name: (bytes, accuracy)}`. "
                    f"Received: {point!r} of {name!r}"
                )
            check_above_zero(point[0], f"bytes of {name}")
        if accuracy is not None:
            check_share(accuracy, "accuracy")
        write_file(path, page(self, points, accuracy, explanation))

    def print(self, print_fn: Callable[[str], None] = print) -> None:
        """Prints the tables, as one string passed to `print_fn`."""
        print_fn(str(self))

    def __repr__(self):
        sizes = f"{self.bits:,} bits of {self.float_bits:,} ({self.ratio:.1f} times smaller)"
        return f"<ModelReport {plain(self.name)}: {len(self.rows)} layers, {sizes}>"

    def __str__(self):
        return text(self)

    def _repr_html_(self) -> str:
        return report_html(self)


def report(
    model: keras.Model | Path,
    baseline: keras.Model | Path | None = None,
    tflite: Path | bytes | None = None,
) -> ModelReport:
    """Reports the sizes and costs of each layer of a model and of the whole.

    The stored bits of a kernel and its bytes in a .tflite file can differ: each has its own column.

    Args:
        model: a built `keras.Model`, or the path of a `.keras`, `.h5` or `.tfc` file.
        baseline: the model that it was made from, or its path. Ratios then refer to its kernels,
            and the latency to its float32 .tflite file, which is made for this.
        tflite: the bytes or the path of the model's .tflite file.

    Returns:
        A `ModelReport`.

    Raises:
        ValueError: the model is not built; the file is truncated or no .tflite file.
        OSError: there is no such file.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="fc")])
    >>> row = report(model).rows[0]
    >>> row.path, row.bits, row.macs
    ('fc', 1024, 32)
    """
    model, baseline = model_of(model), model_of(baseline)
    layers = {path: layer for path, (layer, _) in walk(model).items()}
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so that its kernels have no sizes. Call it on "
            "data or `build` it first."
        )
    before = {} if baseline is None else float_kernels(baseline)
    costs = macs(model)
    rows = [
        layer_row(path, layer, costs[path]) for path, layer in layers.items() if kernels_of(layer)
    ]
    if before:
        rows = rows_by_original(rows, before, link_owners(model, walk(baseline)))
    kernels = {id(v) for layer in layers.values() for v in kernels_of(layer)}
    made = ModelReport(
        name=model.name,
        rows=tuple(rows),
        left=_left(layers),
        other_bits=sum(variable_bits(v) for v in model.weights if id(v) not in kernels),
        float_bits=sum(row.float_bits for row in rows),
        macs=None if None in costs.values() else sum(costs.values()),
    )
    return made if tflite is None else _with_file(made, model, baseline, tflite)


def _left(layers):
    """`{path: reason}`; a layer whose kernels are those of its parts is told of by these."""
    with_kernels = [path for path, layer in layers.items() if kernels_of(layer)]
    return {
        path: reason
        for path, layer in layers.items()
        if (reason := why_left(layer)) and not any(p.startswith(f"{path}/") for p in with_kernels)
    }


def _with_file(made, model, baseline, tflite):
    blob = load(tflite)
    check_is_file_of(model, blob)
    constants = constants_of(model, blob)
    rows = [_in_file(row, constants) for row in made.rows]
    facts = FileFacts(
        bytes=len(blob),
        gzip_bytes=len(gzip.compress(blob, 9)),
        latency_ratio=_latency_ratio(baseline, blob),
        min_runtime=min_runtime(blob),
        samples=getattr(tflite, "samples", None),
        largest_difference=max(getattr(tflite, "differences", {}).values(), default=None),
    )
    return dataclasses.replace(made, rows=tuple(rows), file=facts)


def _in_file(row, constants):
    """A row with the bytes that its constants, or those of its parts, take in the file."""
    if row.parts:
        parts = tuple(_in_file(part, constants) for part in row.parts)
        sizes = [part.file_bytes for part in parts if part.file_bytes is not None]
        return dataclasses.replace(
            row,
            parts=parts,
            file_bytes=sum(sizes) if sizes else None,
            encodings=tuple(dict.fromkeys(e for part in parts for e in part.encodings)),
            subgraphs=tuple(sorted({n for part in parts for n in part.subgraphs})),
            full_size=any(part.full_size for part in parts),
        )
    tensors = sorted(constants.get(row.path, []), key=lambda t: -t.bytes)
    if not tensors:
        return row
    return dataclasses.replace(
        row,
        file_bytes=sum(t.bytes for t in tensors),
        encodings=tuple(dict.fromkeys(t.encoding for t in tensors)),
        subgraphs=tuple(sorted({t.subgraph for t in tensors})),
        full_size=row.bits < row.float_bits and any(_is_full(t, row) for t in tensors),
    )


def _is_full(tensor, row):
    sizes = row.kernel_shape if isinstance(row.kernel_shape[0], tuple) else [row.kernel_shape]
    return tensor.encoding == "FLOAT32" and math.prod(tensor.shape) in map(math.prod, sizes)


def _latency_ratio(baseline, blob):
    """None where the files cannot be made or run on inputs that nobody has given."""
    free = [x for x in keras.tree.flatten(getattr(baseline, "inputs", [])) if None in x.shape[1:]]
    if baseline is None or free:  # lengths that nobody has given
        return None
    from tfcompress.export import unverified
    from tfcompress.reporting.benchmark import bench

    try:
        files = {"float32": unverified(baseline, activations="float32"), "model": blob}
        return 1 / bench(files, memory=False)["model"].ratio
    except Exception as error:  # Keras, the converter and a model's own `call` raise theirs
        warnings.warn(f"The time of the file is not known: {error}", stacklevel=3)
        return None
