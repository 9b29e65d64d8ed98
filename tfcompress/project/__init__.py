"""Projections: the nearest kernel of an allowed form, in a diagonal metric.

    project(w, d) = argmin over v of the form of sum d (w - v)^2

Each is a registered callable on a kernel and its curvature `d`, written in `keras.ops`: it runs in
a training step as well as by itself. Keras knows them as `tfcompress.project>Linear` and so on,
since there is a schedule `Linear` as well.
"""

from tfcompress.project.base import Projection as Projection
from tfcompress.project.codebook import Codebook as Codebook
from tfcompress.project.scaled import Binary as Binary
from tfcompress.project.scaled import Linear as Linear
from tfcompress.project.scaled import Log as Log
from tfcompress.project.scaled import Ternary as Ternary
from tfcompress.project.sparse import KSparse as KSparse
