"""Several steps of a graph in a row, which TensorFlow runs as one function.

Step by step, Keras' own code takes about a millisecond for each call of a layer, and so most of the
time of a small batch. A function runs it once, when it is traced.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import keras

from tfcompress.graph.private_keras import mask_of, with_mask
from tfcompress.graph.steps import Step
from tfcompress.utils.types import Tensor

Values = dict[int, tuple[Tensor, Tensor]]  # by their keys: before and after the changes


class Stretch:
    """Steps that run one after the other, before and after the changes.

    A step runs once where neither it nor what arrives has changed.

    Args:
        steps: of a graph.
        changed: for each step the operation as it is now.
        fixed: whether the batches are of one length, on which the operations may count.
        eager: whether to run step by step on every backend.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        changed: Sequence[Any],
        fixed: bool = False,
        eager: bool = False,
    ) -> None:
        self.steps, self.changed, self.fixed = steps, changed, fixed
        self.arriving = {key for step in steps for _, key in step.arriving}
        self.traced = None if eager or keras.backend.backend() != "tensorflow" else {}

    def __call__(self, values: Values) -> None:
        """Runs on the values of a batch, which those that leave replace."""
        if self.traced is None:
            self._run(values)
            return
        arriving = {key: values.pop(key) for key in self.arriving & values.keys()}
        tensors, layout = _flattened(arriving)
        shapes = tuple(self._shape(tensor.shape) for tensor in tensors)
        if (layout, shapes) not in self.traced:
            self.traced[layout, shapes] = self._trace(tensors, layout, shapes)
        function, leaving = self.traced[layout, shapes]
        values |= _unflattened(function(*tensors), leaving)

    def _shape(self, shape):
        return shape if self.fixed or not len(shape) else (None, *shape[1:])

    def _trace(self, tensors, layout, shapes):
        """A function of TensorFlow for tensors of these shapes, and the layout of what it gives."""
        import tensorflow as tf

        leaving = None

        def flat(*tensors):
            nonlocal leaving
            values = _unflattened(tensors, layout)
            self._run(values)
            outputs, leaving = _flattened(values)
            return outputs

        specs = [tf.TensorSpec(s, t.dtype) for s, t in zip(shapes, tensors, strict=True)]
        # Without autograph, as Keras' own `predict`.
        function = tf.function(flat, autograph=False).get_concrete_function(*specs)
        return function, leaving

    def _run(self, values):
        for step, changed in zip(self.steps, self.changed, strict=True):
            before, now = arguments_of(step, values)
            outputs = same = keras.tree.flatten(step.node.operation(*before[0], **before[1]))
            if changed is not step.node.operation or not _same(before, now):
                same = keras.tree.flatten(changed(*now[0], **now[1]))
            values |= dict(zip(step.leaving, zip(outputs, same, strict=True), strict=True))
            for key in step.done:
                values.pop(key, None)


def arguments_of(step: Step, values: Values) -> list[tuple]:
    """The arguments of a step before and after the changes, each `(args, kwargs)`."""
    return [
        step.node.arguments.fill_in({tensor: values[key][i] for tensor, key in step.arriving})
        for i in (0, 1)
    ]


def _same(one, other) -> bool:
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(a is b for a, b in pairs)


def _flattened(values: Values) -> tuple[list, Hashable]:
    """Each tensor and mask once, and where it belongs: `{key: (place, place of its mask), ...}`.

    A function of TensorFlow takes neither masks nor the same tensor in two places as such.
    """
    tensors, places = [], {}

    def place(tensor):
        if tensor is None:
            return None
        if id(tensor) not in places:
            places[id(tensor)] = len(tensors)
            tensors.append(tensor)
        return places[id(tensor)]

    def both(tensor):
        return place(tensor), place(mask_of(tensor))

    return tensors, tuple((key, *map(both, pair)) for key, pair in sorted(values.items()))


def _unflattened(tensors: list, layout: Hashable) -> Values:
    masks = {place: mask for _, *pair in layout for place, mask in pair if mask is not None}
    tensors = list(tensors)
    for place, mask in masks.items():
        tensors[place] = with_mask(tensors[place], tensors[mask])
    return {key: (tensors[before[0]], tensors[now[0]]) for key, before, now in layout}
