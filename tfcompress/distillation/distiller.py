"""Knowledge distillation: a small model learns from a large one, with or without labels."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from tfcompress.distillation import checks
from tfcompress.distillation.checks import as_list, check_labels, check_models
from tfcompress.distillation.hints import Hint, HintStage, Link, hint_loss
from tfcompress.distillation.labels import results_of, without_unknown
from tfcompress.distillation.meaning import soft_loss
from tfcompress.distillation.teacher import (
    Teacher,
    TeacherCache,
    cached,
    required,
    split,
    targets_of,
)
from tfcompress.graph.features import Forward, Tapped
from tfcompress.graph.private_training import of_all_replicas, of_replica
from tfcompress.utils.outputs import per_output
from tfcompress.utils.types import Config, Data, Path, Tensor


@keras.saving.register_keras_serializable("tfcompress")
class Distiller(keras.Model):
    """Trains a student to reproduce the outputs of a teacher, with the usual `compile` and `fit`.

    The loss is `(1 - alpha) task + alpha soft + sum of hint.weight hint + penalties`. `task` is the
    compiled loss on the labels. `soft` compares the student with the teacher: for classes it is
    `T^2 KL(softmax(t / T) || softmax(s / T))` of the logits (a softmax or sigmoid at the end of a
    model is undone), for yes-no outputs the same with Bernoulli distributions, for regression the
    squared error. What an output means is told by a softmax or sigmoid at its end, else by the
    compiled loss, else by the loss that the teacher is compiled with; where none of them does,
    `soft_loss` is asked for. The losses of several outputs are added, times the loss weights.

    Labels are optional: with a compiled teacher, `compile("adam")` and `fit(x)` are enough. If only
    some examples have a label, the others get the label -1 under a sparse categorical loss and NaN
    under other losses. Their task loss is zero, and they are left out of `weighted_metrics`, but
    not of `metrics`. `sample_weight`, `class_weight` and masks apply to each term. `evaluate` needs
    no teacher: its loss is `task`, or `soft` without labels. `predict` gives the student's outputs.

    After training, `distiller.student` is an ordinary model. A saved Distiller contains the student
    and the regressors; once it is loaded, it can be trained further after `set_teacher`. Cost: one
    more forward pass in each step, that of the teacher; none with `cache_teacher`.

    Args:
        student: the `keras.Model` to train, compressed or not.
        teacher: a trained `keras.Model`, or a list of several, whose logits are averaged. It runs
            in inference mode; neither its variables nor its `trainable` are changed.
        temperature: T, above 0; a variable, see `callbacks.Anneal`.
        alpha: weight of the teacher against the labels, in [0, 1]; a variable.
        hints: a list of `tfc.Hint`.
        soft_loss: function `(teacher, student, temperature)` of logits that returns a value for
            each example; it replaces `soft` for each output (see `tfcompress.distill_losses`).
        teacher_preprocess: function that turns the student's inputs into the teacher's.
        save_teacher: whether a saved Distiller contains the teacher as well.

    Raises:
        ValueError: an argument is out of range; the outputs of the models do not match; a hint
            cannot be found, or its shapes cannot be matched; in `fit`: it cannot be told what the
            outputs mean, or a label is no class.

    Example:

    >>> import numpy as np
    >>> def net(width):
    ...     layers = [keras.Input((8,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)]
    ...     return keras.Sequential(layers)
    >>> teacher = net(32)
    >>> teacher.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> distiller = Distiller(student=net(4), teacher=teacher, temperature=4.0)
    >>> distiller.compile("adam")
    >>> _ = distiller.fit(np.ones((16, 8)), verbose=0)
    >>> distiller.student.predict(np.ones((1, 8)), verbose=0).shape
    (1, 3)

    Reference: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
    """

    def __init__(
        self,
        *models: Any,
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
        if models:
            raise TypeError(
                "Which model teaches is told by name: `Distiller(student=..., teacher=...)`. "
                f"Received: {len(models)} more"
            )
        check_models(student, as_list(teacher), teacher_preprocess is None)
        checks.check_arguments(temperature, alpha, hints)
        # without `autocast` the teacher gets the inputs unchanged; the student converts its own
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
        self.student = student
        self.soft_loss = soft_loss
        self.teacher_preprocess = teacher_preprocess
        self.save_teacher = save_teacher
        self.temperature = self._scalar("temperature", temperature)
        self.alpha = self._scalar("alpha", alpha)
        self._starts_with_labels_alone = alpha == 0
        parts = ("task_loss", "soft_loss", "hint_loss")[: 3 if hints else 2]
        # saved files hold the state of these under the name of the attribute
        self._parts = {part: keras.metrics.Mean(name=part) for part in parts}
        self._connect(hints, teacher)
        self.regressors = [link.regressor for link in self._links if link.regressor is not None]
        self.built = student.built

    @property
    def teachers(self) -> list[keras.Model]:
        """The teachers; none in a Distiller that was loaded without."""
        return [] if self._teacher is None else self._teacher.models

    @property
    def teacher(self) -> keras.Model | list[keras.Model] | None:
        """The teacher, a list of several, or None in a Distiller that was loaded without one."""
        return self.teachers[0] if len(self.teachers) == 1 else self.teachers or None

    @property
    def output_names(self) -> list[str] | None:
        return getattr(self.student, "output_names", None)

    def __dir__(self):
        # Keras saves the models that it finds among the attributes listed here.
        names = () if self.save_teacher else ("teacher", "teachers")
        return [name for name in super().__dir__() if name not in names]

    def set_teacher(self, teacher: keras.Model | Sequence[keras.Model]) -> None:
        """Sets the teacher of a Distiller that was saved without one.

        Raises:
            ValueError: its outputs, or the features of the hints, do not match the student's.
        """
        check_models(self.student, as_list(teacher), self.teacher_preprocess is None)
        self._connect([link.for_another_teacher() for link in self._links], teacher)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        with check_labels(self, x, y, kwargs):
            return super().fit(x, y, *args, **kwargs)

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
        outputs, terms = forward.outputs, {}
        if y is not None and self._compile_loss is not None:
            terms["task_loss"] = self._compile_loss(*self._known(y, outputs, sample_weight))
        elif training and (y is not None or (self._starts_with_labels_alone and not self._links)):
            checks.warn_of_no_lesson(labelled=y is not None)
        if training or not terms:
            targets = self._targets(x, outputs)
            weights = per_output(sample_weight, outputs, self.output_names)
            terms["soft_loss"] = soft_loss(self, self.teachers, targets, outputs, weights)
        penalties = [of_replica(ops.sum(loss)) for loss in self.losses]
        if not training:
            return sum([*terms.values(), *penalties])
        if self._links:
            features = targets[len(weights) :]
            terms["hint_loss"] = hint_loss(self._links, features, forward.features, sample_weight)
        for name, value in terms.items():
            self._parts[name].update_state(of_all_replicas(value))
        factors = {"task_loss": 1 - self.alpha, "soft_loss": self.alpha, "hint_loss": 1.0}
        return sum([*(factors[name] * value for name, value in terms.items()), *penalties])

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None
    ) -> dict[str, Any]:
        training, shown = isinstance(y_pred, Forward), list(self.metrics)
        if y is None:
            unlabelled = (self._compile_metrics, self._parts["task_loss"])
            shown = [metric for metric in shown if metric not in unlabelled]
        elif self._compile_metrics is not None:
            outputs = y_pred.outputs if training else y_pred
            self._compile_metrics.update_state(*self._known(y, outputs, sample_weight))
        if not training:
            shown = [metric for metric in shown if metric not in self._parts.values()]
        return results_of(shown)

    def get_metrics_result(self) -> dict[str, Any]:
        return results_of(self.metrics)

    def cache_teacher(
        self, data: Data, path: Path | None = None, batch_size: int = 32
    ) -> TeacherCache:
        """Runs the teacher over the data once, so that training then costs no more than without it.

        Row i of the teacher's outputs belongs to example i, so augment the inputs afterwards: by
        layers of the student (`keras.layers.RandomFlip`), or in a pipeline over the pairs,
        `tf.data.Dataset.from_tensor_slices((cache.x, y)).shuffle(n).map(augment).batch(b)`, where
        `augment` changes `x["inputs"]` alone.

        Cost: one forward pass of the teacher, and the memory of its outputs and hinted features.

        Args:
            data: as in `fit`, with labels and weights if there are any. The examples of a dataset
                are stored as well, in the order in which they came.
            path: a folder for `.npy` files, which are memory-mapped; None uses memory.
            batch_size: size of the batches that `fit(cache)` gets.

        Returns:
            A `TeacherCache`, a dataset for `fit` with the arrays `x`, `y` and `sample_weight`.

        Example:

        >>> import numpy as np
        >>> net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
        >>> distiller = Distiller(student=net, teacher=keras.models.clone_model(net))
        >>> cache = distiller.cache_teacher(np.ones((16, 8)))
        >>> cache.x["teacher"][0].shape
        (16, 3)
        """
        return cached(required(self._teacher), self.student, data, path, batch_size)

    def fit_hints(
        self, x: Data, optimizer: Any = "adam", **arguments: Any
    ) -> keras.callbacks.History:
        """Trains the student up to the guided layers on the hints alone, FitNets' first stage.

        Later layers do not run. Afterwards `compile` and `fit` continue, with the hints or, as in
        the paper, with the outputs alone and a falling `alpha` (`callbacks.Anneal`).

        Args:
            x: inputs, a dataset, or a `TeacherCache`; labels are ignored.
            optimizer: the optimizer of this stage.
            **arguments: other arguments of `fit`.

        Returns:
            The `History` of `fit`.

        Raises:
            ValueError: the Distiller has no hints.
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
        start = keras.initializers.Constant(float(value))
        return self.add_weight((), start, "float32", trainable=False, autocast=False, name=name)

    def _connect(self, hints, teacher):
        models = as_list(teacher)
        self._links = [Link(hint, self.student, models[0] if models else None) for hint in hints]
        self._student = Tapped(self.student, [link.student for link in self._links])
        taps = [link.teacher for link in self._links]
        self._teacher = Teacher(models, taps, self.teacher_preprocess) if models else None
        self.train_function = self.test_function = None

    def _targets(self, x, outputs) -> tuple:
        """The teacher's logits of each output and features of each hint, for a batch."""
        return targets_of(self._teacher, x, len(keras.tree.flatten(outputs)) + len(self._links))

    def _known(self, y, outputs, sample_weight):
        """The arguments of a compiled loss or metric, without the unknown labels."""
        return without_unknown(y, outputs, sample_weight, self.loss, self.output_names)
