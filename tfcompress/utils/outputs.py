"""What belongs to each output of a model: losses, labels, weights."""

from typing import Any

import keras

from tfcompress.utils.types import Tensor


def per_output(values: Any, outputs: Tensor, names: list[str] | None) -> list:
    """One entry for each output, in any of the forms that Keras accepts.

    Args:
        values: losses, labels or weights: one for all outputs, a dict by name, or a structure like
            that of the outputs.
        outputs: the outputs of the model.
        names: the names of the outputs, for outputs that are not a dict.

    Raises:
        ValueError: there is not one entry for each output.
    """
    count = len(keras.tree.flatten(outputs))
    names = sorted(outputs) if isinstance(outputs, dict) else names
    if isinstance(values, dict) and names:
        if unknown := set(values) - set(names):
            raise ValueError(f"There are no outputs {sorted(unknown)}. The model has {names}.")
        values = [values.get(name) for name in names]
    flat = list(keras.tree.flatten(values))
    flat = flat * count if len(flat) == 1 else flat
    if len(flat) != count:
        raise ValueError(
            f"Expected one entry for each of the {count} outputs (NaN, or -1 for the number of "
            f"a class, where a label is unknown). Received: {len(flat)}"
        )
    return flat
