"""Records how sparse each layer is, epoch by epoch."""

import importlib.util
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.pruning.masks import prunable_or_none
from tfcompress.utils.checks import check_path
from tfcompress.utils.types import Logs, Path


class Monitor(keras.callbacks.Callback):
    """Records the share of zeros of each kernel at the end of each epoch.

    Kernels are those that `Prune` may prune: a binary layer, which has no zeros, has no record.

    Args:
        log_dir: folder for TensorBoard, which then shows a curve `epoch_sparsity/<layer path>` for
            each kernel beside the curves of the logs; or None. It needs `pip install tensorboard`.

    Attributes:
        sparsity: `{layer path: list of the shares of zeros, one for each epoch}`.

    Raises:
        ImportError: `log_dir` is given and TensorBoard is not installed.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="out")])
    >>> model.compile("sgd", "mse")
    >>> monitor = Monitor()
    >>> _ = model.fit(np.ones((8, 4)), np.ones(8), epochs=2, callbacks=[monitor], verbose=0)
    >>> monitor.sparsity
    {'out': [0.0, 0.0]}
    """

    def __init__(self, log_dir: Path | None = None) -> None:
        super().__init__()
        self.sparsity = {}
        self._board = None
        if log_dir is not None:
            check_path(log_dir, "log_dir")
            if importlib.util.find_spec("tensorboard") is None:
                raise ImportError("`log_dir` needs TensorBoard: pip install tensorboard")
            self._board = keras.callbacks.TensorBoard(log_dir, write_graph=False)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        if self._board:
            self._board.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if self._board:
            self._board.set_model(model)

    def on_train_begin(self, logs: Logs = None) -> None:
        self.sparsity = {path: [] for path in prunable_or_none(self.model)}
        self._epochs = 0
        if self._board:
            self._board.on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        for path, variable in prunable_or_none(self.model).items():
            shares = self.sparsity.setdefault(path, [math.nan] * self._epochs)  # new in training
            shares.append(float(np.mean(ops.convert_to_numpy(variable) == 0)))
        self._epochs += 1
        if self._board:
            shares = {f"sparsity/{path}": shares[-1] for path, shares in self.sparsity.items()}
            self._board.on_epoch_end(epoch, {**(logs or {}), **shares})

    def on_train_end(self, logs: Logs = None) -> None:
        if self._board:
            self._board.on_train_end(logs)
