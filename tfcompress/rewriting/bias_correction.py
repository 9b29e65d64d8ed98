"""Corrects the biases of a compressed model, whose layers give other means than the original's."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfcompress.graph.copy import copied
from tfcompress.graph.intercept import running
from tfcompress.graph.layerwise import follow
from tfcompress.graph.paths import check_finite_weights, check_keras_3
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.rewriting.opening import close_like, opened
from tfcompress.rewriting.pairs import pairs_of
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.batches import some
from tfcompress.utils.types import Data

EXAMPLES = 2048  # at most
MOST_BYTES = 2**28  # of them, of a stream


def correct_biases(model: keras.Model, original: keras.Model, data: Data) -> keras.Model:
    """Makes a copy of a compressed model whose layers give the original's mean in each channel.

        b_o += E[w_o x] - E[v_o z]

    `w_o` and `x` are the kernel and the inputs of the original, `v_o` and `z` those of the
    compressed model, in which the layers before are corrected already. Rounding shifts the means of
    a layer where its inputs are positive, as behind a ReLU, and later layers add up the shifts. A
    layer in front of a batch normalization needs it less: see `recalibrate_batch_norm`.

    Args:
        model: a model that `swap` has made of the original; it stays as it is.
        original: the model before.
        data: inputs, in any form that `fit` takes; labels are ignored. Up to 2,048 examples are
            used: of arrays, rows drawn from all of them, of a stream the first ones.

    Returns:
        The copy. Layers without a bias stay.

    Raises:
        ValueError: no layer with a bias was swapped.

    Example:

    >>> import tfcompress as tfc
    >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4, name="fc")])
    >>> small = tfc.swap(model, {"fc": tfc.layers.BinaryDense})
    >>> x = np.random.default_rng(0).uniform(size=(100, 16)).astype("float32")
    >>> right = correct_biases(small, model, x)
    >>> np.allclose(right(x).numpy().mean(0), model(x).numpy().mean(0), atol=1e-5)
    True

    Reference: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", 2019; here the means are those of inputs, which the paper has from the statistics
    of batch normalizations.
    """
    for one in (model, original):
        check_keras_3(one)
        check_finite_weights(one)
    whole, new = opened(original), opened(copied(model))
    pairs = [pair for pair in pairs_of(whole, new) if pair.before]
    if not any(map(_can_be_corrected, pairs)):
        raise ValueError(
            "No layer with a bias was swapped. Expected `original`, from which `swap` has made the "
            f"model. Received: {original.name!r} and {model.name!r}"
        )
    # Whatever differs runs as it is now, so that the layers behind get what they will get.
    chains = {id(one): [] for pair in pairs for one in pair.before[1:]}  # folded into the first
    chains |= {id(pair.before[0]): pair.now for pair in pairs}
    corrected = {id(pair.before[0]) for pair in pairs if _can_be_corrected(pair)}

    def change(layer, inputs):
        chain = chains[id(layer)]
        if id(layer) in corrected:
            bias = chain[-1].bias
            bias.assign(to_numpy(bias) + _difference(layer, chain, inputs))
        return chain or [keras.layers.Identity()]

    examples = some(original, data, EXAMPLES, MOST_BYTES)
    wanted = [one for pair in pairs for one in pair.before]
    follow(whole, examples, wanted, change, "Correcting biases")
    close_like(new, model)
    return new


def _can_be_corrected(pair) -> bool:
    layer, last = pair.before[0], pair.now[-1]
    biased = all(getattr(one, "bias", None) is not None for one in (layer, last))
    compressed = any(isinstance(one, CompressedLayer) for one in pair.now)
    return len(pair.before) == 1 and compressed and biased


def _difference(layer, chain, inputs: Iterable[tuple[Any, Any]]) -> np.ndarray:
    """The mean of a layer's outputs before its activation, less that of a chain in its place."""
    first, *others = (copied(one) for one in (layer, *chain))
    first.activation = others[-1].activation = keras.activations.linear
    second, shape = running(others), tuple(chain[-1].bias.shape)
    total, count = 0.0, 0
    for before, after in inputs:
        y, z = to_numpy(first(before)), to_numpy(second(None, after))
        difference = np.subtract(y, z, dtype="float64")
        along = (1,) * (difference.ndim - len(shape)) + shape
        axes = tuple(axis for axis, size in enumerate(along) if size == 1)  # one bias for all
        total = total + difference.sum(axes, keepdims=True).reshape(shape)
        count += math.prod(difference.shape[axis] for axis in axes)
    return total / count if count else 0.0
