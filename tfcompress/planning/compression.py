"""`compress`: makes a trained model fit a budget, exports it and measures it."""

from concurrent.futures import Executor
from time import perf_counter
from typing import Any

import keras
import numpy as np

from tfcompress.archive.model_files import model_of
from tfcompress.export.arguments import check_path
from tfcompress.graph.paths import check_finite_weights, check_keras_3
from tfcompress.planning.attempts import BATCH_SIZE, Compressor
from tfcompress.planning.compressed import Compressed, finish
from tfcompress.planning.latency.layer_times import LayerTimes
from tfcompress.planning.plan_result import amount
from tfcompress.planning.quality import takes_a_model
from tfcompress.utils.budgets import of_budget, read_limits
from tfcompress.utils.checks import check_integer_activations, check_number, check_seed, is_whole
from tfcompress.utils.progress import showing
from tfcompress.utils.types import (
    Activations,
    Budget,
    ClassWeight,
    Data,
    FineTune,
    Loss,
    Path,
    Store,
    Target,
    Verbose,
)
from tfcompress.utils.workers import check_executor

BISECTIONS = 4  # of the logarithm of the budget
LARGEST_BUDGET = 0.5  # that is tried if only `max_drop` is given
TIME_ROOM = 1.05  # by which the smallest budget of time exceeds what the fastest forms took


