"""What a changed kernel does to a layer's products, and how much of the error a repair takes away.

Letters: n fan-in, M outputs of all groups, N rows of inputs.
"""

import math

import keras
import numpy as np

from tfcompress.measure.rows import as_kernel, can_measure, fan_in_first, patches

MOST_ROWS = 4096
LEAST_ROWS = 16  # with fewer, a factor for each output would explain nearly anything
POSITIONS = 64  # of an image, at which the inputs of a convolution are taken


class Product:
    """The products of a layer's inputs with the kernel of the float layer and with another one.

    Args:
        layer: the float layer, of which the way of multiplying is known.
        before, now: its kernel, and the one in its place, of the same shape.
        inputs: arrays of inputs that the layer gets.

    Attributes:
        before, now: the kernels as matrices `(n, M)`.
        x: rows of inputs `(G, N, n)`; None where the layer's way of multiplying is not known, so
            that all inputs count the same.
        error: the sum of the squared errors of the products, by output.
    """

    def __init__(
        self, layer: keras.layers.Layer, before: np.ndarray, now: np.ndarray, inputs: list
    ) -> None:
        self.layer, self.x, groups, n = layer, _rows(layer, inputs), 1, None
        if self.x is not None:
            groups, _, n = self.x.shape
            before, now = fan_in_first(layer, before), fan_in_first(layer, now)
        self.groups, self.shape = groups, before.shape
        n = n or max(math.prod(before.shape[:-1]), 1)
        self.before = before.astype("float64").reshape(n, -1)
        self.now = now.astype("float64").reshape(n, -1)
        self.error = self.squares(self.now - self.before)
        self.size = self.squares(self.before)

    def products(self, kernel: np.ndarray) -> np.ndarray:
        """The products of the inputs with a matrix like `before`, `(N, M)`."""
        if self.x is None:
            return kernel
        n, m = kernel.shape[0], kernel.shape[1] // self.groups
        by_group = kernel.reshape(n, self.groups, m).transpose(1, 0, 2)
        return (self.x @ by_group).transpose(1, 0, 2).reshape(self.x.shape[1], -1)

    def squares(self, change: np.ndarray) -> np.ndarray:
        """The sum of squares of the products with a matrix, for each output."""
        return np.square(self.products(change)).sum(0)

    def explained(self, repaired: np.ndarray) -> float:
        """The share of the squared error that another kernel in the place of `now` takes away."""
        left = self.squares(repaired - self.before).sum()
        return float(1 - left / max(self.error.sum(), 1e-300))

    def in_shape(self, matrix: np.ndarray) -> np.ndarray:
        """A matrix like `before` in the shape of the layer's kernel."""
        whole = matrix.reshape(self.shape)
        return whole if self.x is None else as_kernel(self.layer, whole)

    def as_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """The inverse of `in_shape`."""
        whole = kernel if self.x is None else fan_in_first(self.layer, kernel)
        return whole.reshape(self.before.shape)


def _rows(layer, inputs):
    """Rows of finite inputs, `(G, N, n)`; None if there are too few."""
    is_table = hasattr(layer, "input_dim") and hasattr(layer, "output_dim")
    if is_table or not inputs or not can_measure(layer):
        return None
    found, count = [], 0
    for x in inputs:
        rows = patches(layer, x, positions=POSITIONS)
        rows = rows[:, np.isfinite(rows).all((0, 2))]
        found.append(rows)
        count += rows.shape[1]
        if count >= MOST_ROWS:
            break
    rows = np.concatenate(found, 1)[:, :MOST_ROWS].astype("float64")
    return rows if rows.shape[1] >= LEAST_ROWS else None
