"""What each compressed layer takes besides its sizes and the options of its method."""

from typing import Any, TypedDict

from tfcompress.utils.types import Activation, Constraint, Initializer, Regularizer, Size


class PlainArguments(TypedDict, total=False):
    """Of every layer of Keras."""

    name: str | None
    dtype: Any  # a name or a `keras.DTypePolicy`
    trainable: bool
    activity_regularizer: Regularizer


class EinsumArguments(PlainArguments, total=False):
    """Of an einsum layer, where `bias_axes` tells whether there is a bias."""

    activation: Activation
    bias_initializer: Initializer
    kernel_regularizer: Regularizer
    bias_regularizer: Regularizer
    bias_constraint: Constraint


class LayerArguments(EinsumArguments, total=False):
    """Of a dense layer."""

    use_bias: bool


class ConvArguments(LayerArguments, total=False):
    """Of a convolution."""

    dilation_rate: Size
    groups: int


class DepthwiseArguments(LayerArguments, total=False):
    """Of a depthwise convolution."""

    dilation_rate: Size


class NoOptions(TypedDict):
    """Of a method without options."""
