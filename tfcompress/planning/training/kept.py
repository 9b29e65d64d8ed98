"""Training that keeps what a model is: zeros stay zero, and discrete kernels as they are."""

import contextlib
from collections.abc import Iterator

import keras
from keras import ops

from tfcompress.graph.paths import walk
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.numerics.what_a_kernel_is import is_discrete, is_pruned
from tfcompress.pruning.masks import prunable
from tfcompress.utils.arrays import to_numpy


class KeepZeros(keras.callbacks.Callback):
    """Zeroes the weights of a student that are zero in the original, after each batch.

    Args:
        original: the model as it was.
        student: the model that is trained, alone or inside another one.
    """

    def __init__(self, original: keras.Model, student: keras.Model) -> None:
        super().__init__()
        before, now = _prunable(original), _prunable(student)
        layers = {path: layer for path, (layer, _) in walk(student).items()}
        self.masks = []
        for path, variable in before.items():
            w, layer = to_numpy(variable), layers.get(path)
            if is_pruned(w):
                mask = ops.convert_to_tensor(w != 0)
                parts = layer.parts.values() if isinstance(layer, CompressedLayer) else []
                held = [now[path]] if path in now else [p for p in parts if p.trainable]
                self.masks += [(v, mask) for v in held if tuple(v.shape) == w.shape]

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.zero()

    def zero(self) -> None:
        """Zeroes the weights now."""
        for variable, mask in self.masks:
            variable.assign(ops.where(mask, ops.convert_to_tensor(variable), 0))


@contextlib.contextmanager
def discrete_kernels_frozen(original: keras.Model, student: keras.Model) -> Iterator[None]:
    """While open, the kernels of a student that are discrete in the original do not train."""
    frozen = []
    found = {path: layer for path, (layer, _) in walk(student).items()}
    for path, (layer, _) in walk(original).items():
        kernel, now = getattr(layer, "kernel", None), found.get(path)
        if isinstance(kernel, keras.Variable) and now is not None and is_discrete(to_numpy(kernel)):
            own = now.parts.values() if isinstance(now, CompressedLayer) else [now.kernel]
            frozen += [v for v in own if isinstance(v, keras.Variable) and v.trainable]
    for variable in frozen:
        variable.trainable = False
    try:
        yield
    finally:
        for variable in frozen:
            variable.trainable = True


def _prunable(model):
    try:
        return prunable(model)
    except ValueError:  # it has nothing that could be pruned
        return {}
