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
    windows = _windows(layer, x)  # (b, positions..., taps..., channels)
    space = windows.shape[1 : 1 + len(layer.kernel_size)]
    drawn = _drawn(space, positions, seed)
    if drawn is not None:
        windows = windows[(slice(None), *np.unravel_index(drawn, space))]
    rows = windows.reshape(-1, math.prod(layer.kernel_size), groups, x.shape[-1] // groups)
    return rows.transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)


def _drawn(space, positions, seed):
    """Which of the positions in a space are taken, by their numbers; None for all."""
    if positions is None or positions >= math.prod(space):
        return None
    return np.random.default_rng(seed).choice(math.prod(space), positions, replace=False)


def _windows(layer, x):
    """The window of a convolution at each position: a view `(b, positions, taps, channels)`."""
    dilation = per_axis(getattr(layer, "dilation_rate", 1), len(layer.kernel_size))
    strides = per_axis(layer.strides, len(layer.kernel_size))
    if is_transposed(layer):  # a convolution of inputs with zeros between them, all outputs wanted
        spread = np.zeros((len(x), *_spread(x.shape, strides), x.shape[-1]), x.dtype)
        spread[(slice(None), *(slice(None, None, s) for s in strides))] = x
        x, strides = spread, (1,) * len(strides)
    reach = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, dilation, strict=True)]
    axes = range(1, 1 + len(reach))
    pad = [(0, 0)] * x.ndim
    for axis, size, stride in zip(axes, reach, strides, strict=True):
        if layer.padding == "same" and not is_transposed(layer):
            total = max((-(-x.shape[axis] // stride) - 1) * stride + size - x.shape[axis], 0)
            pad[axis] = (total // 2, total - total // 2)
        elif is_transposed(layer):
            pad[axis] = (size - 1, size - 1)
        elif layer.padding == "causal":
            pad[axis] = (size - 1, 0)
    x = np.pad(x, pad) if np.any(pad) else x  # it copies in any case
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(axes))
    steps = (slice(None), *(slice(None, None, s) for s in strides), slice(None))
    windows = windows[(*steps, *(slice(None, None, d) for d in dilation))]
    if is_transposed(layer):  # whose kernel runs the other way
        windows = np.flip(windows, tuple(range(windows.ndim - len(axes), windows.ndim)))
    return np.moveaxis(windows, len(axes) + 1, -1)


def _spread(shape, strides):
    return ((n - 1) * s + 1 for n, s in zip(shape[1:-1], strides, strict=True))


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
