"""Knowledge distillation: a small model learns from a large one, with labels or without."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from tfcompress.distillation import losses
from tfcompress.distillation.hint_stage import HintStage
from tfcompress.distillation.hints import Hint, Link, hint_loss
from tfcompress.distillation.labels import known, per_output, weighted_mean
from tfcompress.distillation.teacher import (
    Teacher,
    TeacherCache,
    as_list,
    cached,
    check_models,
    split,
)
from tfcompress.graph.features import Forward, Tapped, output_activations
from tfcompress.utils.types import Config, Data, Path, Tensor


@keras.saving.register_keras_serializable("tfcompress")
class Distiller(keras.Model):
    """Trains a student to give what a teacher gives; `compile` and `fit` as usual.

    `(1 - alpha) task + alpha soft + sum of hint.weight hint + penalties`, where `task` is the
    compiled loss on the labels, `soft` for classes `T^2 KL(softmax(t / T) || softmax(s / T))` of
    the logits (a softmax or sigmoid at a model's end is undone), for yes-no outputs the same of
    Bernoulli distributions, for regression the squared error; each output adds its own.

    Labels are optional: `compile("adam")`, `fit(x)`. In mixed data an unlabelled example has the
    label -1 under a sparse categorical loss, and NaN under others; its task loss counts as zero.
    It is left out of `weighted_metrics`, not of `metrics`. `sample_weight` and `class_weight` act
    on each term. `evaluate` needs no teacher: its loss is the task's alone, or `soft` if there are
    no labels. `predict`, `evaluate` and a call give what the student gives.

    Afterwards `distiller.student` is an ordinary model. A file of the Distiller has the student
    and the regressors; after loading, `set_teacher` lets it train on.

    Cost: a forward pass of the teacher on top of the student's training step, which has one
    forward pass; none with `cache_teacher`.

    Args:
        student: the `keras.Model` to train, compressed or not.
        teacher: a trained `keras.Model`, or a list, whose logits are averaged. It runs in
            inference mode; neither its variables nor its `trainable` are touched.
        temperature: T, above 0; a variable, see `callbacks.Anneal`.
        alpha: weight of the teacher against the labels, in [0, 1]; a variable.
        hints: `tfc.Hint`s.
        soft_loss: function `(teacher, student, temperature)` of logits that gives a value for each
            example, in place of the above for each output (see `tfcompress.distill_losses`).
        teacher_preprocess: function that makes the teacher's inputs from the student's.
        save_teacher: whether a file has the teacher as well.

    Raises:
        ValueError: bad arguments; the outputs of the models do not match; hints that cannot be
            found, or whose shapes cannot be matched.

    Example:

    >>> import numpy as np
    >>> def net(width):
    ...     layers = [keras.Input((8,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)]
    ...     return keras.Sequential(layers)
    >>> distiller = Distiller(student=net(4), teacher=net(32), temperature=4.0)
    >>> distiller.compile("adam")
    >>> _ = distiller.fit(np.ones((16, 8)), verbose=0)
    >>> distiller.student.predict(np.ones((1, 8)), verbose=0).shape
    (1, 3)

    Paper: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """

    def __init__(
        self,
        *,
        student: keras.Model,
        teacher: keras.Model | Sequence[keras.Model],
        temperature: float = 2.0,
        alpha: float = 0.5,
        hints: Sequence[Hint] = (),
        soft_loss: Any = None,
        teacher_preprocess: Callable[[Any], Any] | None = None,
        save_teacher: bool = False,
        name: str = "distiller",
    ) -> None:
        check_models(student, as_list(teacher))
        _check_arguments(temperature, alpha, hints)
        # `autocast`: the student converts its inputs itself, and the teacher gets them as they are
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
        self.student = student
        self.soft_loss = soft_loss
        self.teacher_preprocess = teacher_preprocess
        self.save_teacher = save_teacher
        self.temperature = self._scalar("temperature", temperature)
        self.alpha = self._scalar("alpha", alpha)
        parts = ("task_loss", "soft_loss", "hint_loss")[: 3 if hints else 2]
        self._parts = {part: keras.metrics.Mean(name=part) for part in parts}
        self._connect(hints, teacher)
        self.regressors = [link.regressor for link in self._links if link.regressor is not None]
        self.built = student.built

    @property
    def teacher(self) -> keras.Model | list[keras.Model]:
        """The teacher, or a list of several, or None in a Distiller loaded without."""
        if self._teacher is None:
            return None
        models = self._teacher.models
        return models[0] if len(models) == 1 else models

    @property
    def output_names(self) -> list[str]:
        return getattr(self.student, "output_names", None)

    def __dir__(self):
        # Keras saves what is listed here.
        return [name for name in super().__dir__() if name != "teacher" or self.save_teacher]

    def set_teacher(self, teacher: keras.Model | Sequence[keras.Model]) -> None:
        """Gives a Distiller that was saved without its teacher one to train with."""
        check_models(self.student, as_list(teacher))
        self._connect([link.again() for link in self._links], teacher)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        inputs, _ = split(inputs)
        if training:
            return self._student(inputs, training=True)
        return self.student(inputs, training=False)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        forward = y_pred if isinstance(y_pred, Forward) else Forward(y_pred, [])
        outputs = forward.outputs
        terms = {}
        if y is not None and self._compile_loss is not None:
            terms["task_loss"] = self._compile_loss(*self._known(y, outputs, sample_weight))
        if training or not terms:
            told = self._told(x, outputs)
            weights = self._per_output(sample_weight, outputs)
            terms["soft_loss"] = self._soft(told, outputs, weights)
        if not training:
            return sum([*terms.values(), *self._penalties()])
        if self._links:
            # weights of single outputs say nothing about a hint
            weight = None if keras.tree.is_nested(sample_weight) else sample_weight
            wanted = told[len(weights) :]
            terms["hint_loss"] = hint_loss(self._links, wanted, forward.features, weight)
        for name, value in terms.items():
            self._parts[name].update_state(value)
        factors = {"task_loss": 1 - self.alpha, "soft_loss": self.alpha, "hint_loss": 1.0}
        weighted = [factors[name] * value for name, value in terms.items()]
        return sum([*weighted, *self._penalties()])

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None
    ) -> dict[str, Any]:
        training = isinstance(y_pred, Forward)
        shown = list(self.metrics)
        if y is None:
            unlabelled = (self._compile_metrics, self._parts["task_loss"])
            shown = [metric for metric in shown if metric not in unlabelled]
        elif self._compile_metrics is not None:
            outputs = y_pred.outputs if training else y_pred
            self._compile_metrics.update_state(*self._known(y, outputs, sample_weight))
        if not training:
            shown = [metric for metric in shown if metric not in self._parts.values()]
        return _results(shown)

    def get_metrics_result(self) -> dict[str, Any]:
        return _results(self.metrics)

    def cache_teacher(
        self, data: Data, path: Path | None = None, batch_size: int = 32
    ) -> TeacherCache:
        """Runs the teacher over data once; training then costs what the student alone costs.

        The teacher's row i belongs to example i. So augment the inputs after they were paired, by
        layers of the student (`keras.layers.RandomFlip`), or in a pipeline over the pairs:
        `tf.data.Dataset.from_tensor_slices((cache.x, y)).shuffle(n).map(augment).batch(b)`, where
        `augment` changes `x["inputs"]` alone.

        Cost: one forward pass of the teacher; `4 c` bytes for each example and output, and what the
        features of the hints take.

        Args:
            data: what `fit` takes, labels and weights included if there are any. Of a dataset, the
                examples themselves are kept as well, in the order in which they came.
            path: a folder for `.npy` files, which are memory-mapped; else it is kept in memory.
            batch_size: of the batches that `fit(cache)` gets.

        Returns:
            A `TeacherCache`, a `keras.utils.PyDataset` for `fit`, with the arrays `x`, `y` and
            `sample_weight`.

        >>> import numpy as np
        >>> net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
        >>> distiller = Distiller(student=net, teacher=keras.models.clone_model(net))
        >>> cache = distiller.cache_teacher(np.ones((16, 8)))
        >>> cache.x["teacher"][0].shape
        (16, 3)
        """
        return cached(self._known_teacher(), data, path, batch_size)

    def fit_hints(
        self, x: Data, optimizer: Any = "adam", **arguments: Any
    ) -> keras.callbacks.History:
        """FitNets' first stage: trains the student up to the guided layers, on the hints alone.

        Layers beyond them are not run. Then `compile` and `fit` go on from there, with the hints
        or, as in the paper, with the outputs alone and `alpha` decaying (`callbacks.Anneal`).

        Args:
            x: inputs, a dataset, or a cache; labels are ignored.
            optimizer: of this stage.
            **arguments: what `fit` takes besides.

        Returns:
            The `History` of `fit`.
        """
        if not self._links:
            raise ValueError("There is nothing to fit: this Distiller was made without `hints`.")
        stage = HintStage(self)
        stage.compile(optimizer)
        return stage.fit(x, **arguments)

    def get_config(self) -> Config:
        config = {
            "student": self.student,
            "teacher": self.teacher if self.save_teacher else None,
            "temperature": float(ops.convert_to_numpy(self.temperature)),
            "alpha": float(ops.convert_to_numpy(self.alpha)),
            "hints": [link.config() for link in self._links],
            "soft_loss": self.soft_loss,
            "teacher_preprocess": self.teacher_preprocess,
            "save_teacher": self.save_teacher,
            "name": self.name,
        }
        return keras.saving.serialize_keras_object(config)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        config = keras.saving.deserialize_keras_object(config)
        return cls(**config | {"hints": [Hint(**hint) for hint in config["hints"]]})

    def _scalar(self, name, value):
        variable = self.add_weight(
            (), initializer="zeros", dtype="float32", trainable=False, autocast=False, name=name
        )
        variable.assign(value)
        return variable

    def _connect(self, hints, teacher):
        models = as_list(teacher)
        self._links = [Link(hint, self.student, models[0] if models else None) for hint in hints]
        self._student = Tapped(self.student, [link.student for link in self._links])
        taps = [link.teacher for link in self._links]
        self._teacher = Teacher(models, taps, self.teacher_preprocess) if models else None
        self.train_function = self.test_function = None

    def _known_teacher(self):
        if self._teacher is None:
            raise ValueError(
                "This Distiller has no teacher: it was saved without. Give it one by `set_teacher`."
            )
        return self._teacher

    def _told(self, x, outputs) -> tuple:
        """What the teacher gives for a batch: logits of each output, features of each hint."""
        inputs, stored = split(x)
        if stored is None:
            return self._known_teacher()(inputs)
        count = len(keras.tree.flatten(outputs)) + len(self._links)
        if len(stored) != count:
            raise ValueError(
                f"Expected {count} arrays of the teacher, its outputs and the features of the "
                f"hints. Received: {len(stored)}. Call `cache_teacher` of this Distiller."
            )
        return stored

    def _soft(self, told, outputs, weights):
        tasks = self._per_output(self.loss, outputs)
        students = output_activations(self.student) or [None] * len(tasks)
        total = 0.0
        for i, output in enumerate(keras.tree.flatten(outputs)):
            loss = self.soft_loss
            if loss is None:
                ends = [students[i], *self._teacher_activations(i)]
                loss = losses.loss_for(ends, tasks[i], output.shape[-1])
            student = losses.to_logits(output, students[i])
            value = loss(told[i], student, ops.convert_to_tensor(self.temperature))
            total += weighted_mean(value, weights[i])
        return total

    def _teacher_activations(self, index):
        known = [] if self._teacher is None else self._teacher.activations
        return [None if activations is None else activations[index] for activations in known]

    def _known(self, y, outputs, sample_weight):
        """The arguments of a compiled loss or metric."""
        return known(y, outputs, sample_weight, self.loss, self.output_names)

    def _per_output(self, values, outputs):
        return per_output(values, outputs, self.output_names)

    def _penalties(self):
        return [ops.sum(loss) for loss in self.losses]


def _results(metrics) -> dict:
    """Values by name, of the metrics that have seen labels."""
    found = {}
    for metric in metrics:
        if getattr(metric, "built", True):
            value = metric.result()
            found |= value if isinstance(value, dict) else {metric.name: value}
    return found


def _check_arguments(temperature, alpha, hints):
    if not temperature > 0:
        raise ValueError(f"Expected `temperature` above 0. Received: {temperature!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected `alpha` in [0, 1]. Received: {alpha!r}")
    if not isinstance(hints, (list, tuple)) or not all(isinstance(hint, Hint) for hint in hints):
        raise TypeError(f"Expected `hints` to be a list of `tfc.Hint`. Received: {hints!r}")
