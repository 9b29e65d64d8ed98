"""Second moments of a layer's inputs, added up batch by batch: the `A` of `metric.Kronecker`.

Letters: b batch, n fan-in, G groups, N = examples x positions, m outputs of a group.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from tfcompress.measure.rows import (
    as_kernel,
    check_measurable,
    fan_in,
    fan_in_first,
    is_embedding,
    is_transposed,
    patches,
    per_axis,
)
from tfcompress.numerics.metric import Diagonal, Kronecker, inverter
from tfcompress.numerics.what_a_kernel_is import is_discrete, is_pruned
from tfcompress.utils.arrays import transposed
from tfcompress.utils.types import Tensor

LARGEST_BLOCK = 4096  # a larger fan-in is cut into blocks on the diagonal
PATCH_NUMBERS = 2**23  # of patches held at a time, 32 MB
FEW_ROWS = 64  # of many groups, which stay in the cache
LARGE_KERNEL = 2**18  # weights; the change of a larger one is in single precision
ROWS_FOR_INPUT = 16  # for each input of an output so many rows are enough to fit a kernel on
LEAST_ROWS = 2**10
EXAMPLES = 2**11, 2**14  # on which a model is fitted, at least and at most


def measure(
    layer: keras.layers.Layer,
    inputs: Tensor,
    g: np.ndarray | None = None,
    block: int = LARGEST_BLOCK,
) -> Kronecker | Diagonal:
    """Measures the metric of a layer's kernel on examples of the layer's own inputs.

    `A = mean x x^T` over examples and positions, where `x` holds the numbers that are multiplied by
    the weights of one output.

    Cost: `N n^2` multiply-adds. Memory: 96 MB of patches, and `A` itself, `G n^2` numbers, which
    are in single precision if `A` is cut into blocks.

    Args:
        layer: `Dense`, `Conv1D/2D/3D` (grouped too), `DepthwiseConv1D/2D`, `EinsumDense`,
            `Embedding`, `Conv1D/2D/3DTranspose`, or a compressed form of these. The fan-in of a
            transposed convolution is `(*space, i)`, in this order; at the border those outputs
            count too that its padding cuts off.
        inputs: an array of the layer's inputs, `(b, ...)`, or an iterator of such arrays.
        g: scale for each output, `(out,)`, or None for ones.
        block: the largest block of `A`; of a larger fan-in only the blocks on the diagonal are
            kept.

    Returns:
        A `Kronecker`. For an `Embedding`, whose inputs are one-hot, `A` is diagonal: the result is
        the `Diagonal` of the frequencies of the words, and of the mean squares of what a
        `ReversibleEmbedding` projects.

    Raises:
        ValueError: the layer is of another kind, or there are no inputs.

    >>> measure(keras.layers.Dense(3), np.ones((5, 2)))
    Kronecker(blocks=[2], groups=1, g=False)
    """
    moments = Moments(layer, block)
    for x in [inputs] if hasattr(inputs, "shape") else inputs:
        moments.add(x)
    return moments.metric(g)


class Moments:
    """The second moment of a layer's inputs, added up batch by batch; see `measure`.

    If it is also given the inputs that the layer had before its predecessors were changed,
    `adapted` returns the kernel that compensates for the change.

    Args:
        layer, block: as in `measure`.
        positions: at how many positions of an example, such as an image or a sentence, the inputs
            are taken, drawn again for each batch; None for all. A few are enough, since neighbours
            are much alike.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        block: int = LARGEST_BLOCK,
        positions: np.ndarray | None = None,
    ) -> None:
        check_measurable(layer)
        self.layer, self.block, self.positions = layer, block, positions
        self.random = np.random.default_rng(0)
        self.sums, self.count, self.drift = None, 0, None
        self.waiting, self.changes, self.kernel = [], [], None  # rows, and outputs that have moved
        self.squares, self.reversed_count = 0.0, 0

    def add(self, x: Tensor, before: Any = None) -> None:
        """Adds inputs of the layer, `(b, ...)`, and what they were before the change."""
        x = np.asarray(x)
        if is_embedding(self.layer):
            if hasattr(self.layer, "reverse_dtype") and x.dtype.kind == "f":
                self._add_reversed(x)
                return
            ids = x.astype("int64").reshape(-1)
            counted = np.bincount(ids, minlength=self.layer.input_dim).astype("float64")
            self.sums = counted if self.sums is None else self.sums + counted
            self.count += ids.size
            return
        draw = partial(patches, self.layer, positions=self.positions)
        size = max(1, PATCH_NUMBERS // max(1, draw(x[:1]).size))
        for start in range(0, len(x), size):
            # one seed for both, so that `moved` compares the same positions
            part, seed = slice(start, start + size), int(self.random.integers(2**31))
            rows = draw(x[part], seed=seed)  # (G, N, n)
            self.waiting.append(rows)
            self.count += rows.shape[1]
            if before is not None and before is not x:
                moved = draw(np.asarray(before)[part], seed=seed) - rows
                kernel = self._kernel(rows)
                self.changes.append(
                    (rows, moved if self._by_inputs(kernel) else _applied(moved, kernel))
                )
            waiting = sum(rows.size for rows in self.waiting)
            if waiting >= PATCH_NUMBERS // 2 or _side_by_side(rows):
                self._add_rows()

    def _add_reversed(self, x):
        """Adds vectors that a reversible embedding turns into logits by the table itself."""
        if getattr(self.layer, "tie_weights", True):
            rows = x.reshape(-1, x.shape[-1]).astype("float64")
            self.squares = self.squares + (rows**2).sum(0)
            self.reversed_count += len(rows)

    def metric(self, g: np.ndarray | None = None) -> Kronecker | Diagonal:
        """The metric, as `measure` returns it."""
        if not self.count:
            raise ValueError(f"There are no inputs to measure the layer {self.layer} on.")
        if is_embedding(self.layer):
            g = np.ones(self.layer.output_dim) if g is None else g
            reverse = self.squares / max(self.reversed_count, 1)  # each row meets all these inputs
            return Diagonal(np.outer(self.sums / self.count, g) + reverse)
        self._add_rows()
        return Kronecker([total / self.count for total in self.sums], g)

    def adapted(self) -> np.ndarray:
        """The kernel that on the new inputs comes closest to the outputs before the change.

        `w + A^-1 mean x (x_before - x)^T w`, damped: least squares around the kernel itself. If `A`
        is cut into blocks, each block is solved for the whole difference. A kernel with zeros or
        with few distinct values stays as it is, since least squares would know neither.
        """
        self.kernel = None  # which makes room for the copies below
        kernel = getattr(self.layer, "embeddings", None)
        kernel = self.layer.kernel if kernel is None else kernel
        dtype = "float64" if math.prod(kernel.shape) < LARGE_KERNEL else "float32"
        kernel = np.asarray(keras.ops.convert_to_numpy(kernel), dtype)
        self._add_rows()
        if is_embedding(self.layer) or self.drift is None:
            return kernel
        if is_pruned(kernel) or is_discrete(kernel):
            return kernel
        metric = self.metric()
        rows = np.array(fan_in_first(self.layer, kernel), order="C")
        del kernel
        adapted = metric.split(rows)  # a view
        by_inputs = self._by_inputs(adapted)
        for part, _, H in metric.parts():
            drift = self.drift[:, part].astype(dtype) / np.float32(self.count)
            adapted[:, part] += inverter(H, dtype)(drift @ adapted if by_inputs else drift)
        return as_kernel(self.layer, rows)

    def _add_rows(self):
        """Adds the rows that wait: a few products of many rows are faster than many of few."""
        if not self.waiting:
            return
        rows = _joined(self.waiting)  # (G, N, n)
        cuts = [slice(i, i + self.block) for i in range(0, rows.shape[2], self.block)]
        if self.sums is None:  # blocks are large, and double precision would not fit
            dtype = "float64" if len(cuts) == 1 else "float32"
            self.sums = [np.zeros((len(rows), *[rows[0, 0, c].size] * 2), dtype) for c in cuts]
        for total, cut in zip(self.sums, cuts, strict=True):
            total += _product(rows[:, :, cut], rows[:, :, cut])
        if self.changes:
            if len(self.changes) < len(self.waiting):  # some had not changed
                rows = _joined([rows for rows, _ in self.changes])
            changes = _joined([change for _, change in self.changes])  # (G, N, m)
            if self.drift is None:
                self.drift = np.zeros((len(rows), rows.shape[2], changes.shape[2]), "float32")
            for cut in cuts:
                self.drift[:, cut] += _product(rows[:, :, cut], changes)
        self.waiting, self.changes = [], []

    def _by_inputs(self, kernel):
        """Whether `x^T (x_before - x)` comes before its product with the kernel: less work."""
        return kernel.shape[1] < min(2 * kernel.shape[2], self.block)

    def _kernel(self, rows):
        """The kernel by groups, `(G, n, m)`."""
        if self.kernel is None:
            kernel = np.asarray(keras.ops.convert_to_numpy(self.layer.kernel), "float32")
            kernel = fan_in_first(self.layer, kernel)
            self.kernel = kernel.reshape(rows.shape[2], len(rows), -1).transpose(1, 0, 2)
        return self.kernel


def _joined(parts):
    return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)


