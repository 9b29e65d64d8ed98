"""`explain`: names the layers in which a compressed model lost its accuracy, the causes, cures."""

import dataclasses

import keras
import numpy as np

from tfcompress.archive.model_files import model_of
from tfcompress.diagnosis.case import Case, kernel_in
from tfcompress.diagnosis.causes import cause_of
from tfcompress.diagnosis.example_loss import ExampleLoss
from tfcompress.diagnosis.explanation import ExplainedLayer, Explanation
from tfcompress.diagnosis.observations import observe
from tfcompress.diagnosis.shares import SIGNIFICANT, shares
from tfcompress.diagnosis.switchboard import Switchboard
from tfcompress.diagnosis.trials import tried
from tfcompress.graph.paths import check_keras_3, walk
from tfcompress.planning.quality import Quality
from tfcompress.rewriting.opening import opened
from tfcompress.rewriting.pairs import pairs_of
from tfcompress.tflite.reader import check_source
from tfcompress.utils.arrays import concatenated, rows, spread
from tfcompress.utils.batches import batches, examples_in
from tfcompress.utils.checks import check_number
from tfcompress.utils.types import Data, Loss, Path

MOST_EXAMPLES = 512
BATCH_SIZE = 256


def explain(
    model: keras.Model | Path,
    small: keras.Model | Path,
    data: Data,
    tflite: Path | bytes | None = None,
    loss: Loss = None,
    try_cures: bool = False,
    seconds: float = 3.0,
) -> Explanation:
    """Finds the layers in which a compressed model lost its accuracy, why, and what helps.

    The layers of the float model are put back into the compressed one, one after the other, in
    several orders, and the loss is measured at each step: the mean of what it falls by when a layer
    is put back is the layer's share of the rise (its Shapley value). The causes are found by rules,
    each of which undoes one kind of damage and counts how much of the layer's error is gone.

    Cost: `2 layers` to `4 layers` forward passes of at most 512 examples, and a fit of each kernel.

    Args:
        model: the float model, or its path; it stays as it is.
        small: the compressed one, made from it by `swap`, `prune`, training or other means.
        data: inputs `x` or `(x, y)`, in any form that `fit` takes; held in memory. Without labels
            the change of the outputs is measured.
        tflite: the bytes or the path of the .tflite file of `small`. Its tensors are then read as
            it runs, and what only the file loses is shared too: the model goes on from the file's
            numbers, layer after layer, and the loss is measured each time.
        loss: as in `compile`; None takes the one that `model` is compiled with.
        try_cures: whether each cure is applied, alone, and the loss measured again.
        seconds: after which no further orders begin; there are at least two.

    Returns:
        An `Explanation`, which can be printed.

    Raises:
        FileNotFoundError: there is no such .tflite file.
        ValueError: a model is not built, the models have no layers in common or take other inputs,
            a layer has another shape, or the file is not that of `small`.

    Example:

    >>> import keras, tfcompress as tfc
    >>> keras.utils.set_random_seed(0)
    >>> parts = [keras.layers.Dense(16, "relu", name="fc"), keras.layers.Dense(4, name="out")]
    >>> model = keras.Sequential([keras.Input((8,)), *parts])
    >>> small = tfc.swap(model, {"fc": tfc.layers.BinaryDense})
    >>> found = tfc.explain(model, small, np.random.default_rng(0).normal(size=(64, 8)))
    >>> found.layers[0].path, found.layers[0].cause.name
    ('fc', 'few bits')

    Reference: Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions", 2017, for
    Shapley values as an explanation.
    """
    check_number(seconds, "seconds")
    if tflite is not None:
        check_source(tflite)
    model, small = model_of(model, compile=True), model_of(small)
    _check_models(model, small)
    examples, numbers = _examples(model, data)
    before, now = opened(model), opened(small)
    pairs = pairs_of(before, now)
    board = Switchboard(now, pairs)
    measured = ExampleLoss(model, list(batches(model, examples, BATCH_SIZE)), loss)
    observed, outputs = observe(before, board, pairs, measured.batches)
    after = measured(outputs)
    found, orders = shares(board, pairs, measured, seconds)
    causes = {case.pair: cause_of(case) for case in _cases(now, pairs, observed)}
    cured = tried(now, board, causes, observed, measured) if try_cures else {}
    layers = [
        _row(pair, share, observed[pair], causes[pair], cured.get(pair))
        for pair, share in zip(pairs, found, strict=True)
    ]
    rise = float(after.mean() - measured.before.mean())
    rest = rise - sum(share.rise for share in found)
    file_errors, judged = {}, small
    if tflite is not None:
        from tfcompress.diagnosis.file.faults import FileDiagnosis  # TensorFlow
        from tfcompress.diagnosis.file.rows import with_file

        file = FileDiagnosis(model, small, now, tflite, examples, loss)
        layers, rise, rest = with_file(layers, file), rise + file.rise, rest + file.rest
        file_errors = file.errors
        judged = small if file.taps.batch else file  # which takes batches of any size
    by_loss = _loss_tells(layers)
    return Explanation(
        name=small.name,
        measure=measured.name,
        before=float(measured.before.mean()),
        after=float(measured.before.mean()) + rise,
        rest=rest,
        metric=_metric(model, judged, examples, loss),
        layers=tuple(
            dataclasses.replace(row, worst=tuple(int(numbers[i]) for i in row.worst))
            for row in sorted(layers, key=lambda r: -(r.share if by_loss else r.moved))
        ),
        by_loss=by_loss,
        orders=orders,
        examples=len(after),
        file_errors=file_errors,
    )


