"""Corrects the biases of a compressed model, whose layers give other means than the original's."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfcompress.graph.copy import copied
from tfcompress.graph.layerwise import follow
from tfcompress.graph.paths import check_finite_weights, check_keras_3, walk
from tfcompress.layers.core.base import CompressedLayer
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
            used: of arrays, such rows at equal distances, of a stream the first ones.

    Returns:
        The copy. Layers without a bias, and those that stand in a chain for one layer, stay.

    Raises:
        ValueError: no layer with a bias was swapped one for one.

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
    new = copied(model)
    now = {path: layer for path, (layer, _) in walk(new).items()}
    pairs = {
        id(layer): (layer, now[path])
        for path, (layer, _) in walk(original).items()
        if path in now and (_has_bias(layer, now[path]) or _is_norm(layer, now[path]))
    }
    if not any(isinstance(made, CompressedLayer) for _, made in pairs.values()):
        raise ValueError(
            "No layer with a bias was swapped one for one. Expected `original`, from which `swap` "
            f"has made the model. Received: {original.name!r} and {model.name!r}"
        )

    def change(layer, inputs):
        _, made = pairs[id(layer)]
        if isinstance(made, CompressedLayer):
            made.bias.assign(to_numpy(made.bias) + _difference(layer, made, inputs))
        return [made]

    examples = some(original, data, EXAMPLES, MOST_BYTES)
    follow(original, examples, [layer for layer, _ in pairs.values()], change, "Correcting biases")
    return new


def _has_bias(layer, made) -> bool:
    compressed = isinstance(made, CompressedLayer) and not isinstance(layer, CompressedLayer)
    biased = getattr(layer, "bias", None) is not None and made.bias is not None
    return compressed and biased and layer.kernel.shape == made.kernel.shape


def _is_norm(layer, made) -> bool:
    """A normalization may have been recalibrated, and then gives the later layers other inputs."""
    both = (layer, made)
    return all(isinstance(one, keras.layers.BatchNormalization) for one in both)


def _difference(layer, made, inputs: Iterable[tuple[Any, Any]]) -> np.ndarray:
    """The mean of a layer's outputs before its activation, less that of the compressed one."""
    first, second = (copied(one) for one in (layer, made))
    first.activation = second.activation = keras.activations.linear
    shape, total, count = tuple(made.bias.shape), 0.0, 0
    for before, after in inputs:
        y, z = (to_numpy(run(x)) for run, x in ((first, before), (second, after)))
        difference = np.subtract(y, z, dtype="float64")
        along = (1,) * (difference.ndim - len(shape)) + shape
        axes = tuple(axis for axis, size in enumerate(along) if size == 1)  # one bias for all
        total = total + difference.sum(axes, keepdims=True).reshape(shape)
        count += math.prod(difference.shape[axis] for axis in axes)
    return total / count if count else 0.0
