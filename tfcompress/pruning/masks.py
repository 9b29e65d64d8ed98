"""Pruning masks: which variables may be pruned, and which of their weights go next."""

import math
from typing import Any

import keras
import numpy as np

from tfcompress.graph.paths import named, near, walk
from tfcompress.numerics.selection import lowest
from tfcompress.utils.types import Layers, Scope

ONE_KERNEL = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
TWO_KERNELS = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def prunable(model: keras.Model, layers: Layers = "*") -> dict[str, keras.Variable]:
    """The variables of a model that a pruner may zero, by path.

    These are the kernels of Dense, EinsumDense and all convolution layers at any depth, and the
    `prunable` variables of compressed layers. Biases, norms, embeddings, recurrent layers, frozen
    layers and layers that Keras has quantized are left alone.

    Args:
        model: a built `keras.Model`.
        layers: a name, path or glob (`"*"`, `"block/*"`), or a list of these.

    Returns:
        `{path: variable}` in the order of the model; the path of a layer with several prunable
        variables ends in the variable's name.

    Raises:
        ValueError: `layers` matches no layer, or names one that has nothing to prune.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")])
    >>> list(prunable(model))
    ['out']
    """
    found, seen = {}, set()
    for path, layer in select(model, layers).items():
        variables = [v for v in _variables(layer) if id(v) not in seen]
        seen.update(map(id, variables))
        for variable in variables:
            found[path if len(variables) == 1 else f"{path}/{variable.name}"] = variable
    if not found:
        raise ValueError(f"`layers` leaves nothing to prune. Received: layers={layers!r}")
    return found


def select(model: keras.Model, layers: Layers) -> list[keras.layers.Layer]:
    """The layers to prune by path; a glob passes over a layer that a name would refuse."""
    listed = {path: layer for path, (layer, _) in walk(model).items()}
    chosen = set()
    for pattern in check_patterns(layers):
        matches = named(pattern, listed)
        if not matches:
            raise ValueError(
                f"`layers` matches no layer. Received: {pattern!r}. {near(pattern, listed)}"
            )
        reasons = {path: _why_not(listed[path]) for path in matches}
        if not _is_glob(pattern):
            for path, reason in reasons.items():
                if reason:
                    raise ValueError(f"Layer '{path}' cannot be pruned: {reason}.")
        chosen.update(path for path, reason in reasons.items() if not reason)
    return {path: layer for path, layer in listed.items() if path in chosen}


def check_patterns(layers: Layers) -> list[str]:
    """`layers` as a list of patterns."""
    patterns = [layers] if isinstance(layers, str) else layers
    if isinstance(patterns, (list, tuple)) and all(isinstance(p, str) for p in patterns):
        return list(patterns)
    raise TypeError(
        f"Expected `layers` to be a name, path or glob, or a list of these. Received: {layers!r}"
    )


def _is_glob(pattern):
    return any(sign in pattern for sign in "*?[")


def _variables(layer) -> list[keras.Variable]:
    if hasattr(layer, "prunable"):
        return list(layer.prunable)
    if isinstance(layer, TWO_KERNELS):
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    return [layer.kernel]


def _why_not(layer) -> str | None:
    kind = type(layer).__name__
    if not layer.built:
        return "it is not built, so it has no weights yet"
    if not layer.trainable:
        return "it is frozen (`trainable=False`)"
    if hasattr(layer, "prunable"):
        return None if layer.prunable else f"{kind} stores nothing that may be zeroed"
    if not isinstance(layer, ONE_KERNEL + TWO_KERNELS):
        return f"{kind} has no kernel of a Dense, EinsumDense or convolution layer"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "Keras has quantized it or given it LoRA factors"
    return None


def tighten(
    masks: dict[str, np.ndarray],
    scores: Any,
    sparsity: float,
    scope: Scope = "global",
    floor: float = 0.0,
) -> dict[str, np.ndarray]:
    """The next masks: those weights removed which have the lowest scores.

    A weight that is gone stays gone; equal scores go in the order of their index, so that the
    result is the same on each machine. Each variable keeps at least one weight.

    Args:
        masks: `{path: bool array}`, False where a weight is gone.
        scores: `{path: array}` of the same shapes, no NaN.
        sparsity: the share of zeros to reach, over all variables or in each one.
        scope: `"global"`, one ranking over all variables, or `"layer"`, one for each.
        floor: the smallest share of weights that each variable keeps.

    Returns:
        New masks of the same shapes.

    Example:

    >>> masks = tighten({"fc": np.ones(4, bool)}, {"fc": np.array([3.0, 1.0, 2.0, 2.0])}, 0.5)
    >>> masks["fc"].tolist()
    [True, False, False, True]
    """
    ranks = {path: _ranks(path, masks[path], scores[path], floor) for path in masks}
    if scope == "layer":
        kept = {path: _keep(rank, sparsity) for path, rank in ranks.items()}
    else:
        flat = _keep(np.concatenate(list(ranks.values())), sparsity)
        ends = np.cumsum([rank.size for rank in ranks.values()])[:-1]
        kept = dict(zip(ranks, np.split(flat, ends), strict=True))
    return {path: kept[path].reshape(masks[path].shape) for path in masks}


def _ranks(path, mask, scores, floor):
    """Flat scores, with minus infinity for what is gone and infinity for what must stay."""
    scores = np.asarray(scores)
    if scores.shape != mask.shape:
        raise ValueError(
            f"The score of '{path}' must have the shape of its weights, {mask.shape}. "
            f"Received: {scores.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"The score of '{path}' holds NaN. Look for NaN in its weights, or in the data or the "
            "gradients that the score is taken on."
        )
    ranks = np.where(mask, scores, -np.inf).ravel()
    stay = max(1, math.ceil(floor * ranks.size - 1e-6))
    ranks[mask.ravel() & ~lowest(ranks, ranks.size - stay)] = np.inf
    return ranks


def _keep(ranks, sparsity):
    gone, stay = np.isneginf(ranks).sum(), np.isposinf(ranks).sum()
    return ~lowest(ranks, int(np.clip(round(sparsity * ranks.size), gone, ranks.size - stay)))
