"""Projections: the nearest kernel of an allowed form, in a diagonal metric.

    project(w, d) = argmin over v of the form of sum d (w - v)^2

Each is an object that Keras can save, called on a kernel and its curvature `d`. It is written in
`keras.ops`, so that it also runs within a training step. Its registered name is
`tfcompress.project>Linear` and the like, because a schedule is called `Linear` as well.
"""

from tfcompress.project.base import Projection as Projection
from tfcompress.project.codebook import Codebook as Codebook
from tfcompress.project.scaled import Binary as Binary
from tfcompress.project.scaled import Linear as Linear
from tfcompress.project.scaled import Log as Log
from tfcompress.project.scaled import Ternary as Ternary
from tfcompress.project.sparse import KSparse as KSparse
