"""Losses between a teacher and a student, as plain functions.

Letters: b batch, c classes, h w space, T temperature. Those on outputs are called as
`loss(teacher, student, temperature)` on logits `(..., c)` and give one value for each example (or
position); those on features as `loss(teacher, student)`.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.distillation.labels import kind_of
from tfcompress.utils.types import Tensor

SMALL = 1e-7  # probabilities are cut here before the logarithm


@keras.saving.register_keras_serializable("tfcompress")
def softmax_kl(teacher: Tensor, student: Tensor, temperature: Tensor = 1.0) -> Tensor:
    """Hinton's loss for one class of several: `T^2 KL(softmax(t / T) || softmax(s / T))`.

    The factor keeps the size of the gradient when T changes.

    Args:
        teacher, student: logits `(..., c)`.
        temperature: above 0.

    Returns:
        Shape `(...)`.

    >>> import numpy as np
    >>> float(softmax_kl(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]))[0])
    0.0

    Paper: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    t, s = (ops.log_softmax(x / temperature, axis=-1) for x in _floats(teacher, student))
    return temperature**2 * ops.sum(ops.exp(t) * (t - s), axis=-1)


@keras.saving.register_keras_serializable("tfcompress")
def sigmoid_kl(teacher: Tensor, student: Tensor, temperature: Tensor = 1.0) -> Tensor:
    """The same for independent yes-no outputs: `T^2 sum_c KL` of Bernoulli distributions."""
    t, s = (x / temperature for x in _floats(teacher, student))
    p = ops.sigmoid(t)
    yes = ops.log_sigmoid(t) - ops.log_sigmoid(s)
    no = ops.log_sigmoid(-t) - ops.log_sigmoid(-s)
    return temperature**2 * ops.sum(p * yes + (1 - p) * no, axis=-1)


@keras.saving.register_keras_serializable("tfcompress")
def squared_error(teacher: Tensor, student: Tensor, temperature: Tensor = 1.0) -> Tensor:
    """For regression: `mean_c (t - s)^2`; the temperature has no part in it."""
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

    `b` is the probability of the target class against all others, `q` the distribution over the
    other classes alone, which plain distillation plays down where the teacher is sure.

    Args:
        teacher, student: logits `(..., c)`.
        labels: the target classes, whole numbers `(...)`. Without labels, as in a `Distiller`, the
            teacher's first choice; the paper takes the labels.
        target, others: the paper's alpha and beta.

    Returns:
        Shape `(...)`.

    >>> import numpy as np
    >>> float(decoupled(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]))[0])
    0.0

    Paper: B. Zhao et al., "Decoupled Knowledge Distillation", 2022.
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
    """Squared distance of attention maps: `sum_hw (a_t - a_s)^2`, `a = q / |q|`, `q = sum_c x^2`.

    The numbers of channels may differ, and so may the sizes: the student's map is resized. Use it
    as `Hint(..., loss=attention_transfer, regressor=None, weight=...)`.

    Args:
        teacher, student: maps `(b, h, w, c)`.

    Returns:
        Shape `(b,)`. The paper's equation has the distance, its code the square's mean over hw.

    >>> import numpy as np
    >>> maps = np.ones((1, 2, 2, 3))
    >>> float(attention_transfer(maps, 2 * maps[..., :1])[0])
    0.0

    Paper: S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", 2017.
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

    `activation` None: the end of the model is hidden. Outputs that are not negative and sum to one
    are then taken for probabilities.
    """
    values = ops.cast(values, "float32")
    log = ops.log(ops.clip(values, SMALL, 1.0))
    if activation is keras.activations.softmax:
        return log
    if activation is keras.activations.sigmoid:
        return log - ops.log(ops.clip(1 - values, SMALL, 1.0))
    if activation is None and len(values.shape) > 1 and values.shape[-1] != 1:
        sums_to_one = ops.all(ops.abs(ops.sum(values, axis=-1) - 1) < 1e-3)
        return ops.where(ops.logical_and(sums_to_one, ops.all(values >= 0)), log, values)
    return values


def loss_for(activations: Any, task_loss: Any, classes: Any) -> Callable[..., Tensor]:
    """The loss that fits an output.

    Args:
        activations: of the output, in each model; None where it is hidden.
        task_loss: the compiled loss of the output, or None.
        classes: size of the output's last axis.

    Raises:
        ValueError: nothing tells what the output means, or the models differ in it.
    """
    found = {_BY_ACTIVATION[a] for a in activations if a in _BY_ACTIVATION}
    if not found and task_loss is not None:
        found = {loss for loss, kinds in _BY_TASK.items() if kind_of(task_loss) in kinds.split()}
    if not found and classes != 1 and all(a in _UNBOUNDED for a in activations):
        found = {softmax_kl}
    if found == {sigmoid_kl} and None in activations:
        found = set()  # logits or probabilities? only the graph could tell
    if len(found) == 1:
        return found.pop()
    names = [getattr(a, "__name__", a) for a in activations]
    raise ValueError(
        f"What the teacher and the student give cannot be compared: an output of size {classes} "
        f"that ends in {names}, with the loss {task_loss!r}. Give `soft_loss`, a function "
        "`(teacher, student, temperature) -> value for each example`, such as those of "
        "`tfcompress.distill_losses`."
    )


_BY_ACTIVATION = {keras.activations.softmax: softmax_kl, keras.activations.sigmoid: sigmoid_kl}
_UNBOUNDED = (None, keras.activations.linear)
_BY_TASK = {
    softmax_kl: "categoricalcrossentropy sparsecategoricalcrossentropy"
    " categoricalfocalcrossentropy kldivergence",
    sigmoid_kl: "binarycrossentropy binaryfocalcrossentropy",
    squared_error: "meansquarederror meanabsoluteerror huber logcosh"
    " meanabsolutepercentageerror meansquaredlogarithmicerror",
}
