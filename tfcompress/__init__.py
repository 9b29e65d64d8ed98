"""Make Keras 3 networks small and fast: swap layers, fit, convert to LiteRT."""

import importlib

from . import archive as archive
from . import callbacks as callbacks
from . import checks as checks
from . import distill_losses as distill_losses
from . import interop as interop
from . import layers as layers
from . import metric as metric
from . import models as models
from . import optimizers as optimizers
from . import project as project
from . import schedules as schedules
from . import score as score
from .benchmark import bench as bench
from .calibrate import recalibrate_batch_norm as recalibrate_batch_norm
from .channel_pruning import prune_channels as prune_channels
from .codecs import unpack as unpack
from .distill import Distiller as Distiller
from .hints import Hint as Hint
from .planner import plan as plan
from .pruning import prune as prune
from .reports import report as report
from .rewrite import swap as swap
from .rewrite import to_ordinary as to_ordinary
from .sensitivities import sensitivity as sensitivity
from .walk import walk as walk

__version__ = "0.1.0"

# These need TensorFlow; on other backends the rest works without it.
_TENSORFLOW = {
    "curvature": None,
    "to_tflite": "export",
    "ExportError": "export",
    "compress": "compression",
    "Compressed": "compression",
    "search": "trials",
}


def __getattr__(name):
    if name not in _TENSORFLOW:
        raise AttributeError(f"module 'tfcompress' has no attribute {name!r}")
    module = importlib.import_module(f".{_TENSORFLOW[name] or name}", __name__)
    return getattr(module, name) if _TENSORFLOW[name] else module


def __dir__():
    return sorted({*globals(), *_TENSORFLOW})
