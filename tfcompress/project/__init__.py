"""Projections: the nearest kernel of an allowed form, in a diagonal metric.

    project(w, d) = argmin over v of the form of sum d (w - v)^2

Each is an object that Keras can save, called on a kernel and its curvature `d`. It is written in
`keras.ops`, so that it also runs within a training step. Its registered name is
`tfcompress.project>Linear` and the like, because a schedule is called `Linear` as well.
"""

from tfcompress.project.base import Projection
from tfcompress.project.codebook import Codebook
from tfcompress.project.scaled import Binary, Linear, Log, Ternary
from tfcompress.project.sparse import KSparse

__all__ = ["Binary", "Codebook", "KSparse", "Linear", "Log", "Projection", "Ternary"]
