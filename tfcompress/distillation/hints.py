"""Hints: features of the teacher that the student learns to give as well."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from tfcompress.distillation.labels import weighted_mean
from tfcompress.graph.features import find
from tfcompress.graph.private_keras import compute_output_spec
from tfcompress.utils.checks import is_number
from tfcompress.utils.types import Activation, Config, InputShape, Loss, Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Hint:
    """A layer of the student that learns what a layer of the teacher gives (FitNets).

    `weight * loss(teacher's feature, regressor(student's feature))`, the mean over all units.

    Cost: the regressor, in training only; it is no part of the student.

    Args:
        student, teacher: where the features are: the name of a layer or operation, its path at any
            depth (`"block2/conv1"`; `"conv:1"` is the second call), the layer, or a symbolic
            tensor. Of several teachers, the first is meant.
        regressor: what maps the student's feature to the teacher's shape and is trained with it.
            `"auto"`: nothing for equal shapes; a matrix on the last axis, which on maps is a 1x1
            convolution, after resizing them to the teacher's size; with the teacher's own
            activation. `"valid"`: FitNets' convolution without padding, large enough to bring the
            student's maps to the teacher's size. A `keras.layers.Layer` of your own. None: nothing,
            the loss compares the features as they are.
        loss: a Keras loss, or a function `(teacher, student)` that gives one value or more for each
            example, such as `tfcompress.distill_losses.attention_transfer`.
        weight: of this loss in the sum.

    Raises:
        ValueError: bad arguments; from `Distiller`, shapes that no regressor can match.

    >>> Hint(student="conv3", teacher="block2/out", weight=0.1).loss
    'mse'

    Paper: A. Romero et al., "FitNets: Hints for Thin Deep Nets", 2015. There the loss is half the
    sum over units instead of the mean.
    """

    student: Any
    teacher: Any
    regressor: Any = "auto"
    loss: Any = "mse"
    weight: float = 1.0

    def __post_init__(self):
        layer = isinstance(self.regressor, keras.layers.Layer)
        if not layer and self.regressor not in ("auto", "valid", None):
            raise ValueError(
                "Expected `regressor` 'auto', 'valid', None or a layer. "
                f"Received: {self.regressor!r}"
            )
        if not is_number(self.weight) or not self.weight > 0:
            raise ValueError(f"Expected `weight` above 0. Received: weight={self.weight!r}")
        loss_function(self.loss)


class Link:
    """A hint between two models that are known: where it is in them, and its regressor.

    A plain object; `Distiller` holds the regressor as well, so that Keras tracks and saves it.
    """

    def __init__(self, hint: Any, student: keras.Model, teacher: Tensor) -> None:
        self.hint = hint
        self.student = find(student, hint.student)
        self.teacher = None if teacher is None else find(teacher, hint.teacher)
        self.loss = loss_function(hint.loss)
        self.regressor = hint.regressor
        if isinstance(hint.regressor, str):
            if teacher is None:
                raise ValueError("Without a teacher, a hint needs a layer as `regressor`, or None.")
            self.regressor = _regressor(hint.regressor, self.student, self.teacher)
        self._check()

    def value(self, teacher: Tensor, feature: Tensor) -> Tensor:
        """The loss before it is weighted, `(b, ...)`."""
        if self.regressor is not None:
            feature = self.regressor(feature, training=True)
        return self.loss(ops.cast(teacher, "float32"), ops.cast(feature, "float32"))

    def again(self) -> "Link":
        """The hint as it was resolved, for another teacher."""
        hint, place = self.hint, self.student.name
        return replace(hint, student=place, regressor=self.regressor)

    def config(self) -> dict:
        """The arguments of the hint that do without the teacher and the objects of this process."""
        return {
            "student": self.student.name,
            "teacher": self.hint.teacher if self.teacher is None else self.teacher.name,
            "regressor": self.regressor,
            "loss": self.hint.loss,
            "weight": self.hint.weight,
        }

    def _check(self):
        """Builds the regressor, and raises unless the two features can be compared."""
        shape = self.student.shape
        try:
            if self.regressor is not None:
                if not self.regressor.built:
                    self.regressor.build(shape)
                shape = self.regressor.compute_output_shape(shape)
            if self.teacher is None:
                return
            if isinstance(self.hint.loss, (str, keras.losses.Loss)) and not _agree(
                shape, self.teacher.shape
            ):
                raise ValueError(f"The loss would compare {shape} with {self.teacher.shape}.")
            compute_output_spec(
                self.loss, keras.KerasTensor(self.teacher.shape), keras.KerasTensor(shape)
            )
        except Exception as error:  # whatever a regressor or a loss does with a wrong shape
            raise _mismatch(self.student, self.teacher, str(error)) from error


@keras.saving.register_keras_serializable("tfcompress")
class Regressor(keras.layers.Layer):
    """A linear map of features to another shape, then an activation; it exists in training only.

    Vectors and sequences `(b, ..., i) -> (b, ..., o)`: a matrix, `i o` multiply-adds. Maps
    `(b, h, w, i)`: resized to `size` if given, then a convolution without padding,
    `h' w' kh kw i o`.

    Its weights are no layer's "kernel", so that pruners and projections leave them alone.

    Args:
        units: o.
        size: `(h, w)` to resize maps to, or None.
        window: `(kh, kw)` of the convolution.
        activation: as in Keras' layers.

    >>> Regressor(5, size=(4, 4)).compute_output_shape((None, 8, 8, 3))
    (None, 4, 4, 5)
    """

    def __init__(
        self,
        units: int,
        size: int | None = None,
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


def hint_loss(links: Any, targets: Any, features: Any, sample_weight: Tensor = None) -> Tensor:
    """The weighted sum of the hints' losses."""
    terms = zip(links, targets, features, strict=True)
    return sum(
        link.hint.weight * weighted_mean(link.value(target, feature), sample_weight)
        for link, target, feature in terms
    )


