"""Recurrent layers as loops over batches and sequences of any size.

The stock converter makes TensorLists of the loop that Keras writes, which need a known batch size.
Here the product with the inputs of all steps is made once, before the loop; the loop reads steps
with GATHER and writes them with DYNAMIC_UPDATE_SLICE. `TimeDistributed` needs no loop: its steps
are examples of one batch.
"""

import inspect
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

from tfcompress.export.lower.cell_steps import split_cell
from tfcompress.graph.paths import walk
from tfcompress.utils.errors import ExportError
from tfcompress.utils.types import Tensor

# What a subclass of these has written itself stays as it is.
INNER_LOOPS = tuple(
    layer.inner_loop for layer in (keras.layers.RNN, keras.layers.LSTM, keras.layers.GRU)
)

# A turn of a loop copies the outputs of all steps. Microseconds per step of LSTM(128), batch 1, one
# thread (AMD Zen 5), all outputs; for 50, 200 and 800 steps:
#   one loop 6.5, 10, 60; a loop for each block of 32 in a loop over blocks 6.5, 7.0, 9.6;
#   the stock converter's loop 12, 21, 138.
# With an unknown number of steps the second loop costs 40 microseconds for each block, more than it
# saves up to 100 steps.
BLOCK = 32
MOST_STEPS_IN_ONE_LOOP = 64
# Steps one after the other against a loop, LSTM of 40 inputs and a known number of steps:
#   2 steps, 16 units: 1.4 times faster, 0.4 to 1 KB less;  128 units: 1.2 times, 1 to 1.5 KB less
#   4 steps, 16 units: 1.3 times faster, 1.3 to 2 KB more;  128 units: 0.98 times, 1 to 1.6 KB more
#   8 steps, 16 units: 1.3 times faster, 6 to 7 KB more;    128 units: 0.5 times, 6 KB more
MOST_STEPS_UNROLLED = 2


def use_own_loops(model: Any) -> None:
    """Changes the recurrent layers of a lowered model: they run as written here, without dropout.

    Those that are `TimeDistributed` run once, on all steps.

    Keras draws masks of dropout in inference too, where nothing reads them.

    Raises:
        ExportError: a layer keeps its states from call to call.
    """
    for path, (layer, _) in walk(model).items():
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            raise ExportError(
                f"Layer '{path}' keeps its states from call to call, which a file does not. Use "
                "`streaming=True`, which makes them inputs and outputs, or `stateful=False`."
            )
        if isinstance(layer, keras.layers.RNN) and type(layer).inner_loop in INNER_LOOPS:
            vars(layer)["inner_loop"] = partial(_inner_loop, layer)
        if hasattr(layer, "use_cudnn"):
            layer.use_cudnn = False
        if hasattr(layer, "get_dropout_mask") and not isinstance(layer, keras.layers.RNN):
            layer.dropout = layer.recurrent_dropout = 0.0
        if type(layer).call is keras.layers.TimeDistributed.call:
            vars(layer)["call"] = partial(_all_steps_at_once, layer)


def _all_steps_at_once(layer, inputs, training=None, mask=None) -> Tensor:
    """What `call` of a `TimeDistributed` computes, of `(batch, time, ...)`."""
    taken = inspect.signature(layer.layer.call).parameters
    options = {"training": training} if "training" in taken else {}
    if mask is not None and "mask" in taken:
        options["mask"] = _joined(mask)
    return _parted(layer.layer.call(_joined(inputs), **options), inputs)


def _joined(sequences) -> Tensor:
    """`(batch * time, ...)` of `(batch, time, ...)`."""
    shape, sizes = sequences.shape, tf.shape(sequences)
    return tf.reshape(sequences, [-1, *(n or sizes[2 + i] for i, n in enumerate(shape[2:]))])


def _parted(outputs, sequences) -> Tensor:
    """`(batch, time, ...)`, with the first two as in `sequences`, of `(batch * time, ...)`."""
    (batch, time), sizes = sequences.shape[:2], tf.shape(outputs)
    lead = [-1, time] if time else [batch or tf.shape(sequences)[0], -1]
    rest = (n or sizes[1 + i] for i, n in enumerate(outputs.shape[1:]))
    parted = tf.reshape(outputs, [*lead, *rest])
    parted.set_shape([batch, time, *outputs.shape[1:]])
    return parted


