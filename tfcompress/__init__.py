"""Make Keras 3 networks small and fast: swap layers, fit, convert to LiteRT."""

from . import layers as layers
from . import metric as metric
from .codecs import unpack as unpack
from .rewrite import swap as swap
from .rewrite import to_ordinary as to_ordinary
from .walk import walk as walk

__version__ = "0.1.0"