def loss_function(loss: Loss) -> Callable[..., Any]:
    """A function `(teacher, student) -> value or values for each example`."""
    loss = keras.losses.get(loss)
    if loss is None or isinstance(loss, type):
        raise ValueError(f"Expected a Keras loss or a function as `loss`. Received: {loss!r}")
    return loss.call if isinstance(loss, keras.losses.Loss) else loss


def _regressor(kind, student, teacher):
    """The regressor that the shapes call for, or None."""
    own, wanted = student.shape[1:], teacher.shape[1:]
    maps = len(own) == 3
    if len(own) != len(wanted) or not own or own[-1] is None or wanted[-1] is None:
        raise _mismatch(student, teacher, "They differ in rank, or their last axis is not known.")
    if maps and keras.config.image_data_format() == "channels_first":
        raise _mismatch(student, teacher, "Regressors are for channels that come last.")
    options = {"activation": teacher.activation, "dtype": "float32"}
    equal = own[:-1] == wanted[:-1]
    known = None not in own[:-1] + wanted[:-1]
    if kind == "valid":
        if not maps or not known or own[0] < wanted[0] or own[1] < wanted[1]:
            raise _mismatch(student, teacher, "'valid' takes maps as large as the teacher's.")
        window = (own[0] - wanted[0] + 1, own[1] - wanted[1] + 1)
        return Regressor(wanted[-1], window=window, **options)
    if own == wanted:
        return None
    if not equal and not (maps and known):
        raise _mismatch(student, teacher, "Only maps of known sizes can be resized.")
    return Regressor(wanted[-1], size=None if equal else wanted[:2], **options)


def _resized(x, size):
    """Maps of another size: means where it divides theirs, else bilinear."""
    if size is None or x.shape[1:3] == size:
        return x
    h, w = x.shape[1:3]
    if h % size[0] == 0 and w % size[1] == 0:
        pool = (h // size[0], w // size[1])
        return ops.average_pool(x, pool, strides=pool, data_format="channels_last")
    return ops.image.resize(x, size, antialias=True, data_format="channels_last")


def _agree(shape, other):
    return len(shape) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(shape[1:], other[1:], strict=True)
    )


def _mismatch(student, teacher, reason):
    return ValueError(
        f"The student's '{student.name}' {student.shape} cannot be matched to the teacher's "
        f"'{teacher and teacher.name}' {teacher and teacher.shape}. {reason} Choose layers of a "
        "like shape, or give a layer as `regressor` that maps one to the other."
    )
