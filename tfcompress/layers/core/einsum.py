"""The form of the layer protocol for EinsumDense."""

import math
from typing import ClassVar, Unpack

import keras
from keras import ops

from tfcompress.graph.private_keras import variables_without_values
from tfcompress.layers.core.arguments import EinsumArguments
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.ordinary import COMMON, positions
from tfcompress.project.output_axes import einsum_output_axes
from tfcompress.utils.types import Config, InputShape, Shape, Tensor


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
        return einsum_output_axes(self.equation)

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
        return self._plain(input_shape).compute_output_shape(input_shape)

    def multiply(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.einsum(self.equation, x, kernel)

    def macs(self, input_shape: InputShape) -> int:
        """Multiply-accumulates per sample: each input number meets all of its kernel's own axes."""
        sizes = zip(self._letters(), self.kernel_shape(input_shape), strict=True)
        inputs = self.equation.split(",")[0]
        return positions(input_shape[1:]) * math.prod(n for a, n in sizes if a not in inputs)

    def _plain(self, input_shape):
        """A Keras layer of the same equation, built for its shapes and without a kernel."""
        plain = keras.layers.EinsumDense(self.equation, self.output_shape, bias_axes=self.bias_axes)
        with variables_without_values():
            plain.build(input_shape)
        return plain
