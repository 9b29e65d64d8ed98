"""Separable convolutions as a depthwise and a pointwise one."""

from typing import Any

import keras

from tfcompress.layers.core.opened import OpenedLayer
from tfcompress.utils.arrays import copy_into
from tfcompress.utils.types import InputShape, Tensor

DEPTHWISE = {1: keras.layers.DepthwiseConv1D, 2: keras.layers.DepthwiseConv2D}
POINTWISE = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D}


class OpenedSeparableConv(OpenedLayer):
    """A separable convolution whose two convolutions are layers, ordinary or compressed.

    Its parts are `"depthwise_kernel"`, without a bias, and `"pointwise_kernel"`, with the bias.
    """

    part_names = ("depthwise_kernel", "pointwise_kernel")
    variable_names = ("depthwise_kernel", "pointwise_kernel", "bias")

    @classmethod
    def ordinary_parts(cls, layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
        shape = cls.shape_of(layer)
        common = {"data_format": layer.data_format, "dtype": layer.dtype_policy}
        depthwise = DEPTHWISE[layer.rank](
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            depth_multiplier=layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            depthwise_initializer=layer.depthwise_initializer.clone(),
            depthwise_regularizer=layer.depthwise_regularizer,
            depthwise_constraint=layer.depthwise_constraint,
            **common,
            name="depthwise_kernel",
        )
        depthwise.build(shape)
        copy_into(depthwise.kernel, layer.depthwise_kernel)
        pointwise = POINTWISE[layer.rank](
            layer.filters,
            1,
            use_bias=layer.use_bias,
            kernel_initializer=layer.pointwise_initializer.clone(),
            kernel_regularizer=layer.pointwise_regularizer,
            kernel_constraint=layer.pointwise_constraint,
            bias_regularizer=layer.bias_regularizer,
            bias_constraint=layer.bias_constraint,
            **common,
            name="pointwise_kernel",
        )
        pointwise.build(depthwise.compute_output_shape(shape))
        copy_into(pointwise.kernel, layer.pointwise_kernel)
        if layer.use_bias:
            copy_into(pointwise.bias, layer.bias)
        return {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise}

    @property
    def depthwise_kernel(self) -> Any:
        return self.depthwise_kernel_layer.kernel

    @property
    def pointwise_kernel(self) -> Any:
        return self.pointwise_kernel_layer.kernel

    @property
    def bias(self) -> Any:
        return self.pointwise_kernel_layer.bias

    def build(self, input_shape: InputShape) -> None:
        for part in (self.depthwise_kernel_layer, self.pointwise_kernel_layer):
            if not part.built:
                part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        outputs = self.pointwise_kernel_layer(self.depthwise_kernel_layer(inputs))
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable("tfcompress")
class OpenedSeparableConv1D(OpenedSeparableConv, keras.layers.SeparableConv1D):
    __doc__ = "`keras.layers.SeparableConv1D` opened. " + OpenedSeparableConv.__doc__
    closed_class = keras.layers.SeparableConv1D


@keras.saving.register_keras_serializable("tfcompress")
class OpenedSeparableConv2D(OpenedSeparableConv, keras.layers.SeparableConv2D):
    __doc__ = "`keras.layers.SeparableConv2D` opened. " + OpenedSeparableConv.__doc__
    closed_class = keras.layers.SeparableConv2D
