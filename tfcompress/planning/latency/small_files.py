"""The small files that are timed: one for each shape and form of the layers of a model."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from tfcompress.graph.layerwise import follow
from tfcompress.graph.nodes import calls_its_graph, input_shapes
from tfcompress.graph.paths import walk
from tfcompress.measure.macs import steps_of
from tfcompress.planning.candidates import chains
from tfcompress.planning.costs import file_of
from tfcompress.planning.latency.layer_times import EMPTY, form_key
from tfcompress.utils.arrays import rows
from tfcompress.utils.types import Activations, InputShape, Rest, Store

Files = dict[str, Callable[[], bytes]]  # what makes each file, by its key


def layer_uses(
    model: keras.Model, inputs: Any, wanted: Iterable[keras.layers.Layer]
) -> dict[int, list[InputShape]]:
    """The shapes of the inputs of layers, one for each use, by the layer's id.

    A part of a composite layer counts once, in a recurrent one once a step, as in `macs`.

    Args:
        model: a built model.
        inputs: examples, as arrays.
        wanted: layers of it.
    """
    shapes = input_shapes(model) if calls_its_graph(model) else {}
    steps, found = steps_of(model, shapes), {}

    def note(layer, pairs):
        for before, _ in pairs:
            seen = (None, *before.shape[1:])
        found[id(layer)] = shapes.get(id(layer)) or [seen] * (steps.get(id(layer)) or 1)

    follow(model, rows(inputs, slice(1)), wanted, note, "Reading shapes")
    return found


def small_files(
    model: keras.Model,
    uses: dict[int, list],
    candidates: dict,
    store: Store,
    rests: Sequence[Rest],
    activations: Activations = "int8",
) -> list[Files]:
    """The files of each layer and shape: first the layer in float32, then its forms.

    Args:
        model: a built model, opened.
        uses: see `layer_uses`.
        candidates: `{name: makers}`, see `plan`.
        store, rests, activations: see `to_tflite`.
    """
    groups = {"": {EMPTY: _file_of([keras.layers.ReLU()], (None, 1), store, "float32")}}
    for layer, _ in walk(model).values():
        for shape in dict.fromkeys(map(tuple, uses.get(id(layer), []))):
            plain = form_key([layer], shape, store)
            if plain in groups:
                continue
            made = groups[plain] = {plain: _file_of([layer], shape, store, "float32")}
            for chain in ([layer], *chains(layer, candidates)):
                for rest in rests:
                    given = chain, shape, store, rest, activations
                    made[form_key(*given)] = _file_of(*given)
    return list(groups.values())


def _file_of(*given):
    return lambda: file_of(*given)