def _inner_loop(layer, sequences, initial_state, mask=None, training=False):
    """What `inner_loop` of a layer computes: the last output, all outputs and the last states."""
    mask = None if mask is None else keras.tree.flatten(mask)[0]
    if mask is not None:
        mask = tf.cast(mask if mask.shape.rank == 2 else mask[:, :, 0], tf.bool)
    if layer.go_backwards:
        sequences = tf.reverse(sequences, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    stacked = getattr(type(layer.cell), "call", None) is keras.layers.StackedRNNCells.call
    cells = layer.cell.cells if stacked else [layer.cell]
    states = list(initial_state) if stacked else [list(initial_state)]
    new = []
    for place, (cell, state) in enumerate(zip(cells, states, strict=True)):
        whole = layer.return_sequences or place < len(cells) - 1
        last, sequences, state = _run(layer, cell, sequences, state, mask, whole)
        new.append(state)
    return last, last if sequences is None else sequences, new if stacked else new[0]


def _run(layer, cell, sequences, states, mask, whole) -> tuple:
    """One cell over all steps: last output, all outputs if they are wanted, last states."""
    fed, step = split_cell(cell, sequences)
    turn = partial(_turn, step, states, layer.zero_output_for_mask)
    flat = keras.tree.flatten(states)
    # Of this call the shapes are used, and what is the same tensor: the converter drops it.
    output, new = turn(fed[:, 0], None, None, flat)
    few = (fed.shape[1] or MOST_STEPS_UNROLLED + 1) <= MOST_STEPS_UNROLLED
    run = _unrolled if layer.unroll or few else partial(_looped, returned=output is new[0])
    last, outputs, flat = run(turn, fed, mask, tf.zeros_like(output), flat, whole)
    return last, outputs, keras.tree.pack_sequence_as(states, flat)


def _turn(step, structure, zero, fed, mask, before, states):
    """One step, which keeps the states and the output before where the mask is false."""
    packed = keras.tree.pack_sequence_as(structure, states)
    output, new = step(fed, list(packed) if keras.tree.is_nested(packed) else [packed])
    new = keras.tree.flatten(new)
    if mask is None:
        for one, old in zip(new, states, strict=True):
            one.set_shape(old.shape)
        return output, new
    output = _where(mask, output, tf.zeros_like(output) if zero else before)
    return output, [_where(mask, *pair) for pair in zip(new, states, strict=True)]


def _where(mask, one, other) -> Tensor:
    return tf.where(tf.reshape(mask, (-1, *[1] * (len(one.shape) - 1))), one, other)


def _unrolled(turn, fed, mask, before, states, whole):
    outputs = []
    for t in range(fed.shape[1]):
        masked = None if mask is None else mask[:, t]
        before, states = turn(fed[:, t], masked, before, states)
        outputs.append(before)
    return before, tf.stack(outputs, 1) if whole else None, states


def _looped(turn, fed, mask, before, states, whole, returned):
    """A loop; `returned` says that the output of a step without a mask is its first state."""
    now, steps = {"states": list(states)}, tf.shape(fed)[1]
    if mask is not None or not returned:
        now["before"] = before
    run = partial(_steps, turn, fed, mask)
    if not whole:
        now = run(now, 0, steps)
    elif (fed.shape[1] or 0) <= MOST_STEPS_IN_ONE_LOOP:
        now = run(now | {"outputs": _buffer(fed, before)}, 0, steps)
    else:
        now = _blocks(run, now | {"outputs": _buffer(fed, before)}, fed.shape[1])
    return now.get("before", now["states"][0]), now.get("outputs"), now["states"]


def _blocks(run, now, steps) -> dict:
    """A loop around the loop, in which the inner one copies the outputs of a block in each turn."""
    rank = len(now["outputs"].shape)
    room = tf.pad(now["outputs"], [[0, 0], [0, -steps % BLOCK], *[[0, 0]] * (rank - 2)])

    def body(t, now):
        block = now["outputs"][:, :BLOCK]
        new = run(now | {"outputs": block}, t, tf.minimum(t + BLOCK, steps))
        return t + BLOCK, new | {"outputs": _put(now["outputs"], new["outputs"], t)}

    start = [tf.constant(0), now | {"outputs": room}]
    now = tf.while_loop(lambda t, _: t < steps, body, start)[1]
    return now | {"outputs": now["outputs"][:, :steps]}


def _steps(turn, fed, mask, now, first, end) -> dict:
    """The variables after the steps from `first` to `end`."""

    def body(t, now):
        masked = None if mask is None else _at(mask, t)
        output, states = turn(_at(fed, t), masked, now.get("before"), now["states"])
        new = {"states": states}
        if "before" in now:
            new["before"] = output
        if "outputs" in now:
            new["outputs"] = _put(now["outputs"], tf.expand_dims(output, 1), t - first)
        return t + 1, new

    return tf.while_loop(lambda t, _: t < end, body, [tf.convert_to_tensor(first), now])[1]


def _buffer(fed, output) -> Tensor:
    """A tensor of the size of all outputs, each of which will be written.

    Zeros of a known size would be a constant of the file, so its numbers are any.
    """
    inner, size = output.shape[1:], fed.shape[2:]
    if fed.dtype == output.dtype and inner[:-1] == size[:-1] and inner[-1] <= size[-1]:
        return fed[..., : inner[-1]]
    zeros = tf.zeros(tf.concat([tf.shape(fed)[:2], inner], 0), output.dtype)
    zeros.set_shape((*fed.shape[:2], *inner))
    return zeros


def _at(sequences, t) -> Tensor:
    """One step of (batch, steps, ...).

    GATHER gives a tensor of a shape that is known before it runs; SLICE with a computed begin does
    not, and the loop of LSTM(128) is 1.2 times slower with it.
    """
    return tf.gather(sequences, t, axis=1)


def _put(outputs, some, t) -> Tensor:
    """The outputs with some of them replaced, from step t on."""
    begin = tf.stack([0, t, *[0] * (len(some.shape) - 2)])
    new = dynamic_update_slice(outputs, some, begin)
    new.set_shape(outputs.shape)
    return new
