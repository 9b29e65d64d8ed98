"""The forms of the layer protocol for DepthwiseConv2D, EinsumDense and Embedding."""

import math
from typing import ClassVar, Unpack

import keras
from keras import ops

from tfcompress.layers.core.arguments import EinsumArguments, LayerArguments, PlainArguments
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.dense_and_conv import CompressedConv2D
from tfcompress.layers.core.ordinary import COMMON, positions
from tfcompress.utils.checks import positive_int
from tfcompress.utils.types import Config, InputShape, Regularizer, Shape, Size, Tensor


class CompressedDepthwiseConv2D(CompressedConv2D):
    """The form of `keras.layers.DepthwiseConv2D`: kernel `(h, w, c, m)`, outputs `(b, h, w, c m)`.

    `m` is the depth multiplier: each channel has filters of its own.
    """

    ordinary = keras.layers.DepthwiseConv2D
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
            data_format="channels_last",
        )


class CompressedEinsumDense(CompressedLayer):
    """The form of `keras.layers.EinsumDense`: inputs, kernel and outputs as in the equation."""

    ordinary = keras.layers.EinsumDense
    arguments = ("equation", "output_shape", "bias_axes")
    common = tuple(name for name in COMMON if name != "use_bias")
    ordinary_names: ClassVar = {"output_shape": "partial_output_shape"}
    min_ndim = 1

    def __init__(
        self,
        equation: str,
        output_shape: int | InputShape,
        bias_axes: str | None = None,
        **kwargs: Unpack[EinsumArguments],
    ) -> None:
        super().__init__(use_bias=bias_axes is not None, **kwargs)
        self.equation, self.bias_axes = equation, bias_axes
        several = isinstance(output_shape, (tuple, list))
        self.output_shape = tuple(output_shape) if several else (output_shape,)

    def ordinary_arguments(self) -> Config:
        arguments = super().ordinary_arguments()
        arguments["output_shape"] = arguments.pop("partial_output_shape")
        return arguments

    @property
    def scale_axes(self) -> tuple[int, ...]:
        """The axes of the kernel that are not summed over."""
        return tuple(i for i, letter in enumerate(self._letters()) if letter not in self._summed())

    def _letters(self):
        return self.equation.replace(" ", "").split(",")[1].split("->")[0]

    def _summed(self):
        return set(self._letters()) - set(self.equation.split("->")[1])

    def kernel_shape(self, input_shape: InputShape) -> Shape:
        return tuple(self._plain(input_shape).kernel.shape)

    def bias_shape(self, input_shape: InputShape) -> Shape:
        return tuple(self._plain(input_shape).bias.shape)

    def variance(self, kernel_shape: Shape) -> float:
        letters, summed = self._letters(), self._summed()
        sizes = dict(zip(letters, kernel_shape, strict=True))
        fans = [
            math.prod(sizes[a] for a in letters if (a in summed) is side) for side in (True, False)
        ]
        return 2.0 / sum(fans)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return self.ordinary(self.equation, self.output_shape).compute_output_shape(input_shape)

    def multiply(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.einsum(self.equation, x, kernel)

    def macs(self, input_shape: InputShape) -> int:
        """Multiply-accumulates per sample: each input number meets all of its kernel's own axes."""
        sizes = zip(self._letters(), self.kernel_shape(input_shape), strict=True)
        inputs = self.equation.split(",")[0]
        return positions(input_shape[1:]) * math.prod(n for a, n in sizes if a not in inputs)

    def _plain(self, input_shape):
        """A Keras layer of the same equation, for its shapes."""
        plain = keras.layers.EinsumDense(
            self.equation, self.output_shape, bias_axes=self.bias_axes, kernel_initializer="zeros"
        )
        plain.build(input_shape)
        return plain


class CompressedEmbedding(CompressedLayer):
    """The form of `keras.layers.Embedding`: kernel `(ids, o)`, inputs of integers `(...)`.

    An id is an output of its own: each row of the table has a scale.
    """

    ordinary = keras.layers.Embedding
    arguments = ("input_dim", "output_dim", "mask_zero")
    common = ("kernel_regularizer", "activity_regularizer")
    ordinary_names: ClassVar = {"kernel_regularizer": "embeddings_regularizer"}
    scale_axes = (0,)
    min_ndim = 1

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        mask_zero: bool = False,
        kernel_regularizer: Regularizer = None,
        **kwargs: Unpack[PlainArguments],
    ) -> None:
        super().__init__(use_bias=False, kernel_regularizer=kernel_regularizer, **kwargs)
        self.input_dim = positive_int(input_dim, "input_dim")
        self.output_dim = positive_int(output_dim, "output_dim")
        self.mask_zero = self.supports_masking = bool(mask_zero)
        self.autocast = False  # float16 would not hold ids above 2048 exactly

    def build(self, input_shape: InputShape | None = None) -> None:
        super().build(input_shape or (None,))
        self.input_spec = None

    def kernel_shape(self, input_shape: InputShape | None = None) -> Shape:
        return (self.input_dim, self.output_dim)

    def variance(self, kernel_shape: Shape) -> float:
        return 0.05**2 / 3  # of Keras' own `embeddings_initializer`

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return (*input_shape, self.output_dim)

    def compute_mask(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def multiply(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.take(kernel, ops.cast(x, "int32"), axis=0)

    def macs(self, input_shape: InputShape) -> int:
        """None: rows are looked up."""
        return 0
