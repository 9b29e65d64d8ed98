"""Callbacks for `fit`."""

from .anneal import Anneal as Anneal
from .monitor import Monitor as Monitor
from .plateau import PruneOnPlateau as PruneOnPlateau
from .prune import Prune as Prune
from .recalibrate import RecalibrateBatchNorm as RecalibrateBatchNorm
