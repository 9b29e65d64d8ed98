"""Batch normalization statistics of the network that inference runs, at each evaluation."""

import keras

from tfcompress.measure.batch_norm import recalibrate_batch_norm
from tfcompress.utils.batches import check_repeats
from tfcompress.utils.types import Data, Logs


class RecalibrateBatchNorm(keras.callbacks.Callback):
    """Recalibrates batch normalization before each evaluation in `fit`, and at its end.

    For layers that compute otherwise in training than in inference: with stochastic BinaryConnect
    the moving statistics are those of drawn weights, and inference uses their mean. Training is
    not touched, for it normalizes by the statistics of its own batches.

    Cost: `batches` forward passes of 64 examples, at each evaluation.

    Args:
        data: inputs that can be read more than once, see `tfcompress.recalibrate_batch_norm`;
            labels are ignored.
        batches: how many batches to use at most.

    Example:

    >>> import numpy as np, tfcompress as tfc
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         tfc.layers.BinaryDense(8, stochastic=True),
    ...         keras.layers.BatchNormalization(),
    ...     ]
    ... )
    >>> model.compile("adam", "mse")
    >>> x = np.ones((64, 4))
    >>> _ = model.fit(x, x @ np.ones((4, 8)), callbacks=[RecalibrateBatchNorm(x)], verbose=0)
    >>> model.layers[0].bits  # the real weights and 8 scales
    1280
    >>> model.layers[0].binarize()
    >>> model.layers[0].bits
    288

    Paper: M. Courbariaux, Y. Bengio, J.-P. David, "BinaryConnect", 2015, for the choice of weights;
    the paper leaves the statistics as they are.
    """

    def __init__(self, data: Data, batches: int = 40) -> None:
        super().__init__()
        check_repeats(data, 2)
        self.data, self.batches, self.fitting = data, batches, False

    def on_train_begin(self, logs: Logs = None) -> None:
        self.fitting = True

    def on_test_begin(self, logs: Logs = None) -> None:
        if self.fitting:
            recalibrate_batch_norm(self.model, self.data, self.batches)

    def on_train_end(self, logs: Logs = None) -> None:
        recalibrate_batch_norm(self.model, self.data, self.batches)
        self.fitting = False