def _product(rows, others):
    """`rows^T others` of each group, `(G, N, n)` and `(G, N, m)`, as `(G, n, m)`."""
    if not _side_by_side(rows):
        return transposed(rows) @ others
    found = np.zeros((len(rows), rows.shape[2], others.shape[2]))
    for start in range(0, rows.shape[1], FEW_ROWS):
        part, other = (x[:, start : start + FEW_ROWS] for x in (rows, others))
        for i in range(rows.shape[2]):
            found[:, i] += np.einsum("gN,gNm->gm", part[:, :, i], other)
    return found


def _applied(rows, kernel):
    """`rows kernel` of each group, `(G, N, n)` and `(G, n, m)`."""
    if not _side_by_side(rows):
        return rows @ kernel
    return sum(rows[:, :, i, None] * kernel[:, i, None] for i in range(rows.shape[2]))


def _side_by_side(rows):
    """Whether the same number of all groups lies together, which a matrix product would copy.

    It is so in a depthwise convolution.
    """
    return len(rows) > 1 and rows.strides[0] == rows.itemsize


def enough_positions(layer: keras.layers.Layer, examples: int) -> int:
    """At how many positions of each of so many examples the inputs of a layer are to be measured.

    Together they give 16 rows for each input of an output, at least 1,024. The stride of a
    transposed convolution spreads its inputs, so that each row holds only some of them.
    """
    strides = per_axis(layer.strides, len(layer.kernel_size)) if is_transposed(layer) else ()
    rows = max(ROWS_FOR_INPUT * math.prod(strides) * fan_in(layer), LEAST_ROWS)
    return -(-rows // max(examples, 1))


def block_of(layer: keras.layers.Layer) -> int:
    """The largest block of `A` to fit a layer in: that of a very large kernel takes less memory."""
    return LARGEST_BLOCK if fan_in(layer) <= 2 * LARGEST_BLOCK else LARGEST_BLOCK // 4


def enough_examples(layers: Iterable[keras.layers.Layer], shapes: Mapping[int, Any]) -> int:
    """How many examples are enough to fit the kernels of layers: from 2,048 to 16,384.

    A convolution sees many rows in each image, a Dense layer one.

    Args:
        layers: built layers.
        shapes: the input shapes of their calls, by the id of the layer.
    """
    least, most = EXAMPLES
    for layer in layers:
        for shape in shapes.get(id(layer), ()):
            places = math.prod(n or 1 for n in shape[1:-1]) if isinstance(shape, tuple) else 1
            least = max(least, ROWS_FOR_INPUT * fan_in(layer) // max(places, 1))
    return min(least, most)