def compress(
    model: keras.Model | Path,
    data: Data,
    budget: Budget | None = None,
    max_drop: float | None = None,
    metric: Any = None,
    *,
    fine_tune: FineTune = 3,
    teacher: keras.Model | str | None = "self",
    validation_data: Data | None = None,
    target: Target = "tflite",
    store: Store = "fast",
    loss: Loss = None,
    path: Path | None = None,
    seed: int = 0,
    latency: Path | LayerTimes | None = None,
    executor: Executor | None = None,
    verbose: Verbose = "auto",
    class_weight: ClassWeight = None,
    batch_size: int = BATCH_SIZE,
    activations: Activations = "int8",
    train: Data | None = None,
) -> Compressed:
    """Compresses a trained model to a budget, or as far as its accuracy allows.

    1. The forms that each layer could take are measured, and a knapsack chooses (see `plan`).
    2. The layers are swapped, and the batch normalization statistics are measured again.
    3. All weights are trained, with the original model as the teacher (`Distiller`).
    4. The model is scored on the validation data, exported and verified. The file holds kernels
       that no form takes, and large ones that stay in float32, in int8: `to_tflite(rest="int8")`.

    With `max_drop`, steps 2 to 4 are repeated for up to six budgets: bisection finds the smallest
    one whose score is high enough.

    Args:
        model: a built model of any kind, which stays as it is, or the path of its file, with the
            loss and metrics that it was compiled with.
        data: `(x, y)`, `(x, y, sample_weight)` or inputs `x`, in any form that `fit` takes. A
            dataset of more than 512 MiB is not held in memory but read once to check it, and then
            in each epoch, in its own batches, while the plan is made on its first examples.
            Without labels the student learns from the teacher alone, and the outputs of the
            original model are the labels to validate on: its most likely classes, or the outputs
            themselves where the loss is not one of classes. Sample weights count in training and
            in each metric.
        budget: a share, in (0, 1], of the size of the float32 model; a number above 1 is in the
            unit of `target`, where `"bits"` also counts bytes. A text such as `"5ms"` or `"300us"`
            is a budget of time whatever the target, and `{"tflite": 0.1, "milliseconds": 5}` has
            two, of which one is of time: see `plan`.
        max_drop: by how much the metric may get worse. If `budget` is given too, it is the
            smallest budget that is tried.
        metric: None takes the first compiled metric of each output and the mean of these; without
            labels or compiled metrics the accuracy that fits a loss of classes, otherwise the
            loss. Or a metric as in `compile(metrics=...)`, or `"loss"`; `"min:name"` or
            `"max:name"` also says which way is better, for those of which Keras does not tell. Or
            a function that takes a model and returns a number of which more is better.
        fine_tune: number of epochs, of which 0 trains nothing, and whose rate falls from 0.001 to
            0. Or `"auto"`: three rates are tried for an epoch, then 3 and 9 epochs at the best of
            them while that helps, at most five trainings of 15 epochs; what is best on the
            validation data is kept, which makes `after` look a little too good: keep a test set
            apart. Or a function `(student, teacher, data)` that trains the student in place, where
            the data are `(x, y)`, or `(x, y, sample_weight)` if there are weights, or a dataset
            that is not held in memory as it is. A training by epochs that makes the metric worse
            is not kept.
        teacher: `"self"` for the original model, another Keras model, or None to learn from the
            labels alone.
        validation_data: like `data`, at most 512 MiB; None holds out a tenth of `data`, or the
            first ones of a larger dataset, at most a tenth, which must come in the same order each
            time.
        target: what the budget counts. `"tflite"`: bytes of the file; `"archive"`: bytes of
            `archive.save(half=True)`; `"bits"`: stored bits of the kernels; `"macs"`:
            multiply-accumulates; `"milliseconds"`: the time of one run of the file on one thread,
            measured here in turn with the float32 file; it takes longer than that one only where
            the budget does.
        store: how the file stores kernels, see `to_tflite`.
        loss: as in `compile`; None takes the compiled one, with its loss weights. Without either,
            the student learns from the teacher alone, by squared error unless the model ends in a
            softmax or sigmoid.
        path: where to write the .tflite file; None writes no file.
        seed: passed to `keras.utils.set_random_seed` before each training.
        latency: the table of times that a budget of time counts, or its path, see `time_layers`;
            None for times of this machine.
        executor: a `concurrent.futures.Executor`, whose workers fit and measure the forms of the
            layers, see `plan`; the training is done here.
        verbose: as in Keras' `fit`: what is tried, the layer at work and the epochs. See `swap`.
        class_weight: `{class: weight}`, as in `fit`: in the training and in the loss that a plan
            goes by, and not in the metric. It needs labels, a loss and data held in memory.
        batch_size: of the training, except on a dataset that is not held in memory.
        activations: how the file computes, see `to_tflite`. `"int8"`; or `"static_int8"`, where
            everything is in int8, for NPUs and microcontrollers. Ranges of activations are then
            learned in the training, in layers of plain graphs; others are measured on 500 examples,
            on which the file is verified too. `after` is the metric of the file, and not of the
            model, whose `FakeQuant` layers hold the ranges. Not with `store="small"`, budgets of
            archives, or functions as metrics.
        train: what to train on in place of `data`, from which the plan is made: a dataset with your
            own augmentation, for example. Anything but arrays that `fit` takes more than once; it
            is not held in memory, and the teacher runs on what it yields. Give `validation_data`
            with it, none of which it should hold.

    Returns:
        A `Compressed`.

    Raises:
        ValueError: an argument is out of range; it is not known what is good, or which way; no
            budget that was tried keeps the metric within `max_drop`; even the smallest forms exceed
            the budget.
        ExportError: the model cannot be exported, see `to_tflite`.
        WriteError: the file cannot be written. The attribute `model` of these two is the compressed
            model, where there was one already.

    Example:

    >>> import tfcompress as tfc
    >>> keras.utils.set_random_seed(0)
    >>> hidden = keras.layers.Dense(64, "relu")
    >>> model = keras.Sequential([keras.Input((32,)), hidden, keras.layers.Dense(2)])
    >>> x = np.random.default_rng(0).normal(size=(400, 32))
    >>> made = tfc.compress(model, x, budget=0.5, fine_tune=1)
    >>> made.size == len(made.tflite) <= 0.5 * len(tfc.to_tflite(model))
    True

    References: Han et al., "Deep Compression: Compressing Deep Neural Networks with Pruning,
    Trained Quantization and Huffman Coding", 2016; Furlanello et al., "Born-Again Neural Networks",
    2018 (a model as the teacher of its own copy).
    """
    model = model_of(model, compile=True)
    check_arguments(model, budget, max_drop, fine_tune, teacher)
    check_activations(activations, store, metric, budget, target)
    if train is not None and validation_data is None:
        raise ValueError(
            "`train` may hold what would be held out of `data`. Give `validation_data` with it."
        )
    check_path(path)
    check_seed(seed)
    check_executor(executor)
    begin, asked = perf_counter(), {"budget": budget, "max_drop": max_drop, "target": target}
    asked["activations"] = None if activations == "int8" else activations
    target, limit, time = of_budget(budget, target)
    with showing(verbose):
        given = data, metric, fine_tune, teacher, validation_data, target, store, loss
        terms = {"latency": latency, "time": time, "class_weight": class_weight}
        terms |= {"activations": activations, "batch_size": batch_size, "train": train}
        terms["max_drop"] = max_drop
        compressor = Compressor(model, *given, seed, executor, **terms)
        if max_drop is None:
            attempt = compressor.attempt(compressor.share(limit))
        else:
            attempt = _smallest_within(compressor, limit, max_drop)
        return finish(compressor, attempt, path, asked, begin)


