"""Measures batch normalization statistics again at each evaluation during `fit`."""

import keras

from tfcompress.callbacks.places import MeasuredLast
from tfcompress.graph.private_training import callback_list
from tfcompress.measure.batch_norm import recalibrate_batch_norm
from tfcompress.utils.batches import check_repeats
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import Data, Logs


class RecalibrateBatchNorm(keras.callbacks.Callback):
    """Recalibrates batch normalization before each evaluation during `fit`, and at its end.

    At the end it is the last to act, wherever it stands in the list: after callbacks such as
    `EarlyStopping(restore_best_weights=True)` have restored what they restore.

    It is for layers that compute something else in training than in inference. With stochastic
    BinaryConnect, for example, the moving statistics belong to randomly drawn weights, and
    inference uses the mean of these weights. Training is not affected, since it normalizes by the
    statistics of its own batches.

    Cost: `batches` forward passes of 64 examples at each evaluation.

    Args:
        data: inputs that can be read more than once, see `tfcompress.recalibrate_batch_norm`;
            labels are ignored.
        batches: the largest number of batches to use.

    Raises:
        ValueError: `data` is a generator, which can be read only once; `batches` is below 1.

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

    Reference: Courbariaux et al., "BinaryConnect: Training Deep Neural Networks with binary weights
    during propagations", 2015. There the statistics are left as they are.
    """

    def __init__(self, data: Data, batches: int = 40) -> None:
        super().__init__()
        check_repeats(data, 2)
        whole_number(batches, "batches")
        self.data, self.batches, self.fitting = data, batches, False
        self._list = None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._list = callback_list()

    def on_train_begin(self, logs: Logs = None) -> None:
        self.fitting = True
        if self._list is not None:
            last = MeasuredLast(self)
            last.set_model(self.model)
            self._list.callbacks = [*self._others(), last]

    def on_test_begin(self, logs: Logs = None) -> None:
        if self.fitting:
            self.measure()

    def on_train_end(self, logs: Logs = None) -> None:
        if self._list is None:
            self.measure()
        else:  # what acts for this one still ends this training
            self._list.callbacks = self._others()
            self._list = None
        self.fitting = False

    def measure(self) -> None:
        """Measures the statistics now."""
        recalibrate_batch_norm(self.model, self.data, self.batches)

    def _others(self):
        listed = self._list.callbacks
        return [one for one in listed if getattr(one, "recalibrates_for", None) is not self]
