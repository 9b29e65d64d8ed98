"""Recurrent cells in two parts: the product with the inputs of all steps, and one step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from tfcompress.layers.recurrent.cells import (
    OpenedGRUCell,
    OpenedLSTMCell,
    OpenedSimpleRNNCell,
)
from tfcompress.layers.recurrent.conv_lstm import ConvLSTMCell, OpenedConvLSTMCell
from tfcompress.layers.recurrent.products import OpenedCell
from tfcompress.utils.types import Tensor

Step = Callable[[Tensor, list], tuple[Tensor, list]]


def split_cell(cell: Any, sequences: Tensor) -> tuple[Tensor, Step]:
    """Takes the product with the inputs out of a cell.

    Args:
        cell: any cell. One whose class is not known here, such as a user's own, stays whole.
        sequences: its inputs of all steps, (batch, steps, ...).

    Returns:
        What each step is fed, (batch, steps, ...), and the function
        `(fed, states) -> (output, new states)` of one step.
    """
    step = STEPS.get(getattr(type(cell), "call", None))
    if step is None:
        return sequences, partial(_whole_step, cell)
    if isinstance(cell, ConvLSTMCell):
        # With a convolution before a loop that has one too, XNNPACK (LiteRT 2.3) was seen to
        # compute the first one wrongly from the second call on, for some addresses in memory.
        return sequences, lambda x, states: step(cell, _input_product(cell)(x), states)
    return _at_all_steps(_input_product(cell), sequences), partial(step, cell)


def _whole_step(cell, x, states):
    run = cell if callable(cell) else cell.call
    return run(x, states)


def _at_all_steps(product, sequences) -> Tensor:
    """One call of a product for the steps of all sequences, as if each were a sample."""
    fed = product(tf.reshape(sequences, (-1, *sequences.shape[2:])))
    steps = sequences.shape[1]
    if steps is not None:
        return tf.reshape(fed, (-1, steps, *fed.shape[1:]))
    lead = tf.shape(sequences)[:2]
    fed, rest = tf.reshape(fed, tf.concat([lead, fed.shape[1:]], 0)), fed.shape[1:]
    fed.set_shape((*sequences.shape[:2], *rest))
    return fed


def _input_product(cell) -> Callable:
    if isinstance(cell, OpenedCell):
        return cell.kernel_layer
    if isinstance(cell, ConvLSTMCell):
        return partial(_convolution, cell)
    bias = cell.bias
    if isinstance(cell, keras.layers.GRUCell) and cell.reset_after and bias is not None:
        bias = bias[0]
    return partial(_product, kernel=cell.kernel, bias=bias)


def _state_product(cell) -> Callable:
    if isinstance(cell, OpenedCell):
        return cell.recurrent_kernel_layer
    if isinstance(cell, ConvLSTMCell):
        return lambda h: cell.recurrent_conv(h, tf.cast(cell.recurrent_kernel, h.dtype))
    if not isinstance(cell, keras.layers.GRUCell):
        return partial(_product, kernel=cell.recurrent_kernel)
    if not cell.reset_after:
        return partial(_product, kernel=cell.recurrent_kernel[:, : 2 * cell.units])
    bias = None if cell.bias is None else cell.bias[1]
    return partial(_product, kernel=cell.recurrent_kernel, bias=bias)


def _candidate_product(cell) -> Callable:
    """Of a GRU with `reset_after=False`, where the candidate's product is one of its own."""
    if isinstance(cell, OpenedCell):
        return cell.candidate_kernel_layer
    return partial(_product, kernel=cell.recurrent_kernel[:, 2 * cell.units :])


def _convolution(cell, x) -> Tensor:
    y = cell.input_conv(x, tf.cast(cell.kernel, x.dtype), padding=cell.padding)
    if cell.bias is None:
        return y
    first = cell.data_format == "channels_first"
    return y + tf.reshape(tf.cast(cell.bias, y.dtype), (-1, *[1] * cell.rank) if first else (-1,))


def _product(x, kernel, bias=None) -> Tensor:
    y = tf.matmul(x, tf.cast(kernel, x.dtype))  # a layer of float16 is computed in float32
    return y if bias is None else y + tf.cast(bias, x.dtype)


def _lstm_step(cell, fed, states):
    h, c = states
    axis = 1 if getattr(cell, "data_format", None) == "channels_first" else -1
    i, f, g, o = tf.split(fed + _state_product(cell)(h), 4, axis)
    gate = cell.recurrent_activation
    c = gate(f) * c + gate(i) * cell.activation(g)
    h = gate(o) * cell.activation(c)
    return h, [h, c]


def _gru_step(cell, fed, states):
    (h,), gate = states, cell.recurrent_activation
    if cell.reset_after:
        fed, candidate = tf.split(fed, [2 * cell.units, cell.units], -1)
        kept, inner = tf.split(_state_product(cell)(h), [2 * cell.units, cell.units], -1)
        z, r = tf.split(gate(fed + kept), 2, -1)
        new = cell.activation(candidate + r * inner)
    else:
        fed, candidate = tf.split(fed, [2 * cell.units, cell.units], -1)
        z, r = tf.split(gate(fed + _state_product(cell)(h)), 2, -1)
        new = cell.activation(candidate + _candidate_product(cell)(r * h))
    h = new + z * (h - new)
    return h, [h]


def _simple_step(cell, fed, states):
    h = fed + _state_product(cell)(states[0])
    h = h if cell.activation is None else cell.activation(h)
    return h, [h]


STEPS = {
    keras.layers.LSTMCell.call: _lstm_step,
    OpenedLSTMCell.call: _lstm_step,
    ConvLSTMCell.call: _lstm_step,
    OpenedConvLSTMCell.call: _lstm_step,
    keras.layers.GRUCell.call: _gru_step,
    OpenedGRUCell.call: _gru_step,
    keras.layers.SimpleRNNCell.call: _simple_step,
    OpenedSimpleRNNCell.call: _simple_step,
}
