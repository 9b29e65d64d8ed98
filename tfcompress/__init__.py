"""Make Keras 3 networks small and fast: swap layers, fit, convert to LiteRT."""

from importlib import import_module
from typing import TYPE_CHECKING

from tfcompress import (
    archive,
    callbacks,
    checks,
    datasets,
    distill_losses,
    interop,
    layers,
    metric,
    models,
    optimizers,
    project,
    schedules,
    score,
)
from tfcompress.diagnosis.explain import explain
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.hints import Hint
from tfcompress.graph.paths import walk
from tfcompress.measure.batch_norm import recalibrate_batch_norm
from tfcompress.numerics.codecs import unpack
from tfcompress.planning.latency.measured import time_layers
from tfcompress.planning.planner import plan
from tfcompress.planning.sensitivity import sensitivity
from tfcompress.pruning.channels import prune_channels
from tfcompress.pruning.one_shot import prune
from tfcompress.reporting.benchmark import bench
from tfcompress.reporting.model_report import report
from tfcompress.rewriting.bias_correction import correct_biases
from tfcompress.rewriting.equalization import equalize
from tfcompress.rewriting.opening import opened
from tfcompress.rewriting.swap import swap, to_ordinary

__version__ = "0.1.0"

# These need TensorFlow; on other backends the rest works without it.
_TENSORFLOW = {
    "curvature": "tfcompress.curvature",
    "to_tflite": "tfcompress.export",
    "ExportError": "tfcompress.export",
    "compress": "tfcompress.planning.compression",
    "Compressed": "tfcompress.planning.compressed",
    "search": "tfcompress.planning.search.hyperparameter_search",
}

if TYPE_CHECKING:
    from tfcompress import curvature
    from tfcompress.export import ExportError, to_tflite
    from tfcompress.planning.compressed import Compressed
    from tfcompress.planning.compression import compress
    from tfcompress.planning.search.hyperparameter_search import search
else:  # a type checker that saw this function would take any name for right

    def __getattr__(name):
        if name not in _TENSORFLOW:
            raise AttributeError(f"module 'tfcompress' has no attribute {name!r}")
        module = import_module(_TENSORFLOW[name])
        return module if name == "curvature" else getattr(module, name)


__all__ = [
    "Compressed",
    "Distiller",
    "ExportError",
    "Hint",
    "archive",
    "bench",
    "callbacks",
    "checks",
    "compress",
    "correct_biases",
    "curvature",
    "datasets",
    "distill_losses",
    "equalize",
    "explain",
    "interop",
    "layers",
    "metric",
    "models",
    "opened",
    "optimizers",
    "plan",
    "project",
    "prune",
    "prune_channels",
    "recalibrate_batch_norm",
    "report",
    "schedules",
    "score",
    "search",
    "sensitivity",
    "swap",
    "time_layers",
    "to_ordinary",
    "to_tflite",
    "unpack",
    "walk",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
