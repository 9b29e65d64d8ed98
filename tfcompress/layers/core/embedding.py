"""The forms of the layer protocol for Embedding and ReversibleEmbedding."""

from typing import Any, ClassVar, Unpack

import keras
from keras import ops

from tfcompress.graph.private_keras import with_mask
from tfcompress.layers.core.arguments import PlainArguments
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.ordinary import positions
from tfcompress.utils.checks import positive_int
from tfcompress.utils.types import InputShape, Regularizer, Shape, Tensor


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

    @property
    def embeddings(self) -> Tensor:
        """The table, for a model that multiplies by it itself."""
        return self.kernel


class CompressedReversibleEmbedding(CompressedEmbedding):
    """The form of `keras.layers.ReversibleEmbedding` with tied weights.

    `call(inputs, reverse=True)` multiplies vectors by the transposed table, to get logits.
    """

    ordinary = keras.layers.ReversibleEmbedding
    arguments = ("input_dim", "output_dim", "mask_zero", "reverse_dtype", "logit_soft_cap")

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        mask_zero: bool = False,
        reverse_dtype: str | None = None,
        logit_soft_cap: float | None = None,
        **kwargs: Unpack[PlainArguments],
    ) -> None:
        super().__init__(input_dim, output_dim, mask_zero, **kwargs)
        self.reverse_dtype, self.logit_soft_cap = reverse_dtype, logit_soft_cap

    @classmethod
    def takes(cls, layer: keras.layers.Layer) -> bool:
        """Whether a layer is a tied `ReversibleEmbedding`, Keras' own or KerasHub's."""
        kinds = {type(layer), getattr(layer, "ordinary", None)}
        kinds |= {base for kind in kinds if is_renamed(kind) for base in kind.__bases__}
        return cls.ordinary in kinds and getattr(layer, "tie_weights", True)

    def call(self, inputs: Tensor, reverse: bool = False, training: bool | None = None) -> Tensor:
        if not reverse:
            rows, mask = super().call(inputs, training), super().compute_mask(inputs)
            return rows if mask is None else with_mask(rows, mask)
        dtype, cap = self.reverse_dtype or self.compute_dtype, self.logit_soft_cap
        logits = self.multiply_reversed(ops.cast(inputs, dtype), dtype)
        return logits if cap is None else ops.tanh(logits / cap) * cap

    def comes_back(self, input_shape: InputShape) -> bool:
        """Whether inputs of a shape are vectors for `reverse`, and no numbers of rows."""
        return len(input_shape) > 2 and input_shape[-1] == self.output_dim

    def macs(self, input_shape: InputShape) -> int:
        if not self.comes_back(input_shape):
            return super().macs(input_shape)
        return positions(input_shape[1:-1]) * self.input_dim * self.output_dim

    def multiply_reversed(self, x: Tensor, dtype: str) -> Tensor:
        """The product of vectors and the transposed table."""
        return ops.matmul(x, ops.transpose(ops.cast(self.kernel, dtype)))

    def compute_mask(self, inputs: Tensor, mask: Tensor = None) -> None:
        """None: only `call` knows whether inputs are ids."""

    def compute_output_spec(self, inputs: Tensor, reverse: bool = False, **_: Any) -> Any:
        *lead, last = inputs.shape
        shape = (*lead, self.input_dim) if reverse else (*lead, last, self.output_dim)
        return keras.KerasTensor(shape, self.compute_dtype)


def is_renamed(kind: type | None) -> bool:
    """Whether a class only gives another name to its base, as KerasHub's ReversibleEmbedding."""
    return kind is not None and not any(callable(value) for value in vars(kind).values())
