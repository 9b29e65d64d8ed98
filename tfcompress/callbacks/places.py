"""Where callbacks act in a `fit`: `Prune` before others, and at the end what must be last."""

from typing import Any

import keras

from tfcompress.callbacks.best_epochs import AtTheEnd
from tfcompress.utils.types import Logs


class AtTheBatchEnd(keras.callbacks.Callback):
    """Prunes at the end of each batch before callbacks that are listed before `Prune`."""

    def __init__(self, prune: Any) -> None:
        super().__init__()
        self.prune = prune

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.prune.end_batch(batch)


class MeasuredLast(keras.callbacks.Callback):
    """Measures batch normalization once every other callback has restored what it restores."""

    def __init__(self, callback: Any) -> None:
        super().__init__()
        self.recalibrates_for = callback

    def on_train_end(self, logs: Logs = None) -> None:
        self.recalibrates_for.measure()


def take_places(prune: Any, kind: type, listed: keras.callbacks.CallbackList) -> bool:
    """Puts what acts for a `Prune` into its list; returns whether any of it acts at batch ends.

    `kind` is `Prune`; several of them keep their order.
    """
    leave_places(prune, listed)  # a training that broke off leaves them in a list of one's own
    others = listed.callbacks
    own = [i for i, one in enumerate(others) if one is prune]
    if len(own) > 1:
        raise ValueError(f"List a callback once. {prune!r} is in the list {len(own)} times.")
    before = others[: own[0]] if own else []
    foreign = [not isinstance(one, (kind, AtTheBatchEnd)) and _acts(one) for one in before]
    first = [AtTheBatchEnd(prune)] if any(foreign) else []
    at = foreign.index(True) if first else 0
    last = AtTheEnd(prune, others)
    for one in (*first, last):
        one.set_params(prune.params)
        one.set_model(prune.model)
    # a new list, since the old one is being walked through
    ends = [one for one in others if isinstance(one, MeasuredLast)]
    others = [one for one in others if not isinstance(one, MeasuredLast)]
    listed.callbacks = [*others[:at], *first, *others[at:], last, *ends]
    return bool(first)


def leave_places(prune: Any, listed: keras.callbacks.CallbackList) -> None:
    """Takes away what `take_places` put into a list."""
    added = AtTheBatchEnd, AtTheEnd
    listed.callbacks = [
        one for one in listed.callbacks if not (isinstance(one, added) and one.prune is prune)
    ]


def _acts(callback):
    """Whether a callback does anything at the end of a training batch."""
    return any(
        getattr(getattr(callback, name), "__func__", None)
        is not getattr(keras.callbacks.Callback, name)
        for name in ("on_train_batch_end", "on_batch_end")
    )
