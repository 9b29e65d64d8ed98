"""Trains compressed models with the original one as the teacher."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.losses import squared_error
from tfcompress.distillation.meaning import soft_losses
from tfcompress.graph.copy import copied
from tfcompress.graph.paths import walk
from tfcompress.graph.private_training import strategy_scope
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.planning.examples import Stream
from tfcompress.planning.training.kept import KeepZeros, discrete_kernels_frozen
from tfcompress.planning.training.shown_epochs import ShownEpochs
from tfcompress.utils.arrays import rows
from tfcompress.utils.batches import examples_in
from tfcompress.utils.types import Loss

BATCH_SIZE = 128


@dataclass(frozen=True)
class Training:
    """What the training of a compressed model gave and cost.

    Attributes:
        before, after: the metric on the validation data without training, and of the model that was
            kept: the better one, or the one that the user trained.
        epochs, rate: of the training whose model was kept, with the learning rate at the start; 0
            epochs if none made it better, None if the user trained.
        tried: `[(epochs, rate, score)]` of all trainings.
        seconds: that they took.
    """

    before: float
    after: float
    epochs: int | None
    rate: float | None
    tried: list[tuple[int | None, float | None, float]] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self):
        if self.epochs:
            how = f"{self.epochs} epochs from a rate of {self.rate:.2g}"
        else:
            how = "by your function" if self.epochs is None else "none was better"
        tried = f"; {len(self.tried)} tried" if len(self.tried) > 1 else ""
        return f"{self.before:.4f} -> {self.after:.4f} ({how}{tried}; {self.seconds:.0f} s)"


class Trainer:
    """Trains what one model was compressed to.

    Args:
        original: the model before any change.
        teacher: a Keras model; None to learn from the labels alone.
        loss, loss_weights: as in `compile`; None to learn from the teacher alone.
        train: `(x, y, sample_weight)`, or a `Stream`.
        inputs: a few examples.
        batch_size: of arrays.
    """

    def __init__(
        self,
        original: keras.Model,
        teacher: keras.Model | None,
        loss: Loss,
        loss_weights: Any,
        train: Any,
        inputs: Any,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.original, self.teacher = original, teacher
        self.loss, self.loss_weights = loss, loss_weights
        self.train, self.inputs, self.cache = train, inputs, None
        self.batch_size = batch_size

    def check_teaches(self) -> None:
        """Raises `ValueError` where there is nothing to learn from."""
        labelled = isinstance(self.train, Stream) or self.train[1] is not None
        if self.teacher is None and (self.loss is None or not labelled):
            raise ValueError(
                "Without a teacher the model learns from labels: give `data` as `(x, y)`, and "
                "`loss` unless the model is compiled with one. Received: teacher=None"
            )

    def __call__(
        self, model: keras.Model, epochs: int, rate: float, alpha: float, temperature: float
    ) -> keras.Model:
        """A copy of a model after training, while the rate falls to 0 by a cosine.

        Args:
            model: the compressed model.
            epochs: number of them.
            rate: the learning rate of Adam at the start.
            alpha, temperature: of the `Distiller`.
        """
        with strategy_scope(self.original):
            return self._trained(model, epochs, rate, alpha, temperature)

    def _trained(self, model, epochs, rate, alpha, temperature):
        student = copied(model)
        if isinstance(self.train, Stream):
            x, y, given, steps = self.train.data, None, {}, self.train.steps
        else:
            x, y, weights = self.train
            if self.loss is None:  # Keras passes weights on beside labels alone
                y = None if weights is None else np.zeros(examples_in(x))
            given = {"batch_size": self.batch_size, "sample_weight": weights}
            steps = -(-examples_in(self.train) // self.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
        optimizer = AdamInProportion(schedule, scales(student))
        learner = student
        if self.teacher is not None:
            learner = self._distiller(student, alpha, temperature)
            if not isinstance(self.train, Stream):
                if self.cache is None:  # the teacher's outputs are the same at each budget
                    self.cache = learner.cache_teacher((x,) if y is None else (x, y)).x
                x = self.cache
        jit = False if self.original.compiled and not self.original.jit_compile else "auto"
        learner.compile(optimizer, self.loss, self.loss_weights, jit_compile=jit)
        callbacks = [KeepZeros(self.original, student), ShownEpochs()]
        with discrete_kernels_frozen(self.original, student), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The labels are not used")  # those made above
            if student.trainable_variables:
                learner.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks, **given)
        # Without a teacher the student itself is compiled, and its optimizer would be saved.
        return copied(student) if learner is student else student

    def _distiller(self, student, alpha, temperature):
        """A `Distiller`; by squared error where nothing tells what the outputs mean."""
        terms = {"temperature": temperature, "alpha": alpha, "teacher": self.teacher}
        learner = Distiller(student=student, **terms)
        learner.compile(loss=self.loss, loss_weights=self.loss_weights)
        try:
            outputs = student(rows(self.inputs, slice(1)), training=False)
            soft_losses(learner, [self.teacher], outputs)
        except ValueError:
            learner = Distiller(student=student, **terms, soft_loss=squared_error)
        return learner


class AdamInProportion(keras.optimizers.Adam):
    """Adam whose steps on some variables are in proportion to each of their entries.

    A scale of an 8-bit kernel is about 0.002. An ordinary step is as large as the learning rate,
    about 0.001, whatever the variable.

    Args:
        rate: as in Adam.
        variables: those with such steps; their signs stay.
    """

    def __init__(self, rate: Any, variables: list[keras.Variable]) -> None:
        super().__init__(rate)
        self.in_proportion = variables

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """A step of Adam, of which some parts are then made smaller."""
        before = [ops.copy(ops.convert_to_tensor(v)) for v in self.in_proportion]
        super().apply(grads, trainable_variables)
        for variable, old in zip(self.in_proportion, before, strict=True):
            step = ops.convert_to_tensor(variable) - old
            variable.assign(old + ops.abs(old) * step)


def scales(model: keras.Model) -> list[keras.Variable]:
    """The scales of the compressed layers of a model."""
    layers = (layer for layer, _ in walk(model).values() if isinstance(layer, CompressedLayer))
    return [layer.parts["scale"] for layer in layers if "scale" in layer.parts]
