"""Lets a variable follow a schedule during `fit`."""

from typing import Any

import keras

from tfcompress.callbacks.steps import steps_before
from tfcompress.schedules import check_schedule, value_at
from tfcompress.utils.types import Logs, Schedule


class Anneal(keras.callbacks.Callback):
    """Sets a variable of an object to the value of a schedule before each batch of `fit`.

    The step counts the batches of this `fit`, including those of epochs before `initial_epoch`:
    where the length of an epoch is unknown, these are the steps that the optimizer has done. `logs`
    gets the value under the name of the attribute.

    Args:
        target: the object that has the variable, such as a `tfc.Distiller`, a layer or an
            optimizer.
        attribute: the name of the attribute, such as `"alpha"`.
        schedule: function of the step that returns the value: one of `tfcompress.schedules` or any
            callable.

    Raises:
        TypeError: the attribute is not a `keras.Variable`, or the schedule is not callable. A
            compiled training step would not notice that a plain attribute changes.

    Example:

    >>> import numpy as np
    >>> from tfcompress.schedules import Linear
    >>> layer = keras.layers.Dense(1)
    >>> layer.build((None, 1))
    >>> model = keras.Sequential([keras.Input((1,)), layer])
    >>> model.compile("sgd", "mse")
    >>> anneal = Anneal(model.optimizer, "learning_rate", Linear(1.0, 0.0, steps=4))
    >>> x, y = np.ones((4, 1)), np.ones(4)
    >>> history = model.fit(x, y, batch_size=1, verbose=0, callbacks=[anneal])
    >>> history.history["learning_rate"]
    [0.25]
    """

    def __init__(self, target: Any, attribute: str, schedule: Schedule) -> None:
        super().__init__()
        variable = getattr(target, attribute, None)
        if not isinstance(variable, keras.Variable):
            raise TypeError(
                f"Expected `{attribute}` of {target!r} to be a `keras.Variable`; a plain value "
                f"would be fixed in the compiled training step. Received: {variable!r}"
            )
        self.target, self.attribute = target, attribute
        self.schedule = check_schedule(schedule)

    def on_train_begin(self, logs: Logs = None) -> None:
        self._done = self._set = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self._done is None:
            self._done = steps_before(self, epoch)
        self._epoch_begin = self._done

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        value = value_at(self.schedule, self._done, self._set)
        self._set = self._done
        if value is not None:
            self.model  # noqa: B018  on JAX this brings the variables up to date
            getattr(self.target, self.attribute).assign(value)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # with `steps_per_execution` the last batch number may lie behind the epoch's end
        steps = self.params.get("steps") or float("inf")
        self._done = self._epoch_begin + int(min(batch + 1, steps))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            self.model  # noqa: B018
            logs[self.attribute] = float(getattr(self.target, self.attribute))
