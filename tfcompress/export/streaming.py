"""A model that is given its sequences piece by piece: its states become inputs and outputs."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from tfcompress.export.carried_states import (
    Carry,
    called,
    carrying,
    is_delay,
    refuse,
    refuse_what_cannot_stream,
)
from tfcompress.export.exported import Exported, different, flat_outputs
from tfcompress.export.samples import all_batches, first_batches, sample_arrays
from tfcompress.graph.copy import shadow
from tfcompress.graph.nodes import free_steps
from tfcompress.graph.paths import walk
from tfcompress.graph.private_keras import layers_in
from tfcompress.utils.errors import ExportError
from tfcompress.utils.types import Sample

STEPS = 8  # of random samples where the model leaves their number free
PIECES = 4  # of each sequence in `check`
# Layers in which no layer is named.
WHOLE = (
    keras.layers.RNN,
    keras.layers.TimeDistributed,
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
)
TOLERANCE = 1e-4  # of the largest number of an output


@dataclass(frozen=True)
class Streamed(Exported):
    """A model that takes its states behind its inputs, and gives new ones of the same names.

    Attributes:
        states: a `keras.KerasTensor` for each state.
    """

    states: tuple = ()

    @property
    def tensors(self) -> list:
        return [*super().tensors, *self.states]

    def call(self, arrays: Sequence[np.ndarray]) -> Any:
        count = len(arrays) - len(self.states)
        carry = Carry(arrays[count:])
        with carrying(self.model, carry):
            outputs = super().call(arrays[:count])
        named = dict(zip(self.output_names(outputs), flat_outputs(outputs), strict=True))
        names = [state.name for state in self.states]
        return named | dict(zip(names, carry.new, strict=True))

    def input_names(self) -> list[str]:
        own = Exported(self.model, self.inputs, self.by_name)
        return [*own.input_names(), *(state.name for state in self.states)]


def streamed(whole: Exported, check: Sample) -> tuple[Streamed, list[np.ndarray]]:
    """A model piece by piece, and samples of its inputs and states.

    Args:
        whole: the model on whole sequences.
        check: samples of these, or None for random ones.

    Raises:
        ExportError: a layer needs the whole sequence, or its first output another than the first
            steps. Its path is named.
        ValueError: the model has no layer with states.
    """
    refuse_what_cannot_stream(whole.model)
    model = shadow(whole.model)[0]
    for layer in layers_in(model):
        if isinstance(layer, keras.layers.RNN):
            layer.stateful = False  # its states are given with each call
            layer.unroll = False
    whole = whole.of(model)
    arrays = sample_arrays(_of_some_steps(whole) if check is None else whole, check)
    carry, batch = Carry(), first_batches(whole, arrays)[-1]
    with carrying(model, carry):
        outputs = whole.call(batch)
    for layer in carry.begun:
        _refuse_layer(whole, layer, "begins with states that another layer computes")
    if not carry.new:
        if any(map(_has_steps, whole.tensors)):
            _refuse_unlike(whole, batch)
        raise ValueError(
            "Expected for `streaming=True` a model with recurrent layers or causal convolutions. "
            f"Received: {model.name!r}, which has none"
        )
    whole = _with_free_steps(whole, carry.lengths)
    _refuse_unlike(whole, batch)
    names = [*whole.input_names(), *whole.output_names(outputs)]
    return _with_states(whole, carry, names), _pieces(whole, arrays)


def _of_some_steps(whole) -> Exported:
    """The model with a known number of steps, for random samples."""
    return replace(whole, inputs=keras.tree.map_structure(_some_steps, whole.inputs))


def _some_steps(tensor):
    shape = tuple(tensor.shape)
    return _like(tensor, (*shape[:1], STEPS, *shape[2:])) if _has_steps(tensor) else tensor


def _has_steps(tensor) -> bool:
    """Whether the number of steps of an input is free: its second size."""
    return len(tensor.shape) > 1 and tensor.shape[1] is None


def _like(tensor, shape):
    return keras.KerasTensor(shape, tensor.dtype, name=tensor.name)


def _with_free_steps(whole, lengths) -> Exported:
    """The model with inputs of any number of steps: those of the lengths of its sequences.

    Where none has such a length, all inputs are taken: then a layer changes it, and will be found.
    """
    if any(map(_has_steps, whole.tensors)):
        return whole
    found = {tensor.shape[1] for tensor in whole.tensors if len(tensor.shape) > 1}
    lengths = found & lengths or found

    def freed(tensor):
        shape = tuple(tensor.shape)
        of_steps = len(shape) > 1 and shape[1] in lengths
        return _like(tensor, (*shape[:1], None, *shape[2:])) if of_steps else tensor

    try:
        free_steps(whole.model, lengths)
    except Exception as error:  # of any kind, from the code of a layer
        raise ExportError(
            f"The model takes no other number of steps than that it was made for: {error}"
        ) from error
    return replace(whole, inputs=keras.tree.map_structure(freed, whole.inputs))


def _with_states(whole, carry, others) -> Streamed:
    paths, names = {id(layer): path for path, (layer, _) in walk(whole.model).items()}, []
    for layer in carry.owners:
        name = f"{paths[id(layer)].replace('/', '_')}_state"
        names.append(f"{name}_{sum(one.rpartition('_')[0] == name for one in names)}")
    names = different([*dict.fromkeys(others), *names])[-len(names) :]
    states = [
        keras.KerasTensor((whole.tensors[0].shape[0], *state.shape[1:]), state.dtype, name=name)
        for name, state in zip(names, carry.new, strict=True)
    ]
    return Streamed(whole.model, whole.inputs, whole.by_name, tuple(states))


def _pieces(whole, arrays) -> list[np.ndarray]:
    """Samples of the inputs and states: the pieces of each sequence, with the states before them.

    Integers hold the states that they were measured on: zeros, and those within a sequence.
    """
    of_steps, found = _of_steps(whole), []
    steps = next(x.shape[1] for x, cut in zip(arrays, of_steps, strict=True) if cut)
    size = -(-steps // PIECES)
    begins = [0, *range(steps % size or size, steps, size)]  # the last one ends with the sequence
    for batch in all_batches(whole, arrays):
        states = None
        for begin, after in itertools.pairwise([*begins, steps]):
            piece, run = (_cut(batch, of_steps, begin, end) for end in (begin + size, after))
            carry = Carry(states)
            with carrying(whole.model, carry):
                whole.call(run)
            new = [np.asarray(state) for state in carry.new]
            found.append([*piece, *(map(np.zeros_like, new) if states is None else states)])
            states = new
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _cut(batch, of_steps, begin, end) -> list[np.ndarray]:
    return [x[:, begin:end] if s else x for x, s in zip(batch, of_steps, strict=True)]


def _of_steps(whole) -> list[bool]:
    """Whether the second size of each input counts steps."""
    return [_has_steps(tensor) for tensor in whole.tensors]


def _refuse_unlike(whole, batch) -> None:
    """Raises `ExportError` for the first layer that gives other outputs piece by piece."""
    steps = _of_steps(whole)
    count = next(len(x[0]) for x, of_steps in zip(batch, steps, strict=True) if of_steps)
    if count < 2:
        raise ValueError(
            "Expected for `streaming=True` samples of at least 2 steps in `check`. Received: 1 step"
        )
    ends = sorted({0, count // 2, min(count // 2 + 1, count), count})
    expected, pieces, carry = _recorded(whole, batch), [], Carry()
    for begin, end in itertools.pairwise(ends):
        piece = _cut(batch, steps, begin, end)
        with carrying(whole.model, carry):
            pieces.append(_recorded(whole, piece, in_pieces=True))
        carry = Carry(carry.new)
    for (layer, y), *others in zip(expected, *pieces, strict=True):
        if not _same(y, [part for _, part in others]):
            _refuse_layer(whole, layer)


def _recorded(whole, batch, in_pieces=False) -> list[tuple]:
    """The layers of a model in the order of their calls, and their first outputs."""
    record, failed, model = [], [], whole.model
    inside = {
        id(one)
        for layer in layers_in(model)
        if isinstance(layer, WHOLE)
        for one in layers_in(layer, include_self=False)
    }

    def around(layer, call, *args, **kwargs):
        try:
            outputs = call(*args, **kwargs)
        except Exception:
            failed.append(layer)
            raise
        record.append((layer, np.asarray(keras.tree.flatten(outputs)[0])))
        return outputs

    with contextlib.ExitStack() as stack:
        for layer in layers_in(model):
            plain = not isinstance(layer, (keras.Model, keras.layers.InputLayer))
            plain = plain and not is_delay(layer)  # its chunks overlap
            if plain and id(layer) not in inside:
                stack.enter_context(called(layer, partial(around, layer)))
        try:
            outputs = whole.call(batch)
        except Exception:  # of any kind, from the code of a layer that got fewer steps
            if not in_pieces:
                raise
            emptied = [layer for layer, y in record if y.ndim > 1 and y.shape[1] == 0]
            last = [layer for layer, _ in record[-1:]]
            _refuse_layer(whole, (*emptied, *failed, *last, None)[0])
    return [*record, *((None, np.asarray(y)) for y in flat_outputs(outputs))]


def _same(y, parts) -> bool:
    """Whether outputs are those of the pieces one after the other, or that of the last piece."""
    candidates = [parts[-1]]
    if y.ndim > 1 and all(p.shape[::2] == y.shape[::2] for p in parts):
        candidates.append(np.concatenate(parts, 1))
    scale = np.abs(y).max(initial=0.0)
    return any(
        c.shape == y.shape and np.abs(c - y).max(initial=0.0) <= TOLERANCE * scale
        for c in candidates
    )


def _refuse_layer(whole, layer, reason="needs more than the steps of one piece and the states"):
    paths = {id(one): path for path, (one, _) in walk(whole.model).items()}
    path = None if layer is None else paths.get(id(layer), layer.name)
    refuse(path or whole.model.name, reason)
