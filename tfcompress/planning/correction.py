"""How much more, or less, forms cost together than alone."""

from operator import itemgetter
from typing import Any

import keras
import numpy as np

from tfcompress.graph.chain import Chain
from tfcompress.graph.paths import name_of, walk
from tfcompress.planning.plan_result import Plan
from tfcompress.planning.workbench import HARMLESS_RISE, Workbench, loss_with_original
from tfcompress.utils.progress import progress
from tfcompress.utils.workers import Shared, Workers

BOUNDS = 0.25, 4.0  # both losses are measured on few examples: no ratio may count for too much


def damage_factors(
    workbench: Workbench, plan: Plan, workers: Workers, shared: Shared
) -> dict[str, float]:
    """By what the damage of each layer's form is to be multiplied, as this plan showed.

    It is what the network gains if the original of this layer is put back, by what the form costs
    alone.

    Args:
        workbench: that of the plan's network.
        plan: what was carried out.
        workers: do the tasks, one for each layer.
        shared: makes the workbench of a worker.
    """
    layers = walk(plan.model)
    chains = {
        path: _chain_at(path, option, layers)
        for path, option in plan.chosen.items()
        if option.maker is not None and option.measured > HARMLESS_RISE * plan.predicted
    }
    now = {id(layer): number for number, layer in enumerate(workbench.layers)}
    before = {path: number for number, path in enumerate(workbench.paths)}
    tasks = {}
    for path in sorted(chains, key=lambda path: workbench.suffix.place(chains[path][0])):
        numbers = [now[id(layer)] for layer in chains[path]], before[path]
        tasks[path] = workers.submit(f"Layer {path!r}", loss_with_original, shared, *numbers)
    total, factors = workbench.loss.base + plan.measured, {}
    for path, task in progress(tasks.items(), "Correcting", len(tasks), itemgetter(0)):
        gain, alone = total - task.result(), plan.chosen[path].measured
        factors[path] = float(np.clip(gain / alone, *BOUNDS)) if alone > 0 else 1.0
    return factors


def _chain_at(path: str, option: Any, layers: dict) -> list[keras.layers.Layer]:
    """The layers that stand for one, in a graph by their names, elsewhere in one `Chain`."""
    if path in layers and isinstance(layers[path][0], Chain):
        return [layers[path][0]]
    folder = path.removesuffix(name_of(path))
    return [layers[folder + name][0] for name in option.parts]
