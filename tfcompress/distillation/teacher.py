"""The teacher of a `Distiller`, which runs in inference mode only, and its stored outputs."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.distillation.losses import to_logits
from tfcompress.graph.features import Tapped, output_activations
from tfcompress.utils.batches import batches
from tfcompress.utils.checks import whole_number
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Data, Path, Tensor
from tfcompress.utils.writers import replacing

CACHE_KEYS = {"inputs", "teacher"}


class Teacher:
    """One teacher or several, as a function of the student's inputs.

    It is not a Keras object, so that Keras neither tracks, nor saves, nor freezes its models.
    """

    def __init__(
        self, models: list[keras.Model], taps: Any, preprocess: Callable[[Any], Any] | None
    ) -> None:
        self.models = models
        self.preprocess = preprocess
        self.runs = [Tapped(model, taps if model is models[0] else ()) for model in models]
        self.activations = [output_activations(model) for model in models]

    def __call__(self, x: Tensor) -> tuple:
        """The logits of each output, averaged over the teachers, followed by the features."""
        if self.preprocess is not None:
            x = self.preprocess(x)
        forwards = [run(x, training=False) for run in self.runs]
        logits = [
            _logits(forward, activations)
            for forward, activations in zip(forwards, self.activations, strict=True)
        ]
        outputs = [sum(same) / len(same) for same in zip(*logits, strict=True)]
        return tuple(ops.stop_gradient(a) for a in [*outputs, *forwards[0].features])


class TeacherCache(keras.utils.PyDataset):
    """Data together with the teacher's outputs for each example; see `Distiller.cache_teacher`.

    As a dataset, for `fit(cache)`, it yields batches in a new random order in each epoch, and reads
    from a memory-mapped file only what a batch needs. The arrays themselves are there for
    `fit(cache.x, cache.y)` and to build other pipelines.

    Attributes:
        x: `{"inputs": inputs, "teacher": (logits, ..., features, ...)}`, one array for each output
            and each hint. A `Distiller` accepts it in place of plain inputs.
        y, sample_weight: those of the data, or None.
        batch_size, shuffle: how the batches are made; both can be changed.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor = None,
        sample_weight: Tensor = None,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.x, self.y, self.sample_weight = x, y, sample_weight
        self.batch_size, self.shuffle = batch_size, shuffle
        whole_number(batch_size, "batch_size")
        self._random = np.random.default_rng(whole_number(seed, "seed", least=0))
        self._order = np.arange(len(x["teacher"][0]))
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self._order) // self.batch_size)

    def __getitem__(self, index):
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        parts = (self.x, self.y, self.sample_weight)
        x, y, weight = keras.tree.map_structure(lambda a: a if a is None else a[rows], parts)
        return (x,) if y is None else (x, y) if weight is None else (x, y, weight)

    def on_epoch_end(self) -> None:
        if self.shuffle:
            self._random.shuffle(self._order)


def split(x: Tensor) -> tuple[Tensor, tuple | None]:
    """The student's inputs, and the teacher's stored outputs, or None without a cache."""
    if isinstance(x, dict) and set(x) == CACHE_KEYS:
        return x["inputs"], tuple(x["teacher"])
    return x, None


def required(teacher: Teacher | None) -> Teacher:
    """The teacher; raises `ValueError` if there is none."""
    if teacher is None:
        raise ValueError(
            "This Distiller was saved without its teacher. Give it one with `set_teacher`."
        )
    return teacher


def targets_of(teacher: Teacher | None, x: Tensor, count: int) -> tuple:
    """The teacher's outputs and features for a batch, computed or from a cache.

    Args:
        teacher: a `Teacher`, or None if `x` has stored outputs.
        x: inputs, or what a `TeacherCache` yields in their place.
        count: how many outputs and features are expected.
    """
    inputs, stored = split(x)
    if stored is None:
        return required(teacher)(inputs)
    if len(stored) != count:
        raise ValueError(
            f"Expected {count} arrays of the teacher: its outputs and the features of the hints. "
            f"Received: {len(stored)}. Make the cache with `cache_teacher` of this Distiller."
        )
    return stored


def cached(
    teacher: Teacher, student: keras.Model, data: Data, path: Path | None, batch_size: int
) -> TeacherCache:
    """Runs the teacher once over data for a student; see `Distiller.cache_teacher`."""
    given = isinstance(data, (tuple, list, dict)) or hasattr(data, "shape")
    columns = {}
    with contextlib.ExitStack() as files:
        for batch in progress(batches(student, data, 256, unknown_labels=True), "Teacher"):
            # A dataset may yield another order next time, so its examples are kept as well.
            rows = (teacher(batch[0]), () if given else batch)
            for index, part in enumerate(keras.tree.flatten(rows)):
                if part is not None:
                    if index not in columns:
                        columns[index] = _Column(path, index, files)
                    columns[index].append(ops.convert_to_numpy(part))
        for column in columns.values():  # all of them, before any takes the place of an old one
            column.finish()
    stored = [
        columns[i].array() if i in columns else None for i in range(len(keras.tree.flatten(rows)))
    ]
    outputs, examples = keras.tree.pack_sequence_as(rows, stored)
    if given:
        examples = data if isinstance(data, tuple) else (data,)
        examples = keras.tree.map_structure(
            lambda a: a if a is None else ops.convert_to_numpy(a), examples
        )
    x, *rest = examples
    return TeacherCache({"inputs": x, "teacher": outputs}, *rest, batch_size=batch_size)


class _Column:
    """Rows that are collected in memory, or in a `.npy` file that is memory-mapped afterwards.

    Args:
        folder: a path, or None for memory.
        index: the number of the column, which names its file.
        files: an `ExitStack`; the file takes its place when that closes.
    """

    def __init__(self, folder: Path | None, index: int, files: contextlib.ExitStack) -> None:
        self.parts, self.rows, self.file = [], 0, None
        if folder is not None:
            folder = pathlib.Path(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / f"{index}.npy"
            self.file = files.enter_context(replacing(self.path))

    def append(self, part: np.ndarray) -> None:
        if part.dtype.kind == "V":  # bfloat16, which a `.npy` file cannot name
            part = part.astype(np.float32)
        if self.file is None:
            self.parts.append(np.array(part))
            return
        self.template = part
        if not self.rows:
            self._header(0)
        self.rows += len(part)
        self.file.write(np.ascontiguousarray(part).tobytes())

    def finish(self) -> None:
        if self.file is not None:
            self.file.seek(0)
            self._header(self.rows)
            self.file.flush()

    def array(self) -> np.ndarray:
        if self.file is None:
            return np.concatenate(self.parts)
        return np.load(self.path, mmap_mode="r")

    def _header(self, rows):
        """Writes the header; NumPy pads it, so that the number of rows can be filled in later."""
        header = np.lib.format.header_data_from_array_1_0(self.template)
        header["shape"] = (rows, *self.template.shape[1:])
        np.lib.format.write_array_header_1_0(self.file, header)


def _logits(forward, activations):
    outputs = keras.tree.flatten(forward.outputs)
    activations = activations or [None] * len(outputs)
    return [to_logits(a, kind) for a, kind in zip(outputs, activations, strict=True)]