def _smallest_within(compressor, limit, max_drop):
    """The attempt at the smallest budget that keeps the score, by bisection."""
    if limit is None:
        room = TIME_ROOM if compressor.target == "milliseconds" else 1.0
        low = min(1.0, room * compressor.smallest_size / compressor.float_size)
    else:
        low = compressor.share(limit)
    high = LARGEST_BUDGET if low < LARGEST_BUDGET else max(1.0, low)
    attempt = compressor.attempt(low)
    if compressor.drop(attempt) <= max_drop:
        return attempt
    best = None
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        attempt = compressor.attempt(middle)
        if compressor.drop(attempt) <= max_drop:
            best, high = attempt, middle
        else:
            low = middle
    best = best or compressor.attempt(high)
    if compressor.drop(best) > max_drop:
        name, before = compressor.quality.name, compressor.before
        size = amount(best.size, compressor.target)
        raise ValueError(
            f"No budget up to {high:.3g} keeps {name} within {max_drop} of {before:.4f}: "
            f"{best.score:.4f} at {size}. Give more data or more epochs to `fine_tune`."
        )
    return best


def check_activations(
    activations: Activations, store: Store, metric: Any, budget: Any, target: str
) -> None:
    """Raises unless files with these activations can be made, counted and scored."""
    check_integer_activations(activations)
    if activations == "int8":
        return
    counted = [target] if budget is None else read_limits(budget, target)
    reasons = {
        "`store='small'` unpacks kernels that int8 arithmetic needs as they are": store == "small",
        "an archive holds no full-integer file": "archive" in counted,
        "the metric is that of the file, and a function gets a model": takes_a_model(metric),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"`activations='static_int8'` does not go with this: {reason}.")


def check_arguments(
    model: keras.Model, budget: Any, max_drop: float | None, fine_tune: Any, teacher: Any
) -> None:
    """Raises unless the arguments of `compress` can be used."""
    check_keras_3(model)
    check_finite_weights(model)
    if budget is None and max_drop is None:
        raise ValueError("Give a `budget`, a `max_drop`, or both.")
    if max_drop is not None:
        check_number(max_drop, "max_drop")
        if not max_drop >= 0:
            raise ValueError(f"Expected `max_drop` >= 0. Received: {max_drop!r}")
    if not (is_whole(fine_tune, least=0) or callable(fine_tune) or fine_tune == "auto"):
        raise ValueError(
            "Expected `fine_tune` to be a number of epochs, 'auto' or a function. "
            f"Received: {fine_tune!r}"
        )
    if not (teacher is None or isinstance(teacher, keras.Model) or teacher == "self"):
        raise ValueError(
            f"Expected `teacher` to be 'self', a Keras model, or None. Received: {teacher!r}"
        )
