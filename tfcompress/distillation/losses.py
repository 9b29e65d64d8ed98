"""Losses between a teacher and a student, as plain functions.

Letters: b batch, c classes, h w space, T temperature. Losses on outputs are called as
`loss(teacher, student, temperature)` with logits `(..., c)` and return one value for each example
or position. Losses on features are called as `loss(teacher, student)`.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.distillation.labels import kind_of
from tfcompress.utils.label_checks import is_crossentropy
from tfcompress.utils.types import Tensor

LEAST_PROBABILITY = 1e-7  # smaller ones are raised to this before the logarithm


@keras.saving.register_keras_serializable("tfcompress")
def softmax_kl(teacher: Tensor, student: Tensor, temperature: Tensor = 1.0) -> Tensor:
    """Hinton's loss for one of several classes: `T^2 KL(softmax(t / T) || softmax(s / T))`.

    The factor `T^2` keeps the gradient at the same size when T changes.

    Args:
        teacher, student: logits `(..., c)`.
        temperature: T, above 0.

    Returns:
        The loss of each example, `(...)`.

    >>> import numpy as np
    >>> float(softmax_kl(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]))[0])
    0.0

    Reference: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
    """
    t, s = (ops.log_softmax(x / temperature, axis=-1) for x in _floats(teacher, student))
    return temperature**2 * ops.sum(ops.exp(t) * (t - s), axis=-1)


@keras.saving.register_keras_serializable("tfcompress")
def sigmoid_kl(teacher: Tensor, student: Tensor, temperature: Tensor = 1.0) -> Tensor:
    """The same for independent yes-no outputs: `T^2 sum_c KL` of Bernoulli distributions.

    Args: see `softmax_kl`.
    """
    t, s = (x / temperature for x in _floats(teacher, student))
    p = ops.sigmoid(t)
    yes = ops.log_sigmoid(t) - ops.log_sigmoid(s)
    no = ops.log_sigmoid(-t) - ops.log_sigmoid(-s)
    return temperature**2 * ops.sum(p * yes + (1 - p) * no, axis=-1)


@keras.saving.register_keras_serializable("tfcompress")
def squared_error(teacher: Tensor, student: Tensor, temperature: Tensor = 1.0) -> Tensor:
    """The loss for regression: `mean_c (t - s)^2`. The temperature has no effect.

    Args: see `softmax_kl`.
    """
    t, s = _floats(teacher, student)
    return ops.mean(ops.square(t - s), axis=-1)


@keras.saving.register_keras_serializable("tfcompress")
def decoupled(
    teacher: Tensor,
    student: Tensor,
    temperature: Tensor = 1.0,
    labels: Tensor = None,
    target: float = 1.0,
    others: float = 8.0,
) -> Tensor:
    """Decoupled distillation: `T^2 (target KL(b_t || b_s) + others KL(q_t || q_s))`.

    `b` is the probability of the target class against that of all others, and `q` the distribution
    over the other classes alone. Plain distillation gives `q` little weight where the teacher is
    confident.

    Args:
        teacher, student: logits `(..., c)`.
        temperature: T, above 0.
        labels: the target classes, integers `(...)`. Without labels, as in a `Distiller`, the class
            that the teacher finds most likely is the target; the paper uses the labels.
        target, others: weights of the two terms, alpha and beta in the paper.

    Returns:
        The loss of each example, `(...)`.

    >>> import numpy as np
    >>> float(decoupled(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]))[0])
    0.0

    Reference: Zhao et al., "Decoupled Knowledge Distillation", 2022.
    """
    classes = teacher.shape[-1]
    hot = ops.argmax(teacher, axis=-1) if labels is None else labels
    hot = ops.one_hot(hot, classes, dtype="float32")
    parts = []
    for logits in _floats(teacher, student):
        log_p = ops.log_softmax(logits / temperature, axis=-1)
        yes = ops.sum(hot * log_p, axis=-1)
        log_rest = ops.where(hot > 0, -1e9, log_p)  # log p of the other classes
        no = ops.logsumexp(log_rest, axis=-1)
        parts.append((yes, no, log_rest - ops.expand_dims(no, -1)))
    (yes_t, no_t, rest_t), (yes_s, no_s, rest_s) = parts
    binary = ops.exp(yes_t) * (yes_t - yes_s) + ops.exp(no_t) * (no_t - no_s)
    rest = ops.sum((1 - hot) * ops.exp(rest_t) * (rest_t - rest_s), axis=-1)
    return temperature**2 * (target * binary + others * rest)


@keras.saving.register_keras_serializable("tfcompress")
def attention_transfer(teacher: Tensor, student: Tensor) -> Tensor:
    """The squared distance between attention maps, `sum_hw (a_t - a_s)^2`.

    The attention map is `a = q / |q|` with `q = sum_c x^2`. The numbers of channels may differ, and
    so may the sizes: the student's map is resized. Use it as
    `Hint(..., loss=attention_transfer, regressor=None, weight=...)`.

    Args:
        teacher, student: maps `(b, h, w, c)`.

    Returns:
        The loss of each example, `(b,)`.

    >>> import numpy as np
    >>> maps = np.ones((1, 2, 2, 3))
    >>> float(attention_transfer(maps, 2 * maps[..., :1])[0])
    0.0

    Reference: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance
    of Convolutional Neural Networks via Attention Transfer", 2017. Its equation has the distance,
    and its code the mean of the squares over hw.
    """
    t, s = (ops.sum(ops.square(x), axis=-1, keepdims=True) for x in _floats(teacher, student))
    if t.shape[1:3] != s.shape[1:3]:
        s = ops.image.resize(s, t.shape[1:3], antialias=True, data_format="channels_last")
    t, s = (ops.reshape(x, (-1, x.shape[1] * x.shape[2])) for x in (t, s))  # (b, hw)
    return ops.sum(ops.square(_unit(t) - _unit(s)), axis=-1)


def _floats(*arrays):
    return [ops.cast(ops.convert_to_tensor(a), "float32") for a in arrays]


def _unit(x):
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-12)


def to_logits(values: Tensor, activation: Any) -> Tensor:
    """Undoes a softmax or a sigmoid at the end of a model; other outputs stay as they are.

    If `activation` is None, the end of the model cannot be seen. Outputs that are not negative and
    sum to one are then taken as probabilities.
    """
    values = ops.cast(values, "float32")
    log = ops.log(ops.clip(values, LEAST_PROBABILITY, 1.0))
    if activation is keras.activations.softmax:
        return log
    if activation is keras.activations.sigmoid:
        return log - ops.log(ops.clip(1 - values, LEAST_PROBABILITY, 1.0))
    if activation is None and len(values.shape) > 1 and values.shape[-1] != 1:
        sums_to_one = ops.all(ops.abs(ops.sum(values, axis=-1) - 1) < 1e-3)
        return ops.where(ops.logical_and(sums_to_one, ops.all(values >= 0)), log, values)
    return values


def loss_for(activations: Any, tasks: Any, classes: Any) -> Callable[..., Tensor]:
    """The loss between teacher and student that fits the meaning of an output.

    Args:
        activations: of the output in each model; None where it cannot be seen.
        tasks: losses of the output, each None or as in `compile`; the first one that tells counts.
        classes: size of the output's last axis.

    Raises:
        ValueError: the meaning of the output cannot be told, or it differs between the models.
    """
    found = {_BY_ACTIVATION[a] for a in activations if a in _BY_ACTIVATION}
    for task in tasks:
        if not found and task is not None:
            found = _by_task(task, classes)
    logits = any(getattr(task, "from_logits", False) for task in tasks)
    if found == {sigmoid_kl} and None in activations and not logits:
        found = set()  # whether these are logits or probabilities cannot be told
    if len(found) == 1:
        return found.pop()
    names = [getattr(a, "__name__", a) for a in activations]
    raise ValueError(
        f"The outputs of teacher and student cannot be compared: an output of size {classes} "
        f"that ends in {names}, with the losses {tasks!r}. Compile the teacher with the loss that "
        "it was trained with, or give `soft_loss`, a function "
        "`(teacher, student, temperature) -> value for each example`, such as those of "
        "`tfcompress.distill_losses`."
    )


def _by_task(task, classes):
    kind = kind_of(task)
    if is_crossentropy(kind):
        return {sigmoid_kl if classes == 1 else softmax_kl}
    return {loss for loss, kinds in _BY_TASK.items() if kind in kinds.split()}


_BY_ACTIVATION = {keras.activations.softmax: softmax_kl, keras.activations.sigmoid: sigmoid_kl}
_BY_TASK = {
    softmax_kl: "categoricalcrossentropy sparsecategoricalcrossentropy"
    " categoricalfocalcrossentropy kldivergence",
    sigmoid_kl: "binarycrossentropy binaryfocalcrossentropy",
    squared_error: "meansquarederror meanabsoluteerror huber logcosh"
    " meanabsolutepercentageerror meansquaredlogarithmicerror",
}
