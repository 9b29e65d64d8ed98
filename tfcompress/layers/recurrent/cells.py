"""The LSTM, GRU and simple recurrent cells as Dense layers and pointwise arithmetic."""

from typing import Any, ClassVar

import keras
from keras import ops

from tfcompress.layers.recurrent.products import (
    OpenedCell,
    by_gate,
    dense_product,
    kernel_for_fusion,
    last_of,
)
from tfcompress.utils.types import InputShape, Tensor


class DenseCell(OpenedCell):
    """A cell whose products are Dense layers, ordinary or compressed ones."""

    @classmethod
    def shape_of(cls, layer: keras.layers.Layer) -> InputShape:
        return (None, layer.kernel.shape[0])

    @classmethod
    def ordinary_parts(cls, layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
        return {
            "kernel": dense_product(layer, "kernel", layer.kernel, layer.bias),
            "recurrent_kernel": dense_product(layer, "recurrent_kernel", layer.recurrent_kernel),
        }

    def build(self, input_shape: InputShape) -> None:
        for name, part in self.parts_by_name.items():
            if not part.built:
                part.build(input_shape if name == "kernel" else (None, self.units))
        self.built = True


@keras.saving.register_keras_serializable("tfcompress")
class OpenedLSTMCell(DenseCell, keras.layers.LSTMCell):
    """`keras.layers.LSTMCell` as two Dense layers.

        i, f, g, o = kernel(x) + recurrent_kernel(h)
        c' = s(f) c + s(i) a(g),   h' = s(o) a(c')

    `s` is the recurrent activation, `a` the activation. Dropout with a mask of its own for each
    gate (`implementation=1`, `recurrent_dropout`) makes the products four times in training.

    Example:

    >>> cell = keras.layers.LSTMCell(4)
    >>> cell.build((None, 3))
    >>> opened = OpenedLSTMCell.from_layer(cell)
    >>> [part.name for part in opened.parts_by_name.values()]
    ['kernel', 'recurrent_kernel']
    """

    closed_class = keras.layers.LSTMCell

    def call(self, inputs: Tensor, states: list, training: bool = False) -> Any:
        h, c = states
        fed = by_gate(self.kernel_layer, inputs, self.input_masks(inputs, training), 4)
        kept = by_gate(self.recurrent_kernel_layer, h, self.state_masks(h, training), 4)
        i, f, g, o = (x + y for x, y in zip(fed, kept, strict=True))
        gate = self.recurrent_activation
        c = gate(f) * c + gate(i) * self.activation(g)
        h = gate(o) * self.activation(c)
        return h, [h, c]


@keras.saving.register_keras_serializable("tfcompress")
class OpenedGRUCell(DenseCell, keras.layers.GRUCell):
    """`keras.layers.GRUCell` as Dense layers.

        z, r, g = kernel(x) + recurrent_kernel(h)         the r of g being that of recurrent_kernel
        h' = s(z) h + (1 - s(z)) a(g),                    with g = kernel(x)_g + s(r) recurrent(h)_g

    `s` is the recurrent activation, `a` the activation. With `reset_after=False` the candidate's
    product is a third layer, `candidate_kernel`, since its inputs are other ones: `s(r) h`.
    """

    closed_class = keras.layers.GRUCell
    part_names = ("kernel", "recurrent_kernel", "candidate_kernel")
    whose_kernel: ClassVar = {"candidate_kernel": "recurrent_kernel"}

    @classmethod
    def ordinary_parts(cls, layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
        kernel, inner = layer.kernel, layer.recurrent_kernel
        if layer.reset_after:
            biases = [None, None] if layer.bias is None else [layer.bias[0], layer.bias[1]]
            return {
                "kernel": dense_product(layer, "kernel", kernel, biases[0]),
                "recurrent_kernel": dense_product(layer, "recurrent_kernel", inner, biases[1]),
            }
        two = 2 * layer.units
        return {
            "kernel": dense_product(layer, "kernel", kernel, layer.bias),
            "recurrent_kernel": dense_product(layer, "recurrent_kernel", inner[:, :two]),
            "candidate_kernel": dense_product(layer, "candidate_kernel", inner[:, two:]),
        }

    @property
    def recurrent_kernel(self) -> Tensor:
        if self.reset_after:
            return super().recurrent_kernel
        parts = self.recurrent_kernel_layer, self.candidate_kernel_layer
        return ops.concatenate([kernel_for_fusion(part) for part in parts], axis=-1)

    @property
    def bias(self) -> Any:
        first = super().bias
        if first is None or not self.reset_after:
            return first
        biases = first, last_of(self.recurrent_kernel_layer).bias
        return ops.stack([bias.value for bias in biases])

    def call(self, inputs: Tensor, states: Any, training: bool = False) -> Any:
        nested = keras.tree.is_nested(states)
        h = states[0] if nested else states
        fed = by_gate(self.kernel_layer, inputs, self.input_masks(inputs, training), 3)
        masks, gate = self.state_masks(h, training), self.recurrent_activation
        if self.reset_after:
            z, r, candidate = by_gate(self.recurrent_kernel_layer, h, masks, 3)
            candidate = gate(fed[1] + r) * candidate
        else:
            z, r = by_gate(self.recurrent_kernel_layer, h, masks and masks[:2], 2)
            masked = h if masks is None else h * masks[2]
            candidate = self.candidate_kernel_layer(gate(fed[1] + r) * masked)
        z = gate(fed[0] + z)
        h = z * h + (1 - z) * self.activation(fed[2] + candidate)
        return h, [h] if nested else h


@keras.saving.register_keras_serializable("tfcompress")
class OpenedSimpleRNNCell(DenseCell, keras.layers.SimpleRNNCell):
    """`keras.layers.SimpleRNNCell` as two Dense layers: `h' = a(kernel(x) + recurrent(h))`."""

    closed_class = keras.layers.SimpleRNNCell

    def call(self, sequence: Tensor, states: Any, training: bool = False) -> Any:
        nested = isinstance(states, (list, tuple))
        h = states[0] if nested else states
        masks = self.get_dropout_mask(sequence), self.get_recurrent_dropout_mask(h)
        if training and masks[0] is not None:
            sequence = sequence * masks[0]
        if training and masks[1] is not None:
            h = h * masks[1]
        h = self.kernel_layer(sequence) + self.recurrent_kernel_layer(h)
        h = h if self.activation is None else self.activation(h)
        return h, [h] if nested else h
