"""The trainable map from a student's feature to the shape of a teacher's feature."""

from typing import Any

import keras
from keras import ops

from tfcompress.utils.types import Activation, Config, InputShape, Tensor


@keras.saving.register_keras_serializable("tfcompress")
class Regressor(keras.layers.Layer):
    """A linear map of features to another shape, followed by an activation; for training only.

    Letters: b batch, h w space, i inputs, o outputs. Vectors and sequences `(b, ..., i)` are
    multiplied by a matrix, at a cost of `i o` multiply-adds. Maps `(b, h, w, i)` are resized to
    `size`, if that is given, and pass a convolution without padding, at a cost of
    `h' w' kh kw i o`.

    Its weights are not called "kernel", so that pruners and projections leave them alone.

    Args:
        units: number of outputs.
        size: `(h, w)` to which maps are resized, or None.
        window: `(kh, kw)` of the convolution.
        activation: as in the layers of Keras.

    >>> Regressor(5, size=(4, 4)).compute_output_shape((None, 8, 8, 3))
    (None, 4, 4, 5)
    """

    def __init__(
        self,
        units: int,
        size: tuple[int, int] | None = None,
        window: tuple[int, int] = (1, 1),
        activation: Activation = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.size = None if size is None else tuple(size)
        self.window = tuple(window)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: InputShape) -> None:
        window = self.window if len(input_shape) == 4 else ()
        self.matrix = self.add_weight(
            shape=(*window, input_shape[-1], self.units), initializer="glorot_uniform", name="map"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        if len(x.shape) == 4:
            x = _resized(x, self.size)
            x = ops.conv(x, self.matrix, padding="valid", data_format="channels_last")
        else:
            x = ops.matmul(x, self.matrix)
        return self.activation(x + self.bias)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        if len(input_shape) != 4:
            return (*input_shape[:-1], self.units)
        sizes = zip(self.size or input_shape[1:3], self.window, strict=True)
        return (input_shape[0], *(n and n - k + 1 for n, k in sizes), self.units)

    def get_config(self) -> Config:
        return super().get_config() | {
            "units": self.units,
            "size": self.size,
            "window": self.window,
            "activation": keras.activations.serialize(self.activation),
        }


def regressor_for(kind: str, student: Any, teacher: Any) -> Regressor | None:
    """The regressor that the shapes of two features require, or None if they are equal.

    Args:
        kind: `"auto"` or `"valid"`, see `Hint`.
        student, teacher: places in the models, see `graph.features.find`.

    Raises:
        ValueError: no regressor can map one shape to the other.
    """
    own, wanted = student.shape[1:], teacher.shape[1:]
    maps = len(own) == 3  # (h, w, channels)
    if len(own) != len(wanted) or not own or own[-1] is None or wanted[-1] is None:
        raise mismatch(student, teacher, "They differ in rank, or their last axis is not known.")
    if maps and keras.config.image_data_format() == "channels_first":
        raise mismatch(student, teacher, "Regressors are for channels that come last.")
    options = {"activation": teacher.activation, "dtype": "float32"}
    equal = own[:-1] == wanted[:-1]
    known = None not in own[:-1] + wanted[:-1]
    if kind == "valid":
        if not maps or not known or own[0] < wanted[0] or own[1] < wanted[1]:
            raise mismatch(student, teacher, "'valid' takes maps as large as the teacher's.")
        window = (own[0] - wanted[0] + 1, own[1] - wanted[1] + 1)
        return Regressor(wanted[-1], window=window, **options)
    if own == wanted:
        return None
    if not equal and not (maps and known):
        raise mismatch(student, teacher, "Only maps of known sizes can be resized.")
    return Regressor(wanted[-1], size=None if equal else wanted[:2], **options)


def _resized(x, size):
    """Maps of another size: by mean pooling if it divides the old size, else bilinear."""
    if size is None or x.shape[1:3] == size:
        return x
    h, w = x.shape[1:3]
    if h % size[0] == 0 and w % size[1] == 0:
        pool = (h // size[0], w // size[1])
        return ops.average_pool(x, pool, strides=pool, data_format="channels_last")
    return ops.image.resize(x, size, antialias=True, data_format="channels_last")


def mismatch(student: Any, teacher: Any, reason: str) -> ValueError:
    """The error for two features that cannot be compared."""
    return ValueError(
        f"The student's {student.name!r} {student.shape} cannot be matched to the teacher's "
        f"'{teacher and teacher.name}' {teacher and teacher.shape}. {reason} Choose layers of "
        "similar shapes, or give a layer as `regressor` that maps one to the other."
    )
