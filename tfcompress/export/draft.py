"""A .tflite file on its way from the model to its bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras

from tfcompress.export.exported import Exported
from tfcompress.export.kernels.choice import choose_form
from tfcompress.utils.types import Activations, Path, Rest, Store


@dataclass
class Draft:
    """What the passes of an export work on: each takes a draft and changes it in its place.

    Attributes:
        model: the model that the file computes, in which `FakeQuant` layers clip and do not round.
        source: the model that is exported.
        path: where the float32 file is kept.
        activations, store, rest, runtime, io: what was asked for, see `to_tflite`; `runtime` is
            `min_runtime` in numbers.
        batches: lists of arrays, one for each input, on which ranges are measured.
        lowered: the model of ordinary layers that was converted.
        file: the file, a `ModelT` of `tfcompress.tflite.reader`.
        float32: the file before anything in it was rounded, by which the end is verified.
        ranges: the least and the largest value of each activation of the float32 file.
        sites: the operators of the float32 file whose kernels are encoded.
        rounded: the tensors of the float32 file's main graph that the file rounds to int8; a dict
            has the smallest step of each.
    """

    model: Exported
    source: keras.Model
    path: Path
    activations: Activations = "int8"
    store: Store = "fast"
    rest: Rest = "float32"
    runtime: tuple[int, ...] = ()
    io: str = "float32"
    batches: Sequence[list] = ()
    lowered: keras.Model | None = None
    file: Any = field(default=None, repr=False)
    float32: Any = field(default=None, repr=False)
    ranges: dict[int, tuple[float, float]] = field(default_factory=dict)
    sites: list = field(default_factory=list)
    rounded: Any = ()

    @property
    def static(self) -> bool:
        """Whether all activations are integers with ranges that the file holds."""
        return self.activations in ("static_int8", "static_int16")

    @property
    def levels(self) -> int:
        """The steps in the range of such an integer."""
        return 2**16 - 1 if self.activations == "static_int16" else 2**8 - 1

    @property
    def choose(self) -> partial:
        """`choice.choose_form` with what was asked for."""
        activations = "int8" if self.static else self.activations
        store = "fast" if self.static else self.store
        return partial(choose_form, activations=activations, store=store, runtime=self.runtime)
