"""Checks of the arguments of a `Distiller`."""

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfcompress.distillation.hints import Hint
from tfcompress.graph.features import output_activations
from tfcompress.graph.paths import check_keras_3
from tfcompress.utils.label_checks import check_classes, warn_of_probabilities
from tfcompress.utils.outputs import per_output


def check_arguments(temperature: float, alpha: float, hints: Sequence[Hint]) -> None:
    """Raises unless the numbers are in range and the hints are hints."""
    if not temperature > 0:
        raise ValueError(f"Expected `temperature` above 0. Received: {temperature!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected `alpha` in [0, 1]. Received: {alpha!r}")
    if not isinstance(hints, (list, tuple)) or not all(isinstance(hint, Hint) for hint in hints):
        raise TypeError(f"Expected `hints` to be a list of `tfc.Hint`. Received: {hints!r}")


def as_list(teacher: Any) -> list:
    """No teacher, one, or several, as a list."""
    if teacher is None:
        return []
    return list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]


def check_models(student: keras.Model, teachers: list[keras.Model], same_inputs: bool) -> None:
    """Raises unless all are built Keras 3 models that can see the same examples.

    Args:
        student, teachers: their outputs have the same shapes.
        same_inputs: whether their inputs have, as nothing prepares the teachers'.
    """
    for model in [student, *teachers]:
        check_keras_3(model)
    for teacher in teachers:
        if teacher is student:
            raise ValueError(
                "The student is its own teacher. Give two different models, such as a copy."
            )
        if not teacher.built:
            raise ValueError(
                f"The teacher {teacher.name!r} is not built, so it has learned nothing. Give a "
                "trained model."
            )
        for ends in ("inputs", "outputs") if same_inputs else ("outputs",):
            shapes = [
                [tuple(t.shape[1:]) for t in keras.tree.flatten(getattr(model, ends, None) or [])]
                for model in (student, teacher)
            ]
            if all(shapes) and not _same_shapes(*shapes):
                raise ValueError(
                    f"The {ends} of the student and the teacher must have the same shapes. "
                    f"Received: {shapes[0]} and {shapes[1]}"
                )
        names = [_output_names(model) or [] for model in (student, teacher)]
        if names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
            raise ValueError(
                "The outputs of the student and the teacher must come in the same order. "
                f"Received: {names[0]} and {names[1]}"
            )


@contextlib.contextmanager
def check_labels(distiller: Any, x: Any, y: Any, given: dict[str, Any]) -> Iterator[None]:
    """Raises `ValueError` for a label that is no class, before or during what runs inside.

    Args:
        distiller: a compiled `Distiller`.
        x: inputs or a dataset.
        y: labels in arrays; those in a dataset are seen only as they come.
        given: the other arguments of `fit`.
    """
    weights = getattr(x, "sample_weight", None), given.get("sample_weight")
    if y is None and getattr(x, "y", None) is None and any(w is not None for w in weights):
        raise ValueError(
            "Keras passes `sample_weight` on only beside labels. Give labels too: -1 for a class "
            "that is not known, else NaN."
        )
    validation_data = given.get("validation_data")
    outputs = getattr(distiller.student, "outputs", None)
    loss = getattr(distiller, "loss", None)
    if outputs and loss is not None:
        names = _output_names(distiller.student)
        losses = per_output(loss, outputs, names)
        for one, end in zip(losses, output_activations(distiller.student) or [], strict=False):
            warn_of_probabilities(one, end)
        pair = isinstance(validation_data, (tuple, list)) and len(validation_data) > 1
        for labels in (y, validation_data[1] if pair else None):
            if labels is not None:
                rows = per_output(labels, outputs, names)
                for one, part, output in zip(losses, rows, outputs, strict=True):
                    check_classes(one, part, output.shape, unknown=True)
    try:
        yield
    except Exception as error:
        if given.get("class_weight") and re.search(r"indices\S* = -1 is not in", str(error)):
            raise ValueError(
                "Keras looks up `class_weight` for each label of a dataset, and one is not known "
                "(-1). Give the weights in the dataset, or arrays."
            ) from error
        if "outside the valid range" not in str(error):
            raise
        said = str(error).partition("outside the valid range")
        start = said[0].rpartition("label value of")[2].split()
        raise ValueError(
            f"Expected labels in{said[2].partition('.')[0].removeprefix(' of')}, the classes of "
            f"the output. Received: {start[0] if start else 'another label'} in the data"
        ) from error


def warn_of_no_lesson(labelled: bool) -> None:
    """Warns of labels that a `fit` does not look at, or that there is nothing to learn from."""
    warnings.warn(
        "The labels are not used, since the Distiller is compiled without a loss. Give `loss` to "
        "`compile` to learn from them too, or leave them out."
        if labelled
        else "There are no labels, and `alpha=0` gives the teacher no weight: nothing is learned, "
        "unless a callback raises `alpha`. Give `alpha=1` to learn from the teacher alone.",
        stacklevel=3,
    )


def _output_names(model) -> list[str] | None:
    """The names of the flat outputs of a model: the keys, where they are a dict."""
    whole = getattr(model, "output", None)
    return sorted(whole) if isinstance(whole, dict) else getattr(model, "output_names", None)


def _same_shapes(shapes, others):
    return len(shapes) == len(others) and all(
        len(a) == len(b)
        and all(m is None or n is None or m == n for m, n in zip(a, b, strict=True))
        for a, b in zip(shapes, others, strict=True)
    )
