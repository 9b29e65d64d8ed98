"""Layers that carry states from one chunk of a sequence to the next, and those that cannot."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
from keras import ops

from tfcompress.export.lower.cell_steps import STEPS
from tfcompress.graph.paths import walk
from tfcompress.graph.private_keras import layers_in
from tfcompress.utils.errors import ExportError
from tfcompress.utils.types import Tensor


class Carry:
    """The states of a model between two chunks.

    Args:
        given: the states after the chunk before, or None for a sequence that begins: zeros.

    Attributes:
        new: the states after this chunk.
        owners: the layer of each state.
        lengths: the numbers of steps that recurrent layers and convolutions got.
        begun: the layers that were given states to begin with by the model itself.
    """

    def __init__(self, given: list | None = None) -> None:
        self.given = None if given is None else list(given)
        self.new: list[Tensor] = []
        self.owners: list[keras.layers.Layer] = []
        self.lengths: set[int | None] = set()
        self.begun: list[keras.layers.Layer] = []

    def take(self, layer: keras.layers.Layer, zeros: list) -> list:
        """The next states: as many as there are zeros, which are those at the beginning."""
        self.owners += [layer] * len(zeros)
        return zeros if self.given is None else [self.given.pop(0) for _ in zeros]


@contextlib.contextmanager
def carrying(model: keras.Model, carry: Carry) -> Iterator[None]:
    """While open, the layers of a model take their states from a carry and put new ones into it."""
    with contextlib.ExitStack() as stack:
        for layer in layers_in(model):
            if isinstance(layer, keras.layers.RNN):
                stack.enter_context(called(layer, partial(_recurrent, layer, carry)))
            elif is_causal(layer):
                stack.enter_context(called(layer, partial(_causal, layer, carry)))
            elif is_delay(layer):
                stack.enter_context(called(layer, partial(_delayed, layer, carry)))
        yield


@contextlib.contextmanager
def called(layer: keras.layers.Layer, around: Callable[..., Any]) -> Iterator[None]:
    """While open, a call of a layer is `around(call, *args, **kwargs)`."""
    own = vars(layer).get("call")
    vars(layer)["call"] = partial(around, layer.call)
    try:
        yield
    finally:
        del vars(layer)["call"]
        if own is not None:
            vars(layer)["call"] = own


def _recurrent(layer, carry, call, sequences, initial_state=None, mask=None, training=False):
    if initial_state is not None:
        carry.begun.append(layer)
    carry.lengths.add(sequences.shape[1])
    zeros = layer.get_initial_state(batch_size=ops.shape(sequences)[0])
    states = carry.take(layer, keras.tree.flatten(zeros))
    returned, layer.return_state = layer.return_state, True
    try:
        states = keras.tree.pack_sequence_as(zeros, states)
        y, *new = call(sequences, initial_state=states, mask=mask, training=training)
    finally:
        layer.return_state = returned
    carry.new += keras.tree.flatten(new)
    if mask is not None and not layer.zero_output_for_mask:
        y = _after_the_last_chunk(layer, carry, y, keras.tree.flatten(mask)[0], states)
    return (y, *new) if returned else y


def _after_the_last_chunk(layer, carry, y, mask, states) -> Tensor:
    """The outputs, at the beginning of which masked steps repeat the last one of the chunk before.

    Keras repeats zeros there, as at the beginning of a sequence.
    """
    known = type(layer.cell).call in STEPS  # their output is their first state
    last = y[:, -1] if layer.return_sequences else y
    before = states[0] if known else carry.take(layer, [ops.zeros_like(last)])[0]
    seen = ops.cumsum(ops.cast(mask, "int32"), 1) > 0
    seen = seen if layer.return_sequences else seen[:, -1]
    seen = ops.reshape(seen, (*ops.shape(seen), *[1] * (len(y.shape) - len(seen.shape))))
    y = ops.where(seen, y, before[:, None] if layer.return_sequences else before)
    if not known:
        carry.new.append(y[:, -1] if layer.return_sequences else y)
    return y


def is_causal(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a convolution over steps that sees none after its own."""
    return getattr(layer, "padding", None) == "causal" and layer.kernel_size[0] > 1


def is_delay(layer: keras.layers.Layer) -> bool:
    """Whether a layer is zeros before the first step: what makes a convolution after it causal."""
    return (
        isinstance(layer, keras.layers.ZeroPadding1D)
        and layer.data_format == "channels_last"
        and layer.padding[1] == 0 < layer.padding[0]
    )


def _delayed(layer, carry, call, inputs, **kwargs):
    """Zeros before the first step of the first chunk, and the last steps of it before the next."""
    return _with_steps_before(layer, carry, layer.padding[0], inputs)


def _with_steps_before(layer, carry, count, inputs):
    """The inputs behind the last `count` ones of the chunk before, which are the layer's state."""
    carry.lengths.add(inputs.shape[1])
    shape = (ops.shape(inputs)[0], count, inputs.shape[2])
    (before,) = carry.take(layer, [ops.zeros(shape, inputs.dtype)])
    whole = ops.concatenate([before, inputs], 1)
    carry.new.append(whole[:, -count:])
    return whole


def _causal(layer, carry, call, inputs, **kwargs):
    """A causal convolution, whose state are the last inputs that later outputs need."""
    count = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
    whole = _with_steps_before(layer, carry, count, inputs)
    layer.padding = "valid"
    try:
        return call(whole, **kwargs)
    finally:
        layer.padding = "causal"


def refuse_what_cannot_stream(model: keras.Model) -> None:
    """Raises `ExportError` for the first layer of which that is known from its arguments."""
    for path, (layer, _) in walk(model).items():
        inner = [one for one in layers_in(layer, include_self=False)]
        if isinstance(layer, keras.layers.Bidirectional) or getattr(layer, "go_backwards", False):
            refuse(path, "reads sequences from their end")
        if isinstance(layer, (keras.layers.RNN, keras.layers.TimeDistributed)) and any(
            isinstance(one, keras.layers.RNN) for one in inner
        ):
            refuse(path, "runs a recurrent layer anew at each step")
        last = getattr(layer, "data_format", "channels_last") == "channels_last"
        if is_causal(layer) and (layer.strides[0] > 1 or not last):
            refuse(path, "has strides over steps, or channels first")


def refuse(path: str, reason: str) -> None:
    """Raises `ExportError` for a layer without which a model could be streamed."""
    raise ExportError(
        f"Layer '{path}' {reason}, so the model cannot be given its inputs piece by piece. "
        "Use `streaming=False`, or a model without it."
    )
