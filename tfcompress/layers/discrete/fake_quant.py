"""The range of an activation that int8 will hold, learned by quantization-aware training."""

import math
from typing import Unpack

import keras
from keras import ops

from tfcompress.layers.core.arguments import PlainArguments
from tfcompress.utils.types import Config, InputShape, Tensor


@keras.saving.register_keras_serializable("tfcompress")
class FakeQuant(keras.layers.Layer):
    """Rounds its inputs as an int8 tensor of this range does.

        y = s (clip(round(x / s) + z, 0, 255) - z),   s = (high - low) / 255,   z = round(-low / s)

    `to_tflite(activations="static_int8")` writes no operator for this layer: its range becomes that
    of the tensor. In other files the layer only clips.

    Args:
        low, high: the range, two numbers with 0 between them or equal to one of them.
        **kwargs: `name`, `dtype`.

    Shapes: any.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.FakeQuant(0.0, 255.0)
    >>> layer(np.array([-3.0, 1.4, 300.0])).numpy().tolist()
    [0.0, 1.0, 255.0]

    Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018.
    """

    def __init__(self, low: float, high: float, **kwargs: Unpack[PlainArguments]) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.low, self.high = float(low), float(high)
        # Zero must be a code of its own: padding and ReLU produce it.
        if not (math.isfinite(self.high - self.low) and self.low <= 0 <= self.high > self.low):
            raise ValueError(
                "`low` and `high` must be finite, with 0 between them. "
                f"Received: low={low}, high={high}"
            )

    def call(self, inputs: Tensor) -> Tensor:
        return keras.quantizers.fake_quant_with_min_max_vars(inputs, self.low, self.high)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return input_shape

    def get_config(self) -> Config:
        return super().get_config() | {"low": self.low, "high": self.high}


class ClipToRange(FakeQuant):
    """`FakeQuant` without the rounding, which a float32 file cannot repeat bit for bit."""

    def call(self, inputs: Tensor) -> Tensor:
        return ops.clip(inputs, self.low, self.high)