def _check_models(model, small) -> None:
    for one, name in ((model, "model"), (small, "small")):
        check_keras_3(one)
        if not one.built:
            raise ValueError(
                f"`{name}` is not built, so that its layers have no weights to compare. Give it an "
                f"`Input`, or call it once. Received: {one!r}"
            )
    inputs = [keras.tree.flatten(getattr(one, "inputs", None) or []) for one in (model, small)]
    shapes = [[tuple(tensor.shape[1:]) for tensor in tensors] for tensors in inputs]
    if all(shapes) and shapes[0] != shapes[1]:
        raise ValueError(
            "Expected models that take the same inputs, `small` being made from `model`. Received: "
            f"inputs of shapes {shapes[1]} in `small`, and {shapes[0]} in `model`"
        )


def _examples(model, data) -> tuple[tuple, np.ndarray]:
    """`(x, y, sample_weight)` of at most 512 examples, drawn from all, and their numbers."""
    whole = concatenated(batches(model, data, BATCH_SIZE))
    count = examples_in(whole[0])
    chosen = spread(count, MOST_EXAMPLES)
    return tuple(rows(part, chosen) for part in whole), chosen


def _cases(small, pairs, observed):
    kernels = [id(layer) for layer, _ in walk(small).values() if kernel_in([layer]) is not None]
    ends = kernels[:1], kernels[-1:]
    for pair in pairs:
        first, last = (any(id(layer) in end for layer in pair.now) for end in ends)
        yield Case(pair, observed[pair], first, last)


def _row(pair, share, observation, cause, cured) -> ExplainedLayer:
    before, now = map(kernel_in, (pair.before, pair.now))
    error = None
    if before is not None and now is not None and before.shape == now.shape:
        error = float(np.linalg.norm(now - before) / max(np.linalg.norm(before), 1e-30))
    return ExplainedLayer(
        path=pair.path,
        method=pair.method,
        share=share.rise,
        error=share.error,
        moved=share.moved,
        kernel_error=error,
        output_error=observation.output_error,
        worst=share.worst,
        cause=cause,
        cured=cured,
    )


def _loss_tells(layers) -> bool:
    """Whether some layer raises the loss by more than chance, and none lowers it by more."""
    shares = [row.share for row in layers]
    stands_out = any(row.share > SIGNIFICANT * row.error for row in layers)
    return stands_out and max(shares) >= -min(shares)


def _metric(model, small, examples, loss) -> tuple[str, float, float] | None:
    """What the user judges by, before and after; None where that is the loss or is not known."""
    if examples[1] is None:
        return None
    try:
        quality = Quality(model, examples, loss=loss)
    except ValueError:  # what is good is not known
        return None
    return None if quality.name == "loss" else (quality.name, quality(model), quality(small))
