"""What each layer of a model adds to the loss in its .tflite file alone."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.diagnosis.case import Cause
from tfcompress.diagnosis.example_loss import ExampleLoss
from tfcompress.diagnosis.file.causes import CHANGED, FileCase, file_cause
from tfcompress.diagnosis.file.kernels import FileKernel, file_kernels
from tfcompress.diagnosis.file.parts import worst_part
from tfcompress.diagnosis.file.walk import Place, SideBySide, has_kernel
from tfcompress.diagnosis.shares import Share, share_of
from tfcompress.export.exported import exported
from tfcompress.graph.nodes import calls_its_graph
from tfcompress.graph.paths import walk
from tfcompress.graph.private_keras import layers_in
from tfcompress.tflite.taps import Taps
from tfcompress.utils.arrays import rows, spread, to_numpy
from tfcompress.utils.batches import examples_in
from tfcompress.utils.types import Loss, Path

MOST_NUMBERS = 2**26  # of all tensors of the file for all examples
LEAST_ERROR = 1e-3  # of the outputs of a place, below which its loss is not measured


@dataclass(frozen=True)
class FileFault:
    """What a layer does in the file that it does not in the model.

    Attributes:
        path: of the layer, or the name of the operation.
        error: of its outputs, from the same inputs, as a share of their root mean square.
        share: of the rise of the loss that the file alone has.
        cause: why, or None.
        tensor: the index of its outputs in the file; None where only its kernel was compared.
    """

    path: str
    error: float
    share: Share
    cause: Cause | None
    tensor: int | None


class FileDiagnosis:
    """Compares a file with its model, in which every kernel has a path.

    Args:
        model: the float model, whose loss is meant.
        small: the model of the file.
        opened: the same with its cells opened.
        source: the file's bytes or its path.
        examples: `(x, y, sample_weight)`.
        loss: as in `explain`.

    Attributes:
        layers: a `FileFault` for each place where the file differs.
        rise: the loss of the file without that of `small`, on the same examples.
        rest: the part of the rise that is no layer's.
        errors: of the file's tensors that belong to an operation of the model, by index.
    """

    def __init__(
        self,
        model: keras.Model,
        small: keras.Model,
        opened: keras.Model,
        source: Path | bytes,
        examples: tuple,
        loss: Loss = None,
    ) -> None:
        self.taps, self.opened, self.exported = Taps(source), opened, exported(small, examples[0])
        self.paths = {id(layer): path for path, (layer, _) in walk(opened).items()}
        layers = {path: layer for path, (layer, _) in walk(opened).items()}
        self.kernels = file_kernels(self.taps.graph.model, layers)
        self.numbers = self._chosen(examples[0])
        examples = tuple(rows(part, self.numbers) for part in examples)
        self.x = examples[0]
        self.loss = ExampleLoss(model, [examples], loss)
        self.order, self.arrays = self._inputs()
        outputs = keras.tree.flatten(opened(self.x, training=False))
        self.before = self._measured(outputs)
        self.layers, self.rest, self.errors = [], 0.0, {}
        self._check_shapes("outputs", outputs)
        if calls_its_graph(opened):
            file_outputs = self._side_by_side()
        else:
            file_outputs = self.taps.run(self.arrays)[0]
        after = self._measured(self._in_order(file_outputs))
        self.rise = float((after - self.before)[0].mean())
        self._rest(after)

    def __call__(self, x: Any, training: bool = False) -> list:
        """The outputs of the file, as a model would give them."""
        self.x = x
        return self._in_order(self.taps.run(self._inputs()[1])[0])

    def _chosen(self, x) -> np.ndarray:
        """The examples that are run, of as many as the file takes at once and memory allows."""
        count = examples_in(x)
        most = self.taps.batch or max(MOST_NUMBERS // max(self.taps.numbers, 1), 1)
        chosen = spread(count, most)
        return np.resize(chosen, most) if self.taps.batch else chosen  # some twice, if too few

    def _check_shapes(self, of: str, arrays: list) -> None:
        """Raises `ValueError` unless the file has inputs or outputs of the sizes of the model's."""
        indices = [int(i) for i in getattr(self.taps.subgraph, of)]
        file = [tuple(self.taps.graph.shape(i)[1:]) for i in indices]
        model = [tuple(array.shape[1:]) for array in arrays]
        sizes = [sorted(map(math.prod, shapes)) for shapes in (file, model)]
        known = all(n >= 0 for shape in file for n in shape)  # negative: of any size
        if len(file) != len(model) or (known and sizes[0] != sizes[1]):
            raise ValueError(
                f"Expected `tflite` to be the file of `small`, with {of} of the shapes {model} for "
                f"one example. Received: a file with {of} of the shapes {file}"
            )

    def _inputs(self) -> tuple[list, list]:
        self._check_shapes("inputs", self.exported.flat(self.x))
        names = self.exported.input_names()
        order = self.taps.order(names, "inputs")
        arrays = [None] * len(order)
        for place, array in zip(order, self.exported.flat(self.x), strict=True):
            index = int(self.taps.subgraph.inputs[place])
            shape = (len(array), *self.taps.graph.shape(index)[1:])
            kind = self.taps.graph.type(index).lower()
            array = np.asarray(array)
            fits = array.ndim == len(shape)
            array = array if fits else array.reshape([-1 if n < 0 else n for n in shape])
            arrays[place] = array if kind == "int8" else array.astype(kind)
        return order, arrays

    def _in_order(self, outputs) -> list:
        names = self.exported.output_names(self.exported.call(self.exported.flat(self.x)))
        return [outputs[place] for place in self.taps.order(names, "outputs")]

    def _measured(self, outputs) -> np.ndarray:
        return np.stack([self.loss([outputs]), self.loss.moved([outputs])])

    def _side_by_side(self) -> list:
        products = {id(k.layer): k.operator for k in self.kernels.values() if k.main}
        side = SideBySide(self.opened, self.taps, self.x, self.arrays, self.order, products)
        value = self.before
        for place in side.places():
            self.errors[place.tensor] = place.error
            if place.error < LEAST_ERROR:
                continue
            (outputs,) = side.suffix.outputs()
            after = self._measured(outputs)
            share = share_of(after - value, self.numbers)
            self.layers.append(self._fault(place, share, side.values))
            value = after
        self.last = value
        return side.outputs

    def _rest(self, after) -> None:
        """What the places do not explain: of one without any, of the kernels that differ."""
        last = self.last if self.layers else self.before
        left = share_of(after - last, self.numbers)
        changed = {p: k for p, k in self.kernels.items() if not k.change() < CHANGED}
        if calls_its_graph(self.opened) or not changed:
            self.rest = left.rise
            return
        path = max(changed, key=lambda p: np.nan_to_num(changed[p].change(), nan=np.inf))
        cause = file_cause(FileCase(path, self.taps, None, changed[path]))
        self.layers = [FileFault(path, changed[path].change(), left, cause, None)]

    def _fault(self, place: Place, share: Share, values: dict) -> FileFault:
        number = next((i for i, o in enumerate(place.operations) if has_kernel(o)), -1)
        operation = place.operations[number]
        path = self.paths.get(id(operation), operation.name)
        kernel, inputs = self.kernels.get(path), place.inputs[number]
        case = FileCase(
            path,
            self.taps,
            place,
            kernel,
            _folded(place.operations, number, kernel),
            to_numpy(inputs),
        )
        if isinstance(operation, keras.layers.Layer) and len(layers_in(operation)) > 1:
            case = worst_part(path, self.taps, self.kernels, values) or case
        return FileFault(case.path, place.error, share, file_cause(case), place.tensor)


def _folded(operations: list, number: int, kernel: FileKernel | None) -> list:
    """By what the file's kernel may be multiplied, where batch normalizations were folded into it.

    One that comes next multiplies outputs, one just before multiplies inputs, and neither need be
    folded.
    """
    if kernel is None:
        return [1.0]
    around = [operations[i] if 0 <= i < len(operations) else None for i in (number - 1, number + 1)]
    befores, afters, shape = [1.0], [1.0], kernel.values.shape
    if isinstance(around[0], keras.layers.BatchNormalization) and shape[-2] == len(
        _factor(around[0])
    ):
        befores.append(_factor(around[0])[:, None])
    if isinstance(around[1], keras.layers.BatchNormalization):
        factor = _factor(around[1])
        fits = factor.size == shape[-1] * shape[-2]  # of a depthwise convolution
        afters.append(factor.reshape(shape[-2:]) if fits else factor)
    return [before * after for before in befores for after in afters]


def _factor(norm) -> np.ndarray:
    spread = np.sqrt(to_numpy(norm.moving_variance) + norm.epsilon)
    return (1.0 if norm.gamma is None else to_numpy(norm.gamma)) / spread
