"""Whether a model can take some inputs."""

from typing import Any

import keras

NOT_BATCHED = (
    "Expected batches of examples, and `data` yields single ones: give `data.batch(32)`. "
    "Received: {}"
)


def check_inputs(model: keras.Model | None, x: Any) -> None:
    """Raises `ValueError` for inputs whose shapes are not those of the model's inputs."""
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    given = keras.tree.flatten(x)
    names = [tensor.name for tensor in inputs]
    if isinstance(x, dict) and set(names) <= set(x):  # by name, whatever their order
        given = [x[name] for name in names]
    expected = [tuple(tensor.shape) for tensor in inputs]
    received = [None if array is None else tuple(array.shape) for array in given]
    if expected and not any(tensor.dtype == "string" for tensor in inputs):
        _check_numbers(given)
    if not expected or _fit(received, expected):
        return
    if _fit([shape and (None, *shape) for shape in received], expected):
        raise ValueError(NOT_BATCHED.format(f"inputs of shapes {received}"))
    pair = " Labels are given in a tuple, `(x, y)`." if isinstance(x, list) else ""
    raise ValueError(
        f"Expected inputs of shapes {expected} in `data`, the model's.{pair} Received: {received}"
    )


def _fit(received, expected) -> bool:
    return len(received) == len(expected) and all(map(_fits, received, expected))


def _fits(got, wanted) -> bool:
    if got is None:  # of an optional input; the model itself raises for others
        return True
    # Keras adds or takes a last axis of size 1 where the rank is off by one.
    if len(got) == len(wanted) + 1 and got[-1] == 1:
        got = got[:-1]
    elif len(got) == len(wanted) - 1 and wanted[-1] == 1:
        wanted = wanted[:-1]
    return len(got) == len(wanted) and all(
        None in (one, other) or one == other for one, other in zip(got[1:], wanted[1:], strict=True)
    )


def _check_numbers(arrays):
    for array in arrays:
        if array is not None and getattr(array.dtype, "kind", "") in ("U", "S"):
            raise ValueError(
                "Expected `data` to hold numbers, as the model takes. Texts and paths of files "
                "become numbers first, as by `keras.layers.TextVectorization`. "
                f"Received: {array.ravel()[:1]!r:.80}"
            )
