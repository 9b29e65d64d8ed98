"""Callbacks for `fit`."""

from .monitor import Monitor as Monitor
from .plateau import PruneOnPlateau as PruneOnPlateau
from .anneal import Anneal as Anneal
from .prune import Prune as Prune
from .recalibrate import RecalibrateBatchNorm as RecalibrateBatchNorm
