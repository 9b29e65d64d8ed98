"""The error of a multilinear form of a kernel, for the tests of decompositions."""

import numpy as np


def relative_error(w, parts, expression):
    """`||w - product|| / ||w||`."""
    return np.linalg.norm(w - np.einsum(expression, *parts)) / np.linalg.norm(w)
