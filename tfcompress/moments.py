"""Second moments of a layer's inputs, streamed: the `A` of `metric.Kronecker`.

Letters: b batch, n fan-in, G groups, N = examples x positions.
"""

import numpy as np

from tfcompress.metric import Diagonal, Kronecker

BLOCK = 4096  # a larger fan-in is cut into blocks on the diagonal
CHUNK = 2**24  # numbers of patches held at a time, 64 MB


def measure(layer, inputs, g=None, block=BLOCK):
    """The metric of a layer's kernel from examples of the layer's own inputs.

    Args:
        layer: `Dense`, `Conv1D/2D/3D` (grouped too), `DepthwiseConv1D/2D`, `EinsumDense`,
            `Embedding`, or a compressed form of these.
        inputs: as in `second_moment`.
        g: scale per output, `(out,)`, or None for ones.
        block: as in `second_moment`.

    Returns:
        A `Kronecker`; for an `Embedding`, whose one-hot inputs are never on together, the
        `Diagonal` of the frequencies, which is the same form without the zeros.

    Raises:
        ValueError: the layer is of another kind, or there are no inputs.

    >>> layer = keras.layers.Dense(3)
    >>> measure(layer, np.ones((5, 2)))
    Kronecker(blocks=[2], groups=1, g=False)
    """
    if not hasattr(layer, "embeddings"):
        return Kronecker(second_moment(layer, inputs, block=block), g)
    counts, total = np.zeros(layer.input_dim), 0
    for x in _arrays(inputs):
        counts += np.bincount(x.astype("int64").reshape(-1), minlength=layer.input_dim)
        total += x.size
    outputs = np.ones(layer.output_dim) if g is None else np.asarray(g)
    return Diagonal(np.outer(counts / _positive(total), outputs))


def second_moment(layer, inputs, others=None, block=BLOCK) -> list[np.ndarray]:
    """`A = mean x x^T` over examples and positions, `x` the numbers that meet one output's weights.

    Cost: `N n^2` multiply-adds. Memory: 64 MB of patches, and `A` itself, `G n^2` numbers, in
    single precision when cut in blocks.

    Args:
        layer: a layer that `patches` takes.
        inputs: an array of the layer's inputs, `(b, ...)`, or an iterator of such arrays.
        others: like `inputs`; if given, the cross moment `mean x y^T` with `y` of these.
        block: the largest block; a larger fan-in is cut, and the rest of `A` is left out.

    Returns:
        The blocks on the diagonal, `[(G, n, n), ...]`, as `Kronecker` takes them.

    Raises:
        ValueError: the layer is of another kind, or there are no inputs.
    """
    sums, count = None, 0
    pairs = ((x, x) for x in _arrays(inputs))
    if others is not None:
        pairs = zip(_arrays(inputs), _arrays(others), strict=True)
    for x, y in pairs:
        size = max(1, CHUNK // patches(layer, x[:1]).size)
        for start in range(0, len(x), size):
            rows = patches(layer, x[start : start + size])
            columns = rows if y is x else patches(layer, y[start : start + size])
            count += rows.shape[1]
            cuts = [slice(i, i + block) for i in range(0, rows.shape[2], block)]
            if sums is None:
                dtype = "float64" if len(cuts) == 1 else "float32"
                sums = [np.zeros((len(rows), *[rows[0, 0, c].size] * 2), dtype) for c in cuts]
            for total, cut in zip(sums, cuts, strict=True):
                total += np.swapaxes(rows[:, :, cut], 1, 2) @ columns[:, :, cut]
    return [total / _positive(count) for total in sums or [np.zeros(())]]


def patches(layer, x) -> np.ndarray:
    """The rows that a layer multiplies by its kernel, `(G, N, n)`, in the kernel's own order.

    Args:
        layer: `Dense`, `EinsumDense` that contracts the last axes of its input with the first of
            its kernel, a convolution of any rank, stride, dilation, padding and groups, or a
            depthwise convolution (a group for each channel). Known by their attributes, so that
            compressed layers do as well.
        x: the layer's inputs, `(b, ...)`.

    Raises:
        ValueError: the layer is of another kind.
    """
    x = np.asarray(x, "float32")
    if hasattr(layer, "equation"):
        return x.reshape(1, -1, np.prod(x.shape[x.ndim - _contracted(layer) :], dtype=int))
    if hasattr(layer, "output_padding") or hasattr(layer, "pointwise_initializer"):
        raise _unknown(layer)
    if not hasattr(layer, "kernel_size"):
        if not hasattr(layer, "units") or hasattr(layer, "recurrent_activation"):
            raise _unknown(layer)
        return x.reshape(1, -1, x.shape[-1])
    depthwise = hasattr(layer, "depth_multiplier")
    if getattr(layer, "data_format", None) == "channels_first":
        x = np.moveaxis(x, 1, -1)
    groups = x.shape[-1] if depthwise else getattr(layer, "groups", 1)
    windows = _windows(layer, x)  # (b, positions..., channels, taps...)
    rank = len(layer.kernel_size)
    taps = windows.reshape(*windows.shape[: rank + 1], groups, -1, *windows.shape[rank + 2 :])
    order = (rank + 1, *range(rank + 1), *range(rank + 3, 2 * rank + 3), rank + 2)
    return taps.transpose(order).reshape(groups, -1, np.prod(taps.shape[rank + 2 :], dtype=int))


def _windows(layer, x):
    dilation = _tuple(getattr(layer, "dilation_rate", 1), layer.kernel_size)
    strides = _tuple(layer.strides, layer.kernel_size)
    reach = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, dilation, strict=True)]
    axes = range(1, 1 + len(reach))
    pad = [(0, 0)] * x.ndim
    for axis, size, stride in zip(axes, reach, strides, strict=True):
        if layer.padding == "same":
            total = max((-(-x.shape[axis] // stride) - 1) * stride + size - x.shape[axis], 0)
            pad[axis] = (total // 2, total - total // 2)
        elif layer.padding == "causal":
            pad[axis] = (size - 1, 0)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), reach, tuple(axes))
    steps = (slice(None), *(slice(None, None, s) for s in strides), slice(None))
    return windows[(*steps, *(slice(None, None, d) for d in dilation))]


def _contracted(layer):
    """How many axes an EinsumDense sums over."""
    inputs, rest = layer.equation.replace("...", "").replace(" ", "").split(",")
    kernel, output = rest.split("->")
    summed = "".join(letter for letter in inputs if letter in kernel)
    if not summed or set(summed) & set(output) or not inputs.endswith(summed):
        raise _unknown(layer)
    if not kernel.startswith(summed):
        raise _unknown(layer)
    return len(summed)


def _tuple(value, like):
    return (value,) * len(like) if isinstance(value, int) else tuple(value)


def _arrays(inputs):
    return iter([inputs]) if hasattr(inputs, "shape") else (np.asarray(x) for x in inputs)


def _positive(count):
    if count == 0:
        raise ValueError("There are no inputs to measure a layer on.")
    return count


def _unknown(layer):
    return ValueError(
        "Expected a Dense layer, a convolution (depthwise and grouped too), an EinsumDense that "
        "sums the last axes of its input with the first of its kernel, or an Embedding. "
        f"Received: {layer} of type {type(layer).__name__}"
    )
