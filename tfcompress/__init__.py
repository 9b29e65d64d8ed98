"""Make Keras 3 networks small and fast: swap layers, fit, convert to LiteRT."""

import importlib

from tfcompress import archive as archive
from tfcompress import callbacks as callbacks
from tfcompress import checks as checks
from tfcompress import distill_losses as distill_losses
from tfcompress import interop as interop
from tfcompress import layers as layers
from tfcompress import metric as metric
from tfcompress import models as models
from tfcompress import optimizers as optimizers
from tfcompress import project as project
from tfcompress import schedules as schedules
from tfcompress import score as score
from tfcompress.distillation.distiller import Distiller as Distiller
from tfcompress.distillation.hints import Hint as Hint
from tfcompress.graph.paths import walk as walk
from tfcompress.measure.batch_norm import recalibrate_batch_norm as recalibrate_batch_norm
from tfcompress.numerics.codecs import unpack as unpack
from tfcompress.planning.planner import plan as plan
from tfcompress.planning.sensitivity import sensitivity as sensitivity
from tfcompress.pruning.channels import prune_channels as prune_channels
from tfcompress.pruning.one_shot import prune as prune
from tfcompress.reporting.benchmark import bench as bench
from tfcompress.reporting.model_report import report as report
from tfcompress.rewriting.swap import swap as swap
from tfcompress.rewriting.swap import to_ordinary as to_ordinary

__version__ = "0.1.0"

# These need TensorFlow; on other backends the rest works without it.
_TENSORFLOW = {
    "curvature": None,
    "to_tflite": "export",
    "ExportError": "export",
    "compress": "planning.compression",
    "Compressed": "planning.compression",
    "search": "planning.hyperparameter_search",
}


def __getattr__(name):
    if name not in _TENSORFLOW:
        raise AttributeError(f"module 'tfcompress' has no attribute {name!r}")
    module = importlib.import_module(f".{_TENSORFLOW[name] or name}", __name__)
    return getattr(module, name) if _TENSORFLOW[name] else module


def __dir__():
    return sorted({*globals(), *_TENSORFLOW})
