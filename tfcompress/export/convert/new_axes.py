"""New axes as EXPAND_DIMS, where a layer writes `mask[:, None, None]`.

TensorFlow makes a strided slice of that, which the stock converter does not take for tensors of
booleans, nor where it makes five axes with unknown sizes: the masks of attention.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

ONE_AT_A_TIME = threading.RLock()


@contextmanager
def new_axes_as_operators() -> Iterator[None]:
    """While it lasts, indices that only add axes to a tensor do so by `tf.expand_dims`.

    Other threads see the same values: the indexing of tensors itself stays as it is.
    """
    ONE_AT_A_TIME.acquire()
    plain = tf.Tensor.__getitem__

    def getitem(tensor: tf.Tensor, key: Any) -> tf.Tensor:
        places = _new_axes(tensor, key)
        if places is None:
            return plain(tensor, key)
        for place in places:
            tensor = tf.expand_dims(tensor, place)
        return tensor

    tf.Tensor.__getitem__ = getitem
    try:
        yield
    finally:
        tf.Tensor.__getitem__ = plain
        ONE_AT_A_TIME.release()


def _new_axes(tensor, key) -> list[int] | None:
    """Where an index adds axes, in ascending order; None if it is of another kind."""
    parts = list(key) if isinstance(key, tuple) else [key]
    rank = tensor.shape.rank
    kinds = [_kind(part) for part in parts]
    if rank is None or None in kinds or "new" not in kinds or kinds.count("rest") > 1:
        return None
    left = rank - kinds.count("whole")
    if left < 0:
        return None
    if "rest" in kinds:
        place = kinds.index("rest")
        kinds[place : place + 1] = ["whole"] * left
    return [place for place, kind in enumerate(kinds) if kind == "new"]


def _kind(part) -> str | None:
    if part is None or part is tf.newaxis:
        return "new"
    if part is Ellipsis:
        return "rest"
    return "whole" if isinstance(part, slice) and part == slice(None) else None
