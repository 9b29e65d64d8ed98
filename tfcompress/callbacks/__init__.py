"""Callbacks for `fit`."""

from tfcompress.callbacks.anneal import Anneal
from tfcompress.callbacks.monitor import Monitor
from tfcompress.callbacks.prune import Prune
from tfcompress.callbacks.prune_on_plateau import PruneOnPlateau
from tfcompress.callbacks.recalibrate_batch_norm import RecalibrateBatchNorm

__all__ = ["Anneal", "Monitor", "Prune", "PruneOnPlateau", "RecalibrateBatchNorm"]
