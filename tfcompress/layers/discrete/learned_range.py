"""The range of an activation while it is learned."""

from typing import Unpack

import keras
from keras import ops

from tfcompress.layers.core.arguments import PlainArguments
from tfcompress.layers.discrete.fake_quant import FakeQuant
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Config, InputShape, Tensor

STEPS = 255  # of an int8 number


@keras.saving.register_keras_serializable("tfcompress")
class LearnedRange(keras.layers.Layer):
    """`FakeQuant` whose range is trained: the ends are `low exp(a)` and `high exp(b)`.

        y = s (clip(round(x / s) + z, 0, 255) - z),   s = (high - low) / 255,   z = round(-low / s)

    Rounding has the gradient of the identity. The step `s` is then trained by what it clips and by
    what it rounds, as in the paper; by factors, so that a learning rate means the same for each.

    Args:
        low, high: the range at the start, as of `FakeQuant`.
        **kwargs: `name`, `dtype`.

    Shapes: any.

    Reference: Esser et al., "Learned Step Size Quantization", 2020. There the step is the variable,
    and zero is at the end or in the middle.
    """

    def __init__(self, low: float, high: float, **kwargs: Unpack[PlainArguments]) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.low, self.high = float(low), float(high)

    def build(self, input_shape: InputShape) -> None:
        self.growth = self.add_weight((2,), "zeros", name="growth", autocast=False)

    def call(self, inputs: Tensor) -> Tensor:
        x = ops.cast(inputs, self.variable_dtype)
        factors = ops.exp(ops.convert_to_tensor(self.growth))
        low, high = self.low * factors[0], self.high * factors[1]
        step = (high - low) / STEPS
        zero = ops.stop_gradient(ops.round(-low / step))
        codes = x / step
        codes = ops.stop_gradient(ops.round(codes)) + (codes - ops.stop_gradient(codes))
        y = step * (ops.clip(codes + zero, 0, STEPS) - zero)
        return ops.cast(y, self.compute_dtype)

    def learned(self) -> FakeQuant:
        """The layer with the range as it is now."""
        low, high = to_numpy(ops.exp(ops.convert_to_tensor(self.growth)))
        low, high = self.low * float(low), self.high * float(high)
        return FakeQuant(low, high, name=self.name, dtype=self.dtype_policy)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return input_shape

    def get_config(self) -> Config:
        return super().get_config() | {"low": self.low, "high": self.high}
