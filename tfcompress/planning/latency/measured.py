"""`time_layers`: the table of times that plans for milliseconds read."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.graph.nodes import calls_its_graph, graph_of
from tfcompress.graph.paths import check_keras_3, walk
from tfcompress.planning.candidates import by_name, default_candidates
from tfcompress.planning.latency.layer_times import LayerTimes, kept, of_this_machine, read_times
from tfcompress.planning.latency.phone import Phone
from tfcompress.planning.latency.small_files import Files, layer_uses, small_files
from tfcompress.planning.latency.timing import Timer, add_missing, add_whole, timer_here
from tfcompress.planning.options import has_kernel
from tfcompress.rewriting.opening import opened
from tfcompress.utils.arrays import concatenated, rows
from tfcompress.utils.batches import batches
from tfcompress.utils.checks import (
    check_ending,
    check_integer_activations,
    check_store,
    positive_int,
)
from tfcompress.utils.progress import showing
from tfcompress.utils.types import Activations, Data, Path, Rest, Sample, Store, Verbose

RESTS = "float32", "int8"  # of the files of `plan` and of `compress`
RANGE_EXAMPLES = 32  # by which ranges in the files that are timed are found


def time_layers(
    model: keras.Model,
    path: Path,
    benchmark_model: Path | None = None,
    candidates: Any = None,
    store: Store = "fast",
    threads: int = 1,
    data: Data | None = None,
    verbose: Verbose = "auto",
    activations: Activations = "int8",
) -> LayerTimes:
    """Times each layer of a model in each form that it may take, for plans in milliseconds.

    Each shape and form becomes a small .tflite file, which runs in turn with that of the layer in
    float32; the model's own file runs in turn with all of the latter. Run it on the machine that
    the model is for, or with that phone at `adb`: `plan(..., latency=path)` and the others then
    need neither. For this machine that is not needed: `plan` times what it has not timed before.

    Args:
        model: a built model of any kind, with inputs of known sizes.
        path: of the JSON file to write. Times that are there already are kept, if they are of the
            same processor and runtime.
        benchmark_model: path of LiteRT's `benchmark_model` for the phone; None times here.
        candidates: as in `plan`. None takes those of the targets `"milliseconds"`, `"tflite"` and
            `"macs"`.
        store: as in `to_tflite`.
        threads: that run each file.
        data: a few examples of the model's inputs; None takes zeros, where the model is Sequential
            or Functional.
        verbose: as in Keras' `fit`.
        activations: of the files, for `compress(activations=...)`: `"int8"` or `"static_int8"`.

    Returns:
        A `LayerTimes`.

    Raises:
        ValueError: a size of an input is not known; no phone answers; `path` holds times of another
            processor or runtime.
        WriteError: the file cannot be written.

    Example:

    >>> import os, tempfile, keras, tfcompress as tfc
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, name="fc")])
    >>> path = os.path.join(tempfile.mkdtemp(), "times.json")
    >>> times = tfc.time_layers(model, path, candidates=tfc.layers.QuantizedDense.using(bits=4))
    >>> [key for key in times.milliseconds if "Quantized" in key][0][:52]
    "[1, 64] QuantizedDense(activation='linear', use_bias"
    """
    check_keras_3(model)
    check_store(store)
    check_integer_activations(activations)
    check_ending(path, ".json")
    positive_int(threads, "threads")
    if candidates is None:
        targets = "milliseconds", "tflite", "macs"
        tried = {k: v for target in targets for k, v in default_candidates(target).items()}
    else:
        tried = by_name(candidates)
    if benchmark_model is None:
        times, timer = of_this_machine(threads), timer_here(threads)
    else:
        phone = Phone(benchmark_model, threads)
        times, timer = LayerTimes(phone.runtime, phone.name, threads), phone
    times = _with_those_at(path, times)
    with showing(verbose):
        whole = opened(model)
        inputs = _zeros(model) if data is None else _inputs(model, data)
        static = activations == "static_int8"
        terms = store, ["int8"] if static else RESTS, activations
        groups = small_files(whole, _uses(whole, inputs), tried, *terms)
        files = whole_files(model, *terms, _range_examples(inputs, store, activations))
        complete(times, groups, files, timer, path)
    return times


def times_for_plan(
    latency: Path | LayerTimes | None,
    model: keras.Model,
    whole: keras.Model,
    inputs: Any,
    candidates: dict,
    store: Store,
    rest: Rest,
    activations: Activations,
) -> tuple[LayerTimes, list[bytes], Sample]:
    """What plans for milliseconds need: a table of times, the model's own files, and examples by
    which the ranges in them are found, where they have any.

    Args:
        latency: a table, its path, or None for this machine's, which is completed.
        model, whole: as it is, and opened.
        inputs: examples.
        candidates, store, rest, activations: see `small_files`.
    """
    check = _range_examples(inputs, store, activations)
    files = whole_files(model, store, [rest], activations, check)
    if latency is not None:
        times = latency if isinstance(latency, LayerTimes) else read_times(latency)
        return times, files, check
    times = of_this_machine()
    path = kept(times)
    times = _with_those_at(path, times)
    given = candidates, store, [rest], activations
    groups = small_files(whole, _uses(whole, inputs), *given)
    complete(times, groups, files, timer_here(), path)
    return times, files, check


def whole_files(
    model: keras.Model,
    store: Store,
    rests: Sequence[Rest],
    activations: Activations = "int8",
    check: Sample = None,
) -> list[bytes]:
    """The file of a model in float32, and those with its kernels in other types."""
    from tfcompress.export import unverified

    others = dict.fromkeys((rest, activations) for rest in rests)
    first = ("float32", "int8")
    made = {first: unverified(model, store, "float32")}
    made |= {one: unverified(model, store, *one, check) for one in others if one != first}
    return [made[first], *(made[rest, activations] for rest in rests)]


def complete(
    times: LayerTimes, groups: list[Files], files: list[bytes], timer: Timer, path: Path
) -> None:
    """Times what a table lacks, and writes it after each layer."""

    def save():
        # what another process has added meanwhile is kept
        times.milliseconds.update(_with_those_at(path, times).milliseconds | times.milliseconds)
        times.write(path)

    add_missing(times.milliseconds, groups, timer, save)
    add_whole(times.milliseconds, files, groups, timer, save)


def _uses(whole, inputs):
    layers = [layer for layer, _ in walk(whole).values() if has_kernel(layer)]
    return layer_uses(whole, inputs, layers)


def _with_those_at(path, times) -> LayerTimes:
    """A table with the times that a file holds, if there is one."""
    if not os.path.exists(path):
        return times
    found = read_times(path)
    own, other = ((t.runtime, t.processor, t.threads) for t in (times, found))
    if own != other:
        raise ValueError(
            f"Expected a new file, or one of times of {own}. Received: {os.fspath(path)!r}, which "
            f"holds those of {other}"
        )
    return dataclasses.replace(times, milliseconds=dict(found.milliseconds))


def _range_examples(inputs, store, activations):
    """Examples for ranges, which full-integer files have and convolutions in the smallest form."""
    needed = activations == "static_int8" or store == "small"
    return rows(inputs, slice(RANGE_EXAMPLES)) if needed else None


def _zeros(model):
    if not calls_its_graph(model):
        raise ValueError(
            "The sizes of a subclassed model's inputs are not known. Give a few examples as `data`."
        )
    return keras.tree.map_structure(
        lambda t: np.zeros((1, *_sizes(t)), t.dtype), graph_of(model).input
    )


def _sizes(tensor):
    if None in tensor.shape[1:]:
        raise ValueError(
            "Times need inputs of known sizes. Expected a model whose `Input`s have them. "
            f"Received: {tuple(tensor.shape)}"
        )
    return tensor.shape[1:]


def _inputs(model, data):
    return concatenated(batches(model, data, 64))[0]
