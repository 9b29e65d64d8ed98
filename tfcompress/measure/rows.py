"""The rows that a layer multiplies by its kernel, and the kernel as a matrix for them.

Letters: b batch, n fan-in, G groups, N = examples x positions.
"""

import math
from typing import Any

import keras
import numpy as np

from tfcompress.measure.contraction import contraction
from tfcompress.utils.types import Tensor


def can_measure(layer: keras.layers.Layer) -> bool:
    """Whether `measure` takes this kind of layer."""
    if hasattr(layer, "part_names"):  # an opened layer, whose parts are measured
        return False
    if hasattr(layer, "equation"):
        return contraction(layer.equation) is not None
    if is_embedding(layer):
        return True
    if hasattr(layer, "recurrent_initializer"):
        return False
    if hasattr(layer, "pointwise_initializer"):
        return False
    if hasattr(layer, "kernel_size"):
        return hasattr(layer, "strides")
    # a composite layer of the user's own may have units, and then has no kernel
    return hasattr(layer, "units") and (not layer.built or hasattr(layer, "kernel"))


def check_measurable(layer: keras.layers.Layer) -> None:
    """Raises unless `measure` takes this kind of layer."""
    if not can_measure(layer):
        raise ValueError(
            "Expected a Dense layer, a convolution of any kind but a separable one, an EinsumDense "
            "whose kernel is a matrix for each group of inputs, or an Embedding. "
            f"Received: {layer} of type {type(layer).__name__}"
        )


def patches(
    layer: keras.layers.Layer, x: Tensor, positions: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """The rows that a layer multiplies by its kernel, `(G, N, n)`, in the kernel's own order.

    Args:
        layer: `Dense`, `EinsumDense` whatever the order of its axes, a convolution of any rank,
            stride, dilation, padding and groups, or a depthwise convolution (a group for each
            channel). They are recognized by their attributes, so that compressed layers of these
            kinds are accepted as well.
        x: the layer's inputs, `(b, ...)`.
        positions: how many positions of each example to draw; None for all.
        seed: seed of the draw.

    Raises:
        ValueError: the layer is of another kind.
    """
    check_measurable(layer)
    x = np.asarray(x, "float32")
    if not hasattr(layer, "kernel_size"):
        groups = contraction(getattr(layer, "equation", "...i,io->...o")).rows(x)  # (G, b, p, n)
        drawn = _drawn(groups.shape[2:3], positions, seed)
        groups = groups if drawn is None else groups[:, :, drawn]
        return groups.reshape(len(groups), -1, groups.shape[-1])
    depthwise = hasattr(layer, "depth_multiplier")
    if getattr(layer, "data_format", None) == "channels_first":
        x = np.moveaxis(x, 1, -1)
    groups = x.shape[-1] if depthwise else getattr(layer, "groups", 1)
    places, inside = _windows(layer, x.shape[1:-1], positions, seed)
    taken = x.reshape(len(x), -1, x.shape[-1])[:, places]  # (b, positions, taps, channels)
    if not inside.all():
        taken[:, ~inside] = 0
    rows = taken.reshape(-1, places.shape[1], groups, x.shape[-1] // groups)
    return rows.transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)


def _drawn(space, positions, seed):
    """Which of the positions in a space are taken, by their numbers; None for all."""
    if positions is None or positions >= math.prod(space):
        return None
    return np.random.default_rng(seed).choice(math.prod(space), positions, replace=False)


def _windows(layer, space, positions, seed):
    """Which places of an image the taps of a convolution lie on, at all or some of its positions.

    Returns:
        Places `(positions, taps)` in the flattened space, and whether they lie inside of it.
    """
    axes = len(space)
    dilation = per_axis(getattr(layer, "dilation_rate", 1), axes)
    strides, taps = per_axis(layer.strides, axes), []
    for n, k, d, s in zip(space, layer.kernel_size, dilation, strides, strict=True):
        reach = (k - 1) * d + 1
        if is_transposed(layer):  # all outputs wanted; zeros lie between the inputs
            found = np.arange((n - 1) * s + reach)[:, None] - np.arange(k) * d  # (positions, k)
            taps.append(np.where(found % s, -1, found // s))
            continue
        count, before = (n - reach) // s + 1, 0
        if layer.padding == "same":
            count = -(-n // s)
            before = max((count - 1) * s + reach - n, 0) // 2
        elif layer.padding == "causal":
            count, before = (n - 1) // s + 1, reach - 1
        taps.append(np.arange(count)[:, None] * s + np.arange(k) * d - before)
    counts = [len(found) for found in taps]
    drawn = _drawn(counts, positions, seed)
    drawn = np.arange(math.prod(counts)) if drawn is None else drawn
    places, inside = np.zeros((len(drawn), 1), int), np.ones((len(drawn), 1), bool)
    for n, found, position in zip(space, taps, np.unravel_index(drawn, counts), strict=True):
        along = found[position]  # (positions, k)
        inside = inside[:, :, None] & ((along >= 0) & (along < n))[:, None]
        places = places[:, :, None] * n + along.clip(0, n - 1)[:, None]
        inside, places = (a.reshape(len(drawn), -1) for a in (inside, places))
    return places, inside


def fan_in_first(layer: keras.layers.Layer, kernel: np.ndarray) -> np.ndarray:
    """A kernel with its fan-in first and its outputs last.

    It is the layout in which a metric of the layer takes an array like its kernel. The kernels of
    transposed convolutions have their outputs last but one, those of EinsumDense layers any order.
    """
    if hasattr(layer, "equation"):
        return contraction(layer.equation).fan_in_first(kernel)
    return np.swapaxes(kernel, -1, -2) if is_transposed(layer) else kernel


def as_kernel(layer: keras.layers.Layer, rows: np.ndarray) -> np.ndarray:
    """The inverse of `fan_in_first`."""
    if hasattr(layer, "equation"):
        return contraction(layer.equation).back(rows)
    return fan_in_first(layer, rows)


def fan_in(layer: keras.layers.Layer) -> int:
    """How many weights of a layer's kernel meet one output; 1 where that is not known."""
    if is_embedding(layer) or not (hasattr(layer, "kernel") and can_measure(layer)):
        return 1
    shape = tuple(layer.kernel.shape)
    if hasattr(layer, "equation"):
        return contraction(layer.equation).fan_in(shape)
    if hasattr(layer, "depth_multiplier"):
        return math.prod(shape[:-2])
    return math.prod(fan_in_first(layer, np.empty(shape, "bool")).shape[:-1])


def is_transposed(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a transposed convolution."""
    return hasattr(layer, "output_padding")


def is_embedding(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a table of rows."""
    return hasattr(layer, "input_dim") and hasattr(layer, "output_dim")


def per_axis(value: Any, count: int) -> tuple[int, ...]:
    """A size for each axis, from one for all of them or several."""
    return (value,) * count if isinstance(value, int) else tuple(value)
