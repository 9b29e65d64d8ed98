"""Callbacks for `fit`."""

from tfcompress.callbacks.anneal import Anneal as Anneal
from tfcompress.callbacks.monitor import Monitor as Monitor
from tfcompress.callbacks.prune import Prune as Prune
from tfcompress.callbacks.prune_on_plateau import PruneOnPlateau as PruneOnPlateau
from tfcompress.callbacks.recalibrate_batch_norm import RecalibrateBatchNorm as RecalibrateBatchNorm
