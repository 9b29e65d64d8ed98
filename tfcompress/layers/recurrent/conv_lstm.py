"""The convolutional LSTM cell as two convolutions and pointwise arithmetic."""

from typing import Any

import keras

from tfcompress.layers.recurrent.products import (
    OpenedCell,
    by_gate,
    carrying,
    product_arguments,
)
from tfcompress.utils.types import Config, InputShape, Tensor

ConvLSTMCell = type(keras.layers.ConvLSTM1D(1, 1).cell)  # which Keras does not export
CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


@keras.saving.register_keras_serializable("tfcompress")
class OpenedConvLSTMCell(OpenedCell, ConvLSTMCell):
    """The cell of `keras.layers.ConvLSTM1D`, `2D` and `3D` as two convolutions.

        i, f, g, o = kernel(x) + recurrent_kernel(h)
        c' = s(f) c + s(i) a(g),   h' = s(o) a(c')

    `s` is the recurrent activation, `a` the activation. Dropout has a mask of its own for each
    gate, and makes the products four times in training.
    """

    closed_class = ConvLSTMCell

    @classmethod
    def config_of(cls, layer: keras.layers.Layer) -> Config:
        return super().config_of(layer) | {"rank": layer.rank}  # which Keras leaves out

    @classmethod
    def shape_of(cls, layer: keras.layers.Layer) -> InputShape:
        if layer.data_format == "channels_first":
            return (None, layer.input_dim, *layer.spatial_dims)
        return (None, *layer.spatial_dims, layer.input_dim)

    @classmethod
    def ordinary_parts(cls, layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
        convolution, shape = CONVOLUTIONS[layer.rank], cls.shape_of(layer)
        common = {"data_format": layer.data_format, "dtype": layer.dtype_policy}
        fed = convolution(
            4 * layer.filters,
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            use_bias=layer.use_bias,
            **product_arguments(layer, "kernel"),
            **common,
            name="kernel",
        )
        kept = convolution(
            4 * layer.filters,
            layer.kernel_size,
            padding="same",
            use_bias=False,
            **product_arguments(layer, "recurrent"),
            **common,
            name="recurrent_kernel",
        )
        state = layer.compute_output_shape(shape)[0]
        return {
            "kernel": carrying(fed, shape, layer.kernel, layer.bias),
            "recurrent_kernel": carrying(kept, state, layer.recurrent_kernel, None),
        }

    def build(self, inputs_shape: InputShape, states_shape: Any = None) -> None:
        first = self.data_format == "channels_first"
        self.spatial_dims = tuple(inputs_shape[2:] if first else inputs_shape[1:-1])
        self.input_dim = inputs_shape[1 if first else -1]
        shapes = inputs_shape, self.compute_output_shape(inputs_shape)[0]
        for part, shape in zip(self.parts_by_name.values(), shapes, strict=True):
            if not part.built:
                part.build(shape)
        self.built = True

    def call(self, inputs: Tensor, states: list, training: bool = False) -> Any:
        h, c = states
        axis = 1 if self.data_format == "channels_first" else -1
        fed = by_gate(self.kernel_layer, inputs, self.input_masks(inputs, training), 4, axis)
        kept = by_gate(self.recurrent_kernel_layer, h, self.state_masks(h, training), 4, axis)
        i, f, g, o = (x + y for x, y in zip(fed, kept, strict=True))
        gate = self.recurrent_activation
        c = gate(f) * c + gate(i) * self.activation(g)
        h = gate(o) * self.activation(c)
        return h, [h, c]

    def get_config(self) -> Config:
        return super().get_config() | {"rank": self.rank}
