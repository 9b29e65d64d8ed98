"""Kronecker metrics: the second moment of each layer's inputs, and a scale for each output."""

import keras
import numpy as np

from tfcompress.graph.paths import check_finite_weights, walk
from tfcompress.graph.suffix import watching
from tfcompress.measure.curvature import gauss_newton
from tfcompress.measure.moments import LARGEST_BLOCK, Moments
from tfcompress.measure.rows import can_measure, fan_in_first
from tfcompress.numerics.metric import Diagonal, Kronecker
from tfcompress.utils.batches import batches, check_repeats, number_of_batches
from tfcompress.utils.progress import progress, showing
from tfcompress.utils.types import ClassWeight, Data, Loss, Verbose

COMPILED = "compiled"  # the loss that a model is compiled with


def kronecker(
    model: keras.Model,
    data: Data,
    loss: Loss = None,
    batch_size: int = 256,
    block: int = LARGEST_BLOCK,
    seed: int = 0,
    class_weight: ClassWeight = None,
    verbose: Verbose = "auto",
) -> dict[str, Kronecker]:
    """Measures the Kronecker metric `(A, g)` of each layer.

    `A = mean x x^T` over examples and positions is the second moment of the layer's inputs. With a
    loss, `g_o = sum_i d_io / tr A` is a scale for each output, which matches the trace of the
    `gauss_newton` diagonal `d`; it makes outputs and layers comparable. Without a loss `g = 1`,
    which is enough to round or prune within a layer.

    Cost: a forward pass, `fan_in^2` multiply-adds per position and layer, and with a loss one
    gradient pass. Memory: `fan_in^2` numbers per layer (`4096 fan_in` above a fan-in of 4096), and
    64 MB of patches.

    Args:
        model: a built `keras.Model` of any kind.
        data: as in `gauss_newton`; without a loss, labels are not needed.
        loss: as in `compile`; `"compiled"` takes the compiled one, with its loss weights; None
            means no loss, and so `g = 1`.
        batch_size: larger batches are cut to this size, and for the scales `g` to 32 at most. With
            1 the scales of a linear model are exact.
        block: of a layer with a larger fan-in, only blocks of this size on the diagonal of `A` are
            kept.
        seed, class_weight, verbose: as in `gauss_newton`.

    Returns:
        Dict `{path: Kronecker}` of the Dense, EinsumDense and convolution layers (transposed,
        depthwise and 3D ones too), and `{path: Diagonal}` of the embeddings. Separable convolutions
        and recurrent cells (whose parts are measured in `tfc.opened(model)`) and layers that run
        only inside a `tf.function` or a vectorized map are left out; with a loss, compressed layers
        too.

    Raises:
        ValueError: `class_weight` without `loss`, and as in `gauss_newton`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    >>> kronecker(model, np.array([[1.0, 2.0]]))["out"].blocks[0].tolist()
    [[[1.0, 2.0], [2.0, 4.0]]]

    Reference: Martens, Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature", 2015. There `g` is a full matrix.
    """
    if loss is None and class_weight is not None:
        raise ValueError("`class_weight` weighs a loss: give `loss`, or leave it out.")
    if loss is not None:
        check_repeats(data, 2)
    check_finite_weights(model)
    layers = {path: layer for path, (layer, _) in walk(model).items() if can_measure(layer)}
    moments = {id(layer): Moments(layer, block) for layer in layers.values()}
    watched = watching(model, layers.values(), lambda layer, x: moments[id(layer)].add(x))
    steps, total = batches(model, data, batch_size), number_of_batches(data, batch_size)
    with showing(verbose):
        for x, _, _ in progress(steps, "Measuring inputs", total):
            watched(x)
    metrics = {
        path: moments[id(layer)].metric()
        for path, layer in layers.items()
        if moments[id(layer)].count
    }
    if loss is None:
        return metrics
    loss = None if isinstance(loss, str) and loss == COMPILED else loss
    small = min(batch_size, 32)  # many small batches make a better estimate than few large ones
    diagonals = gauss_newton(model, data, loss, 1, small, seed, class_weight, verbose)
    return {
        path: _match_trace(metric, diagonals[path], layers[path])
        for path, metric in metrics.items()
        if path in diagonals
    }


def _match_trace(metric, d, layer):
    """The metric with a scale for each output that gives it the trace of the diagonal `d`."""
    if isinstance(metric, Diagonal):  # of an Embedding: no input has two rows on
        return Diagonal(d)
    trace = sum(np.trace(block, axis1=1, axis2=2) for block in metric.blocks)  # (G,)
    g = (
        metric.split(fan_in_first(layer, d)).sum(1)
        / np.maximum(trace, np.finfo("float32").tiny)[:, None]
    )
    return Kronecker(metric.blocks, g.reshape(-1), metric.damping)
