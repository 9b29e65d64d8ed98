"""How many batches came before those of a `fit`."""

import keras


def steps_before(callback: keras.callbacks.Callback, epoch: int) -> int:
    """The number of batches in the epochs before `epoch`, with which a `fit` begins.

    Where the length of an epoch is unknown, the optimizer has counted the steps of the `fit` that
    this one resumes. On TensorFlow these are up to one more for each epoch, since Keras finds the
    end of such data by a step that fails.
    """
    steps = (callback.params or {}).get("steps")
    optimizer = getattr(callback.model, "optimizer", None)
    if epoch and not steps and optimizer is not None:
        return int(optimizer.iterations)
    return epoch * (steps or 0)
