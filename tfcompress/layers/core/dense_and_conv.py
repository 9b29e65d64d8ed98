"""The forms of the layer protocol: Dense, Conv1D and Conv2D."""

from typing import Unpack

import keras
from keras import ops

from tfcompress.layers.core.arguments import LayerArguments
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.utils.checks import positive_int, positive_tuple
from tfcompress.utils.types import InputShape, Shape, Size, Tensor


class CompressedDense(CompressedLayer):
    """The form of `keras.layers.Dense`: kernel `(i, o)`, inputs `(..., i)`, outputs `(..., o)`."""

    ordinary = keras.layers.Dense
    arguments = ("units",)
    width = "units"
    min_ndim = 2

    def __init__(self, units: int, **kwargs: Unpack[LayerArguments]) -> None:
        super().__init__(**kwargs)
        self.units = positive_int(units, "units")
        self.supports_masking = True

    def kernel_shape(self, input_shape: InputShape) -> Shape:
        if input_shape[-1] is None:
            raise ValueError(
                f"The last axis of the inputs of {type(self).__name__} must have a known size. "
                f"Received: input_shape={input_shape}"
            )
        return (input_shape[-1], self.units)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return (*input_shape[:-1], self.units)

    def multiply(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.matmul(x, kernel)


class CompressedConv(CompressedLayer):
    """The form of `keras.layers.Conv1D` and `Conv2D`: kernel `(*space, i / groups, o)`."""

    width = "filters"
    arguments = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "groups")
    data_format = "channels_last"  # whatever `keras.config.image_data_format()` is
    space: int  # how many axes the kernel slides along
    paddings = ("valid", "same")
    takes_groups = True

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        dilation_rate: Size = 1,
        groups: int = 1,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.filters = positive_int(filters, "filters")
        self.kernel_size = positive_tuple(kernel_size, self.space, "kernel_size")
        self.strides = positive_tuple(strides, self.space, "strides")
        self.dilation_rate = positive_tuple(dilation_rate, self.space, "dilation_rate")
        self.groups = positive_int(groups, "groups")
        self.padding = padding
        if padding not in self.paddings:
            raise ValueError(f"`padding` must be one of {self.paddings}. Received: {padding!r}")
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "Strides above 1 do not go with a dilation rate above 1. Received: "
                f"strides={self.strides}, dilation_rate={self.dilation_rate}"
            )
        if self.filters % self.groups:
            raise ValueError(
                f"`filters` must be divisible by `groups`. Received: {filters}, {groups}"
            )
        if self.groups > 1 and not self.takes_groups:
            raise ValueError(
                f"{type(self).__name__} takes no grouped convolution, whose kernel is several "
                f"small ones. Received: groups={groups}"
            )

    @property
    def min_ndim(self) -> int:
        return self.space + 2

    def kernel_shape(self, input_shape: InputShape) -> Shape:
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(
                "The channels (last axis) of the inputs must be known and divisible by `groups`. "
                f"Received: input_shape={input_shape}, groups={self.groups}"
            )
        return (*self.kernel_size, channels // self.groups, self.filters)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        space = [
            output_length(n, k, self.padding, s, d)
            for n, k, s, d in zip(
                input_shape[1:-1], self.kernel_size, self.strides, self.dilation_rate, strict=True
            )
        ]
        return (input_shape[0], *space, self.filters)

    def ordinary_arguments(self) -> dict:
        return super().ordinary_arguments() | {"data_format": self.data_format}

    def multiply(self, x: Tensor, kernel: Tensor) -> Tensor:
        padding = self.padding
        if padding == "causal":  # which `ops.conv` does not have: zeros before the first step only
            x = ops.pad(x, [[0, 0], [self.dilation_rate[0] * (self.kernel_size[0] - 1), 0], [0, 0]])
            padding = "valid"
        return ops.conv(
            x,
            kernel,
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class CompressedConv1D(CompressedConv):
    """The form of `keras.layers.Conv1D`: inputs `(b, steps, i)`."""

    ordinary = keras.layers.Conv1D
    space = 1
    paddings = ("valid", "same", "causal")


class CompressedConv2D(CompressedConv):
    """The form of `keras.layers.Conv2D`: inputs `(b, h, w, i)`."""

    ordinary = keras.layers.Conv2D
    space = 2


def output_length(
    n: int | None, kernel: int, padding: str, stride: int, dilation: int
) -> int | None:
    if n is None:
        return None
    if padding == "valid":
        n -= dilation * (kernel - 1)
    return -(-n // stride)  # rounded up
