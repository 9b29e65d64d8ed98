"""Measures the batch normalization statistics of a changed model again."""

import itertools
import math
from functools import partial

import keras
import numpy as np

from tfcompress.graph.paths import check_finite_weights, walk
from tfcompress.graph.suffix import outputs_with
from tfcompress.utils.batches import batches as batches_of
from tfcompress.utils.batches import mixed
from tfcompress.utils.checks import whole_number
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Data

BATCH_SIZE = 64


def recalibrate_batch_norm(
    model: keras.Model, data: Data, batches: int = 40, frozen: bool = True
) -> None:
    """Measures the moving mean and variance of each BatchNormalization layer again, in place.

    Compression changes the inputs of these layers. Correcting their statistics often recovers half
    of the accuracy that was lost, without labels or training. The model runs in inference mode,
    except that each of these layers normalizes a batch by the batch's own statistics. The new
    statistics are plain averages over all batches, not moving averages, and the variance includes
    the variance between batches. No other variable changes.

    Cost: `batches` forward passes of 64 examples.

    Args:
        model: a built `keras.Model`.
        data: inputs, as arrays (of which 64 are drawn at a time), a `tf.data.Dataset`, a
            `PyDataset` or a generator, whose batches should be shuffled; labels are ignored. About
            2,000 examples are enough.
        batches: the largest number of batches to use.
        frozen: whether frozen layers are measured as well. `plan` and `compress` leave them.

    Raises:
        ValueError: `batches` is not a whole number of at least 1, or there are no data.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    >>> recalibrate_batch_norm(model, np.array([[1.0, 2.0], [3.0, 2.0]]))
    >>> model.layers[0].moving_mean.numpy().tolist()
    [2.0, 2.0]
    """
    whole_number(batches, "batches")
    check_finite_weights(model)
    norms = [
        layer
        for layer, _ in walk(model).values()
        if isinstance(layer, keras.layers.BatchNormalization) and (frozen or layer.trainable)
    ]
    statistics = {id(layer): _Statistics(layer) for layer in norms}

    def normalize_by_batch(layer, call, x, training=None, mask=None):
        statistics[id(layer)].add(x, mask)
        return call(x, training=False, mask=mask)

    run = outputs_with(model, {layer: partial(normalize_by_batch, layer) for layer in norms})
    drawn = mixed(data, BATCH_SIZE, batches * BATCH_SIZE)
    steps = itertools.islice(batches_of(model, drawn, BATCH_SIZE), batches)
    try:
        for x, _, _ in progress(steps, "Recalibrating", batches):
            run(x)
    except BaseException:
        for layer_statistics in statistics.values():
            layer_statistics.restore()
        raise
    for layer_statistics in statistics.values():
        layer_statistics.finish()


class _Statistics:
    """Mean and variance of one layer's inputs, summed over batches.

    While batches are added, the layer holds the statistics of the last one.
    """

    def __init__(self, layer):
        self.layer = layer
        self.count, self.sum, self.squares = 0.0, 0.0, 0.0
        self.before = [
            np.copy(keras.ops.convert_to_numpy(v))
            for v in (layer.moving_mean, layer.moving_variance)
        ]

    def add(self, x, mask):
        axis, x = self.layer.axis, keras.ops.cast(x, "float32")
        if mask is not None:  # padding has no part in the statistics, as in Keras' own training
            rows = np.moveaxis(keras.ops.convert_to_numpy(x), axis, -1)
            axis, x = -1, rows[np.asarray(keras.ops.convert_to_numpy(mask), bool)]
        count = math.prod(x.shape) // x.shape[axis]
        if not count:
            return
        mean, variance = _moments(keras.ops.moveaxis(x, axis, -1), count)
        self.count += count
        self.sum += count * mean
        self.squares += count * (variance + mean**2)
        self._assign(mean, variance)

    def finish(self):
        if self.count:
            mean = self.sum / self.count
            self._assign(mean, np.maximum(self.squares / self.count - mean**2, 0))

    def restore(self):
        self._assign(*self.before)

    def _assign(self, mean, variance):
        self.layer.moving_mean.assign(mean)
        self.layer.moving_variance.assign(variance)


def _moments(x, count):
    """Mean and variance of each channel, of which each has `count` numbers, as float64."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # TensorFlow's kernel for training takes less than half the time of the two reductions.
        examples = x.shape[0] if len(x.shape) > 2 else -1  # cuDNN takes no millions of them
        x = tf.reshape(x, (examples, 1 if examples == -1 else -1, 1, x.shape[-1]))
        _, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, tf.ones(x.shape[-1]), tf.zeros(x.shape[-1])
        )
        variance *= (count - 1) / count  # it divides by one less
    else:
        others = list(range(len(x.shape) - 1))
        mean = keras.ops.mean(x, others, keepdims=True)
        # `ops.moments` would subtract two large numbers where the mean is large
        variance = keras.ops.mean(keras.ops.square(x - mean), others)
    found = map(keras.ops.convert_to_numpy, (mean, variance))
    return [np.asarray(values, "float64").reshape(-1) for values in found]
