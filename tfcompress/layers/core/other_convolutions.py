"""The forms of the layer protocol for other convolutions: depthwise, transposed, in 3D."""

import math
from typing import ClassVar, Unpack

import keras
from keras import ops

from tfcompress.layers.core.arguments import LayerArguments
from tfcompress.layers.core.dense_and_conv import (
    CompressedConv,
    CompressedConv1D,
    CompressedConv2D,
)
from tfcompress.layers.core.ordinary import positions
from tfcompress.utils.checks import positive_int
from tfcompress.utils.types import InputShape, Shape, Size, Tensor


class CompressedConv3D(CompressedConv):
    """The form of `keras.layers.Conv3D`: inputs `(b, d, h, w, i)`."""

    ordinary = keras.layers.Conv3D
    space = 3


class CompressedDepthwiseConv(CompressedConv):
    """The form of `keras.layers.DepthwiseConv1D` and `2D`: kernel `(*space, c, m)`.

    `m` is the depth multiplier: each channel has filters of its own.
    """

    arguments = ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")
    ordinary_names: ClassVar = {"kernel_regularizer": "depthwise_regularizer"}
    scale_axes = (-2, -1)

    def __init__(
        self,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        dilation_rate: Size = 1,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(1, kernel_size, strides, padding, dilation_rate, **kwargs)
        self.depth_multiplier = positive_int(depth_multiplier, "depth_multiplier")
        if len(set(self.strides)) > 1:
            raise ValueError(
                f"A depthwise convolution needs equal strides. Received: strides={self.strides}"
            )

    def kernel_shape(self, input_shape: InputShape) -> Shape:
        return (*super().kernel_shape(input_shape)[:-1], self.depth_multiplier)

    def bias_shape(self, input_shape: InputShape) -> Shape:
        return (input_shape[-1] * self.depth_multiplier,)

    def variance(self, kernel_shape: Shape) -> float:
        return 2.0 / (math.prod(self.kernel_size) * (1 + self.depth_multiplier))

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        *lead, _ = super().compute_output_shape(input_shape)
        return (*lead, input_shape[-1] * self.depth_multiplier)

    def multiply(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.depthwise_conv(
            x,
            kernel,
            strides=self.strides[0],
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class CompressedDepthwiseConv1D(CompressedDepthwiseConv, CompressedConv1D):
    """The form of `keras.layers.DepthwiseConv1D`: kernel `(k, c, m)`."""

    ordinary = keras.layers.DepthwiseConv1D
    paddings = ("valid", "same")


class CompressedDepthwiseConv2D(CompressedDepthwiseConv, CompressedConv2D):
    """The form of `keras.layers.DepthwiseConv2D`: kernel `(h, w, c, m)`."""

    ordinary = keras.layers.DepthwiseConv2D


class CompressedConvTranspose(CompressedConv):
    """The form of Keras' transposed convolutions: kernel `(*space, o, i)`."""

    arguments = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "output_padding",
        "dilation_rate",
    )
    scale_axes = (-2,)
    takes_groups = False

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        output_padding: Size | None = None,
        dilation_rate: Size = 1,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, dilation_rate, **kwargs)
        several = isinstance(output_padding, (tuple, list))
        self.output_padding = tuple(output_padding) if several else output_padding

    def kernel_shape(self, input_shape: InputShape) -> Shape:
        *space, channels, filters = super().kernel_shape(input_shape)
        return (*space, filters, channels)

    def bias_shape(self, input_shape: InputShape) -> Shape:
        return (self.filters,)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return self.ordinary(**self.ordinary_arguments()).compute_output_shape(input_shape)

    def positions(self, input_shape: InputShape) -> int:
        return positions(input_shape[1:-1])  # each input meets the whole kernel once

    def multiply(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv_transpose(
            x,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class CompressedConv1DTranspose(CompressedConvTranspose):
    """The form of `keras.layers.Conv1DTranspose`: inputs `(b, steps, i)`."""

    ordinary = keras.layers.Conv1DTranspose
    space = 1


class CompressedConv2DTranspose(CompressedConvTranspose):
    """The form of `keras.layers.Conv2DTranspose`: inputs `(b, h, w, i)`."""

    ordinary = keras.layers.Conv2DTranspose
    space = 2


class CompressedConv3DTranspose(CompressedConvTranspose):
    """The form of `keras.layers.Conv3DTranspose`: inputs `(b, d, h, w, i)`."""

    ordinary = keras.layers.Conv3DTranspose
    space = 3
