"""Pruning masks: which variables may be pruned, and which of their weights are removed next."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from tfcompress.distillation.regressor import Regressor
from tfcompress.graph.paths import check_patterns, named, near_names, walk
from tfcompress.layers.core.opened import OpenedLayer
from tfcompress.layers.recurrent.conv_lstm import ConvLSTMCell
from tfcompress.measure.macs import matrices
from tfcompress.numerics.selection import lowest
from tfcompress.utils.types import Layers, Scope

MOST_NAMED = 5  # layers in one line of a warning
FROZEN_KERNEL = "its kernel is frozen (`kernel.trainable=False`)"
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
CELLS = (
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.SimpleRNNCell,
    ConvLSTMCell,
)


def prunable(model: keras.Model, layers: Layers = "*") -> dict[str, keras.Variable]:
    """The variables of a model that may be pruned, by path.

    These are the kernels of Dense, EinsumDense and all convolution layers at any depth, both
    kernels of recurrent cells and of separable convolutions, and the `prunable` variables of
    compressed layers. Biases, normalization, embeddings, frozen layers and kernels, and layers that
    Keras has quantized are left out.

    Args:
        model: a built `keras.Model`.
        layers: a name, path or glob (`"*"`, `"block/*"`), or a list of these. The name of a layer
            made of others (an attention, a recurrent layer) means these; the path of one kernel of
            several means this one.

    Returns:
        `{path: variable}` in the order of the model; the path of a layer with several prunable
        variables ends in the variable's name: `"lstm/lstm_cell/recurrent_kernel"`.

    Raises:
        ValueError: `layers` matches no layer, or names one that has nothing to prune.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")])
    >>> list(prunable(model))
    ['out']
    """
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights to prune. Call it on an "
            "input first."
        )
    found = prunable_or_none(model, layers)
    if not found:
        raise ValueError(f"`layers` leaves nothing to prune. Received: layers={layers!r}")
    return found


def prunable_or_none(model: keras.Model, layers: Layers = "*") -> dict[str, keras.Variable]:
    """`prunable`, for a model that may have nothing to prune: the dict is then empty."""
    found, seen = {}, set()
    patterns, kernels = check_patterns(layers), _kernels_of_several(model)
    named_kernels = [pattern for pattern in patterns if pattern in kernels]
    others = [pattern for pattern in patterns if pattern not in kernels]
    for path, layer in (select(model, others) if others else {}).items():
        variables = _variables(layer)
        for variable in variables:
            if variable.trainable and id(variable) not in seen:
                found[path if len(variables) == 1 else f"{path}/{variable.name}"] = variable
        seen.update(map(id, variables))
    for path in named_kernels:
        if not kernels[path].trainable:
            raise ValueError(f"{path!r} cannot be pruned: {FROZEN_KERNEL}.")
        found[path] = kernels[path]
    return found


def _kernels_of_several(model) -> dict[str, keras.Variable]:
    """The kernels of layers that have several, by path."""
    found = {}
    for path, (layer, _) in walk(model).items():
        variables = [] if _why_not(layer) else _variables(layer)
        if len(variables) > 1:
            found |= {f"{path}/{variable.name}": variable for variable in variables}
    return found


def select(model: keras.Model, layers: Layers) -> dict[str, keras.layers.Layer]:
    """The layers to prune, by path.

    A layer that cannot be pruned raises if it is named, and is left out if a glob matches it.
    """
    listed = {path: layer for path, (layer, _) in walk(model).items()}
    chosen = set()
    for pattern in check_patterns(layers):
        matches = named(pattern, listed)
        if not matches:
            raise ValueError(
                f"`layers` matches no layer. Received: {pattern!r}. {near_names(pattern, listed)}"
            )
        reasons = {path: _why_not(listed[path]) for path in matches}
        for path, reason in reasons.items():
            below = [] if _is_glob(pattern) else _parts_of(path, listed)
            if reason and not below and not _is_glob(pattern):
                raise ValueError(f"Layer {path!r} cannot be pruned: {reason}.")
            chosen.update(below if reason else [path])
    return {path: layer for path, layer in listed.items() if path in chosen}


def left_out(model: keras.Model, layers: Layers) -> dict[str, str]:
    """Why layers with matrices that globs match are not pruned, `{path: reason}`."""
    listed = {path: layer for path, (layer, _) in walk(model).items()}
    matched = {path for pattern in check_patterns(layers) for path in named(pattern, listed)}
    reasons = {path: _why_not(layer) for path, layer in listed.items() if path in matched}
    return {
        path: reason
        for path, reason in reasons.items()
        if reason and matrices(listed[path]) and not isinstance(listed[path], Regressor)
    }


def warn_of_left_out(model: keras.Model, layers: Layers) -> None:
    """Warns once of all layers with matrices that globs match and that are not pruned."""
    by_reason = {}
    for path, reason in left_out(model, layers).items():
        by_reason.setdefault(reason, []).append(path)
    if by_reason:
        lines = [
            f"- {', '.join(paths[:MOST_NAMED])}{_more(paths)}: {reason}"
            for reason, paths in by_reason.items()
        ]
        warnings.warn("These layers are not pruned:\n" + "\n".join(lines), stacklevel=3)


def _more(paths):
    return f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""


def _parts_of(path, listed):
    """The paths of the prunable parts of a layer made of others."""
    return [p for p, part in listed.items() if p.startswith(f"{path}/") and not _why_not(part)]


def _is_glob(pattern):
    return any(sign in pattern for sign in "*?[")


def _variables(layer) -> list[keras.Variable]:
    """The kernels of a layer, those that are frozen among them."""
    if hasattr(layer, "prunable"):
        return list(layer.prunable)
    if isinstance(layer, TWO_KERNELS):
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    if isinstance(layer, CELLS):
        return [layer.kernel, layer.recurrent_kernel]
    return [layer.kernel]


def _why_not(layer) -> str | None:
    """The reason why a layer cannot be pruned, or None if it can."""
    kind = type(layer).__name__
    if not layer.built:
        return "it is not built, so it has no weights yet"
    if not layer.trainable:
        return "it is frozen (`trainable=False`)"
    if hasattr(layer, "prunable"):
        if not layer.prunable:
            return f"{kind} stores nothing that may be zeroed"
        return None if any(v.trainable for v in layer.prunable) else FROZEN_KERNEL
    if isinstance(layer, OpenedLayer):
        return "its kernels are those of its parts, which have paths of their own"
    if not isinstance(layer, ONE_KERNEL + TWO_KERNELS + CELLS):
        return f"{kind} has no kernel of a Dense, EinsumDense, convolution or recurrent layer"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "Keras has quantized it or given it LoRA factors"
    return None if any(v.trainable for v in _variables(layer)) else FROZEN_KERNEL


def tighten(
    masks: dict[str, np.ndarray],
    scores: Any,
    sparsity: float,
    scope: Scope = "global",
    floor: float = 0.0,
) -> dict[str, np.ndarray]:
    """Removes the weights with the lowest scores from the masks.

    A removed weight stays removed. Of equal scores the one with the lower index is removed first,
    so that the result is the same on each machine. Each variable keeps at least one weight.

    Args:
        masks: `{path: bool array}`, False where a weight was removed.
        scores: `{path: array}` of the same shapes, without NaN.
        sparsity: the share of zeros to reach, over all variables or in each one.
        scope: `"global"` ranks the weights of all variables together, `"layer"` each variable by
            itself.
        floor: the smallest share of its weights that each variable keeps.

    Returns:
        New masks of the same shapes.

    Raises:
        ValueError: scores have another shape than their mask, or hold NaN.

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
    """Flat scores: minus infinity where a weight was removed, infinity where it must stay."""
    scores = np.asarray(scores)
    if scores.shape != mask.shape:
        raise ValueError(
            f"The score of {path!r} must have the shape of its weights, {mask.shape}. "
            f"Received: {scores.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"The score of {path!r} holds NaN. Look for NaN in its weights, in the data, or in the "
            "gradients from which the score is computed."
        )
    ranks = np.where(mask, scores, -np.inf).ravel()
    stay = max(1, math.ceil(floor * ranks.size - 1e-6))  # 1e-6: floor * size may be inexact
    ranks[mask.ravel() & ~lowest(ranks, ranks.size - stay)] = np.inf
    return ranks


def _keep(ranks, sparsity):
    """The mask of the weights that stay at a sparsity."""
    gone, stay = np.isneginf(ranks).sum(), np.isposinf(ranks).sum()
    return ~lowest(ranks, int(np.clip(round(sparsity * ranks.size), gone, ranks.size - stay)))
