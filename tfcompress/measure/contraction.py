"""An EinsumDense as the matrix product that it is, whatever the order of its axes.

Letters: G groups, N = examples x positions, n fan-in, m outputs of a group.
"""

import math
import string
from dataclasses import dataclass

import numpy as np

from tfcompress.utils.types import Shape


@dataclass(frozen=True)
class Contraction:
    """Which axes of the input and of the kernel of an einsum are multiplied and summed.

    Attributes:
        inputs, kernel: the letters of both.
        summed: those of the kernel that are summed over, in its order: the fan-in.
        groups: those that the input, the kernel and the output have: products of their own.
        units: those of the kernel alone and of the output.
        added: those of the input alone, over which it is summed first.
    """

    inputs: str
    kernel: str
    summed: str
    groups: str
    units: str
    added: str

    def rows(self, x: np.ndarray) -> np.ndarray:
        """The inputs as rows, `(G, examples, positions, n)`."""
        letters = self._letters(x.ndim)
        x = x.sum(axis=tuple(letters.index(a) for a in self.added))
        left = [a for a in letters if a not in self.added]
        positions = [a for a in left if a not in self.groups + self.summed]
        order = [left.index(a) for a in (*self.groups, *positions, *self.summed)]
        sizes = dict(zip(left, x.shape, strict=True))
        examples = sizes[letters[0]] if letters[0] in positions else 1
        groups, n = (math.prod(sizes[a] for a in some) for some in (self.groups, self.summed))
        return x.transpose(order).reshape(groups, examples, -1, n)

    def fan_in(self, shape: Shape) -> int:
        """How many weights of a kernel of this shape meet one output."""
        return math.prod(shape[self.kernel.index(a)] for a in self.summed)

    def fan_in_first(self, kernel: np.ndarray) -> np.ndarray:
        """A kernel with its fan-in first and its units last; a view."""
        return np.transpose(kernel, self._order())

    def back(self, kernel: np.ndarray) -> np.ndarray:
        """The inverse of `fan_in_first`."""
        return np.transpose(kernel, np.argsort(self._order()))

    def _order(self):
        return [self.kernel.index(a) for a in self.summed + self.groups + self.units]

    def _letters(self, rank):
        """The letters of the input, with capitals for an ellipsis."""
        missing = rank - len(self.inputs.replace("...", ""))
        return self.inputs.replace("...", string.ascii_uppercase[:missing])


def contraction(equation: str) -> Contraction | None:
    """The contraction of an einsum, or None if its kernel is no matrix, nor one for each group.

    >>> contraction("btd,ndh->btnh").summed
    'd'
    """
    inputs, rest = equation.replace(" ", "").split(",")
    kernel, output = rest.split("->")
    if any(len(set(letters)) < len(letters) for letters in (kernel, inputs.replace("...", ""))):
        return None
    kinds = {
        "summed": [a for a in kernel if a in inputs and a not in output],
        "groups": [a for a in kernel if a in inputs and a in output],
        "units": [a for a in kernel if a not in inputs and a in output],
        "added": [a for a in inputs.replace("...", "") if a not in kernel + output],
    }
    found = Contraction(inputs, kernel, **{kind: "".join(some) for kind, some in kinds.items()})
    whole = len(found.summed + found.groups + found.units) == len(kernel)
    outputs = "".join(a for a in kernel if a not in found.summed)
    in_runs = outputs == found.groups + found.units  # the outputs of a group lie side by side
    return found if whole and found.summed and in_runs and "." not in kernel else None
