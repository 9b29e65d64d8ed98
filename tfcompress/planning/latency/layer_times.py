"""Times of layers by their shape and form: a table in a JSON file, and what its keys are."""

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import keras

from tfcompress.layers import CompressedLayer
from tfcompress.tflite.reader import operator_name, read, stored_shape, type_name
from tfcompress.utils.checks import is_number
from tfcompress.utils.types import Activations, InputShape, Path, Rest, Store
from tfcompress.utils.writers import write_file

EMPTY = "empty file"  # key of the file that does nothing, whose time is in that of every other one
NO_TIME = ("name", "trainable", "dtype", "fit", "macs", "seed")  # arguments that change no time
NO_TIMES = ("_initializer", "_regularizer", "_constraint")  # and the endings of others


@dataclass(frozen=True)
class LayerTimes:
    """Times of small .tflite files of one layer each, on one processor.

    Attributes:
        runtime: what ran the files, with its version.
        processor: where.
        threads: how many ran each file.
        milliseconds: the time of one run by the key of the file: the shape of the layer's input,
            the layers of the form with their arguments, and how the file stores kernels; and of
            whole files of models.
    """

    runtime: str
    processor: str
    threads: int = 1
    milliseconds: dict[str, float] = field(default_factory=dict, repr=False)

    def __str__(self):
        on = f"{self.runtime}, {self.processor}, {self.threads} thread(s)"
        rows = [f"{ms:9.4f} ms  {key}" for key, ms in self.milliseconds.items()]
        return "\n".join([f"{len(rows)} files; {on}", *rows])

    def of(
        self,
        chain: Sequence[keras.layers.Layer],
        uses: Sequence[InputShape],
        store: Store,
        rest: Rest,
        activations: Activations = "int8",
    ) -> float:
        """Milliseconds of a chain of layers, without those that any file takes.

        Args:
            chain: layers that stand in the place of one.
            uses: the shapes of that one's inputs, one for each of its uses.
            store, rest, activations: see `to_tflite`.

        Raises:
            ValueError: the table has no such form.
        """
        times = [self.of_file(form_key(chain, shape, store, rest, activations)) for shape in uses]
        return sum(max(time - self.of_file(EMPTY), 0.0) for time in times)

    def of_file(self, key: str) -> float:
        """Milliseconds of a whole file, by its key."""
        if key not in self.milliseconds:
            raise ValueError(
                f"No time is known of {key}. Expected a table of this model's layers in all forms "
                "that are tried, as `tfcompress.time_layers` or `tfcompress bench model.keras -o "
                "times.json` makes it; forms whose rank is found from data need it as a number."
            )
        return self.milliseconds[key]

    def write(self, path: Path) -> None:
        """Writes the table as JSON."""
        write_file(path, json.dumps(asdict(self), indent=1) + "\n")


def form_key(
    chain: Sequence[keras.layers.Layer],
    shape: InputShape,
    store: Store,
    rest: Rest = "float32",
    activations: Activations = "int8",
) -> str:
    """The key of a file of some layers, one behind the other, for one example.

    >>> form_key([keras.layers.Dense(8, "relu")], (None, 4), "fast")
    "[1, 4] Dense(units=8, activation='relu', use_bias=True); fast"
    """
    if None in shape[1:]:
        names = ", ".join(layer.name for layer in chain)
        raise ValueError(
            f"Times need inputs of known sizes. Expected a model whose `Input`s have them. "
            f"Received: {tuple(shape)} for {names}"
        )
    forms = " > ".join(map(_form, chain))
    whole = rest == "float32" or all(isinstance(part, CompressedLayer) for part in chain)
    terms = [store] if whole else [store, f"rest {rest}"]
    terms += [] if activations == "int8" else [activations]
    return f"{[1, *map(int, shape[1:])]} {forms}; {', '.join(terms)}"


def _form(layer):
    config = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in layer.get_config().items()
        if name not in NO_TIME and not name.endswith(NO_TIMES) and value is not None
    }
    return f"{type(layer).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"


def file_key(blob: bytes) -> str:
    """The key of a file by its operators, the shapes and types of its tensors, and their bytes.

    Files that differ in the numbers of their kernels alone have the same key.
    """
    file = read(blob)
    facts = [
        (
            [(operator_name(file, o), *_ends(o), _options(o)) for o in graph.operators or []],
            [(stored_shape(t), type_name(t), _bytes(file, t)) for t in graph.tensors],
        )
        for graph in file.subgraphs
    ]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return f"file of {len(file.subgraphs[0].operators or [])} operators, {digest}"


def _ends(operator):
    return [[int(i) for i in ends] for ends in (operator.inputs, operator.outputs)]


def _options(operator):
    both = operator.builtinOptions, operator.builtinOptions2
    return [sorted((k, str(v)) for k, v in vars(one).items()) for one in both if one is not None]


def _bytes(file, tensor):
    data = file.buffers[tensor.buffer].data
    return 0 if data is None else len(data)


def read_times(path: Path) -> LayerTimes:
    """Reads a table.

    Raises:
        ValueError: the file is none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        times = LayerTimes(**found)
        if not all(is_number(ms) and ms >= 0 for ms in times.milliseconds.values()):
            raise ValueError("a time is no number of milliseconds, 0 or more")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected a table of times, as `tfcompress bench model.keras -o times.json` writes "
            f"it. Received: {os.fspath(path)!r} ({error})"
        ) from error
    return times


def of_this_machine(threads: int = 1) -> LayerTimes:
    """An empty table of times that are measured here."""
    return LayerTimes(f"LiteRT {version('ai-edge-litert')}", processor(), threads)


def kept(times: LayerTimes) -> str:
    """The path of the file that keeps a table from run to run, in a folder that exists."""
    folder = os.path.join(_cache_folder(), "tfcompress")
    os.makedirs(folder, exist_ok=True)
    parts = "times", times.processor, times.runtime, f"{times.threads} threads"
    name = re.sub(r"[^a-z0-9.]+", "-", " ".join(parts).lower())
    return os.path.join(folder, f"{name}.json")


def processor() -> str:
    """The name of this machine's processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = re.findall(r"^(?:model name|Model)\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:  # no Linux
        names = []
    return (names or [platform.processor() or platform.machine()])[0].strip()


def _cache_folder() -> Any:
    home = os.path.expanduser("~")
    if os.name == "nt":
        return os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Caches")
    return os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
