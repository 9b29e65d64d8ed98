"""Training that shows where it is, as `verbose` around it says."""

import contextlib

import keras

from tfcompress.utils.progress import showing
from tfcompress.utils.types import Logs


class ShownEpochs(keras.callbacks.Callback):
    """Shows the epochs of a training and the batches of each: two loops of the display around."""

    def on_train_begin(self, logs: Logs = None) -> None:
        self.open = contextlib.ExitStack()
        self.display = self.open.enter_context(showing())
        self.epochs = self.open.enter_context(
            self.display.loop("Training, epoch", self.params.get("epochs"))
        )

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.epochs.at(str(epoch + 1))
        self.of_epoch = contextlib.ExitStack()
        loop = self.display.loop("Batches", self.params.get("steps"))
        self.batches = self.of_epoch.enter_context(loop)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.batches.done()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.of_epoch.close()
        found = ", ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items())
        self.epochs.done(found)

    def on_train_end(self, logs: Logs = None) -> None:
        self.open.close()
