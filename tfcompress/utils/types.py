"""The types that signatures name.

Keras ships no types, so for a type checker its layers, models and tensors are `Any`.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

Tensor: TypeAlias = Any  # a tensor or a variable of the Keras backend, or a NumPy array
Shape: TypeAlias = tuple[int, ...]  # of a kernel or another array
InputShape: TypeAlias = tuple[int | None, ...]  # None where a size is not known, as the batch's
Size: TypeAlias = int | tuple[int, ...] | list[int]  # one for all axes, or one for each
Rank: TypeAlias = int | float | str  # as it is given: a number, a share, or "auto" or "evbmf"
Path: TypeAlias = str | os.PathLike[str]  # of a file or folder
Config: TypeAlias = dict[str, Any]  # what `get_config` gives and `from_config` takes
Logs: TypeAlias = dict[str, Any] | None  # what Keras hands to callbacks


class BatchesByIndex(Protocol):
    """A `keras.utils.PyDataset`."""

    @property
    def num_batches(self) -> int | None: ...

    def __getitem__(self, index: int, /) -> Any: ...


class SecondOrder(Protocol):
    """A form `1/2 e^T H e` of the damage `e`: `tfcompress.metric.Diagonal` or `Kronecker`."""

    def apply(self, e: Any, /) -> np.ndarray: ...

    def quadratic(self, e: Any, /) -> float: ...


# What `fit` takes: arrays, tuples of them, a `tf.data.Dataset`, a `PyDataset`, a generator.
Data: TypeAlias = Iterable[Any] | BatchesByIndex
# What "nearest kernel" means: weights like the kernel, a form, or None for the sum of squares.
Metric: TypeAlias = np.ndarray | SecondOrder | None
Curvature: TypeAlias = Mapping[str, Any]  # the metric of each kernel, by the layer's path
# Which layers become what: `{name, path, glob, class or predicate: maker, or None to keep it}`.
Rules: TypeAlias = Mapping[Any, Callable[..., Any] | None]
Layers: TypeAlias = str | Iterable[str]  # globs over the names and paths of layers
ClassWeight: TypeAlias = Mapping[int, float] | None  # `{class: weight}`, as `fit` takes it
Loss: TypeAlias = str | Callable[..., Any] | dict[str, Any] | list[Any] | None  # as `compile` takes
Score: TypeAlias = str | Callable[..., Any]  # "magnitude", "obd" or a function of a kernel
Schedule: TypeAlias = float | Callable[[int], float]  # a number, or a function of the step
Scope: TypeAlias = Literal["global", "layer"]  # of a share: over all layers, or in each
# In a .tflite file.
Activations: TypeAlias = Literal["int8", "float32", "static_int8", "static_int16"]
Target: TypeAlias = Literal["bits", "tflite", "macs", "archive", "milliseconds"]  # of a budget
Budget: TypeAlias = float | str | Mapping[Target, float | str]  # a share, a number, "5ms", or two
# Epochs, `"auto"`, or a function `(student, teacher, data)`.
FineTune: TypeAlias = int | Literal["auto"] | Callable[..., Any]
Store: TypeAlias = Literal["fast", "small"]  # what a .tflite file is written for
Rest: TypeAlias = Literal["float32", "float16", "int8"]  # of kernels that nobody compressed
Verbose: TypeAlias = Literal["auto", 0, 1, 2]  # what long work shows, as in Keras' `fit`
Sample: TypeAlias = Any  # inputs of one call: an array, or a list or dict of them

# As Keras' layers take them: a name, a config, an object.
Activation: TypeAlias = str | Callable[..., Any] | None
Initializer: TypeAlias = str | Config | Callable[..., Any]
Regularizer: TypeAlias = str | Config | Callable[..., Any] | None
Constraint: TypeAlias = str | Config | Callable[..., Any] | None
