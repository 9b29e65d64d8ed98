"""What the outputs of a student mean, and so which function compares each with the teacher's."""

from typing import Any

import keras
from keras import ops

from tfcompress.distillation.labels import weighted_mean
from tfcompress.distillation.losses import loss_for, to_logits
from tfcompress.graph.features import output_activations
from tfcompress.graph.private_keras import mask_of
from tfcompress.graph.private_training import compiled_argument, compiled_loss, of_replica
from tfcompress.utils.outputs import per_output
from tfcompress.utils.types import Tensor


def soft_losses(
    distiller: keras.Model, teachers: list[keras.Model], outputs: Tensor
) -> tuple[list, list[float]]:
    """The function that compares each output with the teachers', and its loss weight.

    Args:
        distiller: a `Distiller`.
        teachers: its teachers.
        outputs: of its student.

    Raises:
        ValueError: it cannot be told what an output means.
    """
    tasks = _tasks([distiller, *teachers], outputs)
    weights = compiled_argument(distiller, "loss_weights")  # with a loss or without
    factors = [
        1.0 if one is None else one
        for one in per_output(weights, outputs, getattr(distiller, "output_names", None))
    ]
    ends = [output_activations(model) for model in (distiller.student, *teachers)]
    functions = []
    for i, output in enumerate(keras.tree.flatten(outputs)):
        if distiller.soft_loss is not None:
            functions.append(distiller.soft_loss)
        else:
            classes = output.shape[-1] if len(output.shape) > 1 else 1  # (b,) is one number each
            functions.append(loss_for([e and e[i] for e in ends], tasks[i], classes))
    return functions, factors


def soft_loss(
    distiller: keras.Model,
    teachers: list[keras.Model],
    targets: Any,
    outputs: Tensor,
    weights: list,
) -> Tensor:
    """The weighted sum of the losses between the student's outputs and the teachers', by replica.

    Args:
        distiller, teachers, outputs: as in `soft_losses`.
        targets: the teachers' logits of each output.
        weights: sample weights of each output, or None.
    """
    temperature = ops.convert_to_tensor(distiller.temperature)
    ends, total = output_activations(distiller.student), 0.0
    functions, factors = soft_losses(distiller, teachers, outputs)
    for i, output in enumerate(keras.tree.flatten(outputs)):
        logits = to_logits(output, ends and ends[i])
        both = targets[i], logits
        if len(output.shape) == 1:
            both = [ops.expand_dims(values, -1) for values in both]
        values = functions[i](*both, temperature)
        total = total + factors[i] * weighted_mean(values, weights[i], mask_of(output))
    return of_replica(total)


def _tasks(models: list[Any], outputs: Tensor) -> list[list]:
    """The losses that may tell what each output means."""
    tasks = [[] for _ in keras.tree.flatten(outputs)]
    for model in models:
        known = compiled_loss(model)
        if known is None:
            continue
        names = getattr(model, "output_names", None)
        for row, task in zip(tasks, per_output(known[0], outputs, names), strict=True):
            row.append(task)
    return tasks
