"""Projections: the nearest kernel of an allowed form, in a diagonal metric.

    project(w, d) = argmin over v of the form of sum d (w - v)^2

Each is a registered callable on a kernel and its curvature `d`, written in `keras.ops`: it runs in
a training step as well as by itself. Keras knows them as `tfcompress.project>Linear` and so on,
since there is a schedule `Linear` as well.
"""

from .base import Projection as Projection
from .codebook import Codebook as Codebook
from .scaled import Binary as Binary
from .scaled import Linear as Linear
from .scaled import Log as Log
from .scaled import Ternary as Ternary
from .sparse import KSparse as KSparse
