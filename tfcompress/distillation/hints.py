"""Hints: features of the teacher that the student learns to reproduce."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from tfcompress.distillation.labels import weighted_mean
from tfcompress.distillation.regressor import mismatch, regressor_for
from tfcompress.distillation.teacher import split
from tfcompress.graph.features import find
from tfcompress.graph.private_keras import compute_output_spec, mask_of
from tfcompress.graph.private_training import of_replica
from tfcompress.utils.checks import is_number
from tfcompress.utils.types import Config, Loss, Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Hint:
    """Lets a layer of the student learn the output of a layer of the teacher (FitNets).

    It adds `weight * loss(teacher's feature, regressor(student's feature))` to the loss, as the
    mean over all units.

    Cost: that of the regressor, in training only; the regressor is not part of the student.

    Args:
        student, teacher: where the features are: the name of a layer or operation, its path at any
            depth (`"block2/conv1"`; `"conv:1"` is the second call), the layer itself, or a symbolic
            tensor. With several teachers, the first one is used.
        regressor: maps the student's feature to the teacher's shape and is trained with the
            student. `"auto"`: nothing if the shapes are equal; otherwise a matrix on the last axis,
            followed by the activation of the teacher's layer. On maps the matrix is a 1x1
            convolution, and maps of another size are resized first. `"valid"`: as in FitNets, a
            convolution without padding whose window reduces the student's maps to the teacher's
            size. A `keras.layers.Layer` of your own. None: the loss compares the features as they
            are.
        loss: a Keras loss, or a function `(teacher, student)` that returns one or more values for
            each example, such as `tfcompress.distill_losses.attention_transfer`.
        weight: weight of this loss in the sum.

    Raises:
        ValueError: an argument is out of range. `Distiller` raises it if no regressor can match
            the shapes.

    >>> Hint(student="conv3", teacher="block2/out", weight=0.1).loss
    'mse'

    Reference: Romero et al., "FitNets: Hints for Thin Deep Nets", 2015. There the loss is half the
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
    """A hint between two given models: its places in their graphs, and its regressor.

    It is not a Keras object. `Distiller` holds the regressor as well, so that Keras tracks and
    saves it.
    """

    def __init__(self, hint: Hint, student: keras.Model, teacher: keras.Model | None) -> None:
        self.hint = hint
        self.student = find(student, hint.student)
        self.teacher = None if teacher is None else find(teacher, hint.teacher)
        self.loss = loss_function(hint.loss)
        self.regressor = hint.regressor
        if isinstance(hint.regressor, str):
            if teacher is None:
                raise ValueError("Without a teacher, a hint needs a layer as `regressor`, or None.")
            self.regressor = regressor_for(hint.regressor, self.student, self.teacher)
        self._check()

    def value(self, teacher: Tensor, feature: Tensor) -> Tensor:
        """The loss of each example before it is weighted, `(b, ...)`."""
        if self.regressor is not None:
            feature = self.regressor(feature, training=True)
        return self.loss(ops.cast(teacher, "float32"), ops.cast(feature, "float32"))

    def for_another_teacher(self) -> Hint:
        """The hint with its place in the student and its regressor, to be linked again."""
        hint, place = self.hint, self.student.name
        return replace(hint, student=place, regressor=self.regressor)

    def config(self) -> Config:
        """The arguments of the hint in a form that can be saved and needs no teacher."""
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
            if isinstance(self.hint.loss, (str, keras.losses.Loss)) and not _compatible(
                shape, self.teacher.shape
            ):
                raise ValueError(f"The loss would compare {shape} with {self.teacher.shape}.")
            compute_output_spec(
                self.loss, keras.KerasTensor(self.teacher.shape), keras.KerasTensor(shape)
            )
        except Exception as error:  # whatever a regressor or a loss does with a wrong shape
            raise mismatch(self.student, self.teacher, str(error)) from error


def hint_loss(
    links: Sequence[Link],
    targets: Sequence[Tensor],
    features: Sequence[Tensor],
    sample_weight: Tensor = None,
) -> Tensor:
    """The weighted sum of the losses of all hints, by replica.

    Args:
        links: the `Link`s.
        targets: the teacher's feature of each.
        features: the student's feature of each.
        sample_weight: weights of the examples or of positions, or None. Weights that differ
            between outputs say nothing about a hint.
    """
    weight = None if keras.tree.is_nested(sample_weight) else sample_weight
    total = 0.0
    for link, target, feature in zip(links, targets, features, strict=True):
        values = link.value(target, feature)
        mean = weighted_mean(values, _weight_for(values, weight), mask_of(feature))
        total = total + link.hint.weight * mean
    return of_replica(total)


def _weight_for(values, weight):
    """Weights of positions that are not those of the values become weights of examples."""
    if weight is None or tuple(weight.shape[1:]) == tuple(values.shape[1 : len(weight.shape)]):
        return weight
    return ops.mean(weight, axis=tuple(range(1, len(weight.shape))))


def loss_function(loss: Loss) -> Callable[..., Any]:
    """A Keras loss as a function `(teacher, student)` that returns values for each example."""
    loss = keras.losses.get(loss)
    if loss is None or isinstance(loss, type):
        raise ValueError(f"Expected a Keras loss or a function as `loss`. Received: {loss!r}")
    return loss.call if isinstance(loss, keras.losses.Loss) else loss


class HintStage(keras.Model):
    """FitNets' first stage: the student up to its guided layers learns the hints.

    Args:
        distiller: the `Distiller` whose student, regressors and hints are used.
    """

    def __init__(self, distiller: Any) -> None:
        super().__init__(dtype=distiller.dtype_policy, autocast=False)
        self.student = distiller._student.up_to
        self.regressors = list(distiller.regressors)
        self.built = True
        self._links, self._targets = distiller._links, distiller._targets
        self._outputs = distiller.student.outputs

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        inputs, _ = split(inputs)
        return keras.tree.flatten(self.student(inputs, training=training))

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        features = self._targets(x, self._outputs)[len(self._outputs) :]
        value = hint_loss(self._links, features, y_pred, sample_weight)
        return sum([value, *(of_replica(ops.sum(loss)) for loss in self.losses)])


def _compatible(shape, other):
    return len(shape) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(shape[1:], other[1:], strict=True)
    )
