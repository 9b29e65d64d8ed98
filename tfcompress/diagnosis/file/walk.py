"""Walks through a model and its .tflite file side by side, each operation on the file's numbers.

Each operation of the Keras model gets what the file has computed so far, and what it makes of that
is compared with the file's own next tensor: so an error is seen where it arises and not in what
follows. A tensor of the file belongs to the operation whose outputs it is most like, among those
that come from the operation's inputs; operations that the file has fused are passed over.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.diagnosis.case import kernel_in
from tfcompress.export.kernels.kernel import CHANNEL_AXIS
from tfcompress.graph.nodes import operation_of
from tfcompress.graph.private_keras import layers_in
from tfcompress.graph.suffix import Suffix
from tfcompress.tflite.reader import operator_name
from tfcompress.tflite.taps import Taps
from tfcompress.utils.arrays import to_numpy

MOST_FUSED = 4  # operations after one that the file may have made one with it
TIGHT = 0.03  # error below which they are the same but for rounding
PRODUCTS = set(CHANNEL_AXIS) - {"GATHER"}
LOOSE = 0.3  # error, as a share of the outputs, above which tensors are alike by chance at best
BETTER = 0.5  # a later operation fits if its error is so many times smaller
SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Place:
    """Where an operation's outputs stand in the file.

    Attributes:
        operations: the operation, after those that the file has fused with it.
        inputs: the first input of each of them.
        tensor: its index in the file.
        expected: what the operations make of the file's numbers.
        actual: what the file makes of them.
    """

    operations: list = field(repr=False)
    inputs: list = field(repr=False)
    tensor: int
    expected: np.ndarray = field(repr=False)
    actual: np.ndarray = field(repr=False)

    @property
    def error(self) -> float:
        """The root mean square of the difference, as a share of that of `expected`."""
        return distance(self.expected, self.actual)


def distance(expected: np.ndarray, actual: np.ndarray) -> float:
    """The root mean square of a difference as a share; infinite where numbers are not finite."""
    size = max(float(np.square(expected, dtype="float64").sum()), 1e-30)
    with np.errstate(invalid="ignore", over="ignore"):
        change = float(np.square(actual.ravel() - expected.ravel(), dtype="float64").sum())
    return float(np.sqrt(change / size)) if np.isfinite(change) else np.inf


class SideBySide:
    """The walk.

    Args:
        small: a model whose call runs its graph.
        taps: of its file.
        x: inputs of the model.
        arrays: the same for the file, in its order.
        order: the places of the model's inputs among those of the file.
        products: `{id(layer): operator}` of the layers whose kernels are known in the main graph.
    """

    def __init__(
        self,
        small: Any,
        taps: Taps,
        x: Any,
        arrays: list,
        order: list[int],
        products: dict[int, Any],
    ) -> None:
        self.suffix, self.taps, self.products = Suffix(small, [x]), taps, products
        self.outputs, self.values = taps.run(arrays)
        self.used, self.bits, self.since = set(), {}, {}
        self.count = len(arrays[0])
        nodes = self.suffix.nodes
        self.readers = Counter(id(t) for node in nodes for t in node.input_tensors)
        self.readers.update(id(t) for t in self.suffix.graph.outputs)
        inputs = [int(i) for i in taps.subgraph.inputs]
        self.inputs = dict(zip(self.suffix.graph.inputs, (inputs[i] for i in order), strict=True))

    def places(self) -> Iterator[Place]:
        """The places, one by one; from each on, the model goes on with the file's numbers."""
        for tensor, index in self.inputs.items():
            self.bits[id(tensor)] = self.taps.origins[index]
            rounded = self._rounded_input(index)
            if rounded is not None:
                expected = to_numpy(self.suffix.held[0][id(tensor)])
                actual = self.values[rounded]
                place = Place([operation_of(tensor)], [expected], rounded, expected, actual)
                yield self._placed(place, tensor)
        while self.suffix.position < len(self.suffix.nodes):
            chain = self._chain()
            bits = self._bits_of(chain[0])
            found = self._match(chain, bits)
            for node in chain[: 1 if found is None else found[0] + 1]:
                since = [o for t in node.input_tensors for o in self.since.get(id(t), [])]
                entered = [self.suffix.held[0].get(id(t)) for t in node.input_tensors[:1]]
                self.suffix.step()
                for tensor in node.outputs:
                    self.bits[id(tensor)] = bits
                    self.since[id(tensor)] = [*since, (node.operation, *entered)]
            if found is not None:
                step, index, expected = found
                tensor = chain[step].outputs[0]
                operations, inputs = map(list, zip(*self.since[id(tensor)], strict=True))
                place = Place(operations, inputs, index, expected, self.values[index])
                yield self._placed(place, tensor)
                if not np.isfinite(place.actual).all():  # nothing that follows can be compared
                    return

    def _placed(self, place, tensor):
        self.used.add(place.tensor)
        self.since[id(tensor)] = []
        self.bits[id(tensor)] = self.bits.get(id(tensor), 0) | self.taps.origins[place.tensor]
        held = keras.ops.convert_to_tensor(
            place.actual.reshape(place.expected.shape).astype(place.expected.dtype)
        )
        self.suffix.hold(tensor, [held])
        return place

    def _bits_of(self, node) -> int:
        bits = 0
        for tensor in node.input_tensors:
            bits |= self.bits.get(id(tensor), 0)
        return bits

    def _rounded_input(self, index) -> int | None:
        """The tensor of an input in integers, if the file rounds it at once."""
        for tensor, operator in self.taps.makers.items():
            if list(operator.inputs) == [index] and self.taps.ends(tensor):
                return tensor if self.values[tensor].shape == self._shape(index) else None
        return None

    def _shape(self, index):
        return (self.count, *self.taps.graph.shape(index)[1:])

    def _chain(self) -> list:
        """The next node, and those that may be fused with it: each the only reader of the last."""
        nodes = self.suffix.nodes[self.suffix.position :]
        chain = [nodes[0]]
        for node in nodes[1:]:
            last = chain[-1].outputs[0]
            alone = self.readers[id(last)] == 1 and list(map(id, node.input_tensors)) == [id(last)]
            if not alone or len(chain) > MOST_FUSED:
                break
            chain.append(node)
        return chain

    def _match(self, chain, bits):
        """`(step, tensor, expected)` of the first node of a chain, or None if it has no place."""
        (rows,) = zip(*self.suffix.run_ahead(chain), strict=True)
        expected = [to_numpy(outputs[0]) for outputs in rows]
        if len(rows[0]) > 1 or expected[0].dtype.kind != "f":
            return None
        before = [self.suffix.held[0].get(id(t)) for t in chain[0].input_tensors]
        if len(before) == 1 and _is_same(to_numpy(before[0]), expected[0]):
            return None
        nearest = self._nearest(expected[0], bits)
        errors = [nearest[0]]
        if errors[0] >= TIGHT:
            errors += [self._nearest(one, bits)[0] for one in expected[1:]]
        if min(errors[1:], default=np.inf) < BETTER * errors[0]:
            return None  # fused with what follows
        if errors[0] < LOOSE:
            return 0, nearest[1], expected[0]
        own = next((i for i, n in enumerate(chain) if i and has_kernel(n.operation)), len(chain))
        return self._broken(chain[0].operation, expected[:own], bits)

    def _candidates(self, expected, bits):
        return [
            index
            for index in self.taps.tensors
            if index not in self.used
            and self.values[index].size == expected.size
            and self.taps.origins[index] & bits == bits
        ]

    def _nearest(self, expected, bits) -> tuple:
        """The error and the index of the first of the tensors that are most like some outputs."""
        found = [(distance(expected, self.values[i]), i) for i in self._candidates(expected, bits)]
        return min(found, key=lambda row: row[0], default=(np.inf, None))

    def _broken(self, operation, expected, bits):
        """The place of an operation whose outputs the file has nowhere.

        It lies between the operation's last product and the next one. Of the tensors there that
        are not mixed again with others of the operation, it is the one that goes with some outputs
        of the chain most closely; where none does, the last one.
        """
        found, order = [], self.taps.tensors.index
        region = self._region(operation, bits)
        for step, one in enumerate(expected):
            candidates = self._candidates(one, bits)
            near = [i for i in candidates if i in region and not self._is_mixed(i, region)]
            found += [(_likeness(one, self.values[i]), step, i) for i in near or candidates]
        if not found:
            return None
        best = max(found, key=lambda row: (row[0], row[1], order(row[2])))
        return best[1], best[2], expected[best[1]]

    def _region(self, operation, bits) -> list[int]:
        """The tensors that come from some inputs, from an operation's last product to the next."""
        layers = layers_in(operation) if isinstance(operation, keras.layers.Layer) else []
        own = [int(self.products[id(o)].outputs[0]) for o in layers if id(o) in self.products]
        coming = [i for i in self.taps.tensors if self.taps.origins[i] & bits == bits]
        starts = [place for place, index in enumerate(coming) if index in own]
        start = max(starts, default=None)
        if start is None and has_kernel(operation):
            start = next((n for n, i in enumerate(coming) if self._is_product(i)), None)
        region = coming if start is None else coming[start:]
        ends = (n for n, i in enumerate(region) if self._is_product(i) and (n or start is None))
        return region[: next(ends, len(region))]

    def _is_product(self, index) -> bool:
        """Whether a tensor is a product with a matrix that comes from constants alone."""
        operator = self.taps.makers[index]
        code = operator_name(self.taps.graph.model, operator)
        constants = (i for i in operator.inputs if i >= 0 and i not in self.taps.origins)
        return code in PRODUCTS and any(len(self.taps.graph.shape(i)) > 1 for i in constants)

    def _is_mixed(self, index, region) -> bool:
        """Whether what comes from a tensor meets, in the region, what does not come from it."""
        for other in region:
            reads = [i for i in self.taps.makers[other].inputs if i in self.taps.origins]
            comes = [bool(self.taps.origins[i] >> index & 1) for i in reads]
            if any(comes) and not all(comes):
                return True
        return False


def has_kernel(operation: Any) -> bool:
    """Whether an operation is a layer with a kernel, or with parts."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    return len(layers_in(operation)) > 1 or kernel_in([operation]) is not None


def _is_same(before, after) -> bool:
    return before.size == after.size and distance(before, after) < SAME


def _likeness(expected, actual) -> float:
    """The correlation of two arrays; 1 where the file's numbers are not finite."""
    a, b = expected.ravel().astype("float64"), actual.ravel().astype("float64")
    if not np.isfinite(b).all():
        return 1.0
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else 0.0
