"""Weights -a, 0 and a: the smallest case of m bits per weight."""

from typing import Any, Unpack

import keras

from tfcompress.layers.core.arguments import ConvArguments, LayerArguments, NoOptions
from tfcompress.layers.core.dense_and_conv import (
    CompressedConv1D,
    CompressedConv2D,
    CompressedDense,
)
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.discrete.quantized import QuantizedKernel
from tfcompress.utils.types import Config, Size


class TernaryKernel(QuantizedKernel):
    """Weights `-a_o`, 0 and `+a_o`: the m-bit form with two bits.

        V = a_o * clip(round(w / a_o), -1, 1)

    Cost: 2 bits per weight and 32 bits per output; the MACs of the ordinary layer.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.TernaryDense(4)
    >>> layer.build((None, 8))
    >>> layer.bits
    192

    Reference: Li et al., "Ternary Weight Networks", 2016. There the scale and the
    threshold follow from the latents by a rule; here the scale is searched, then trained, and the
    threshold is half of it.
    """

    options = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, bits=2, **kwargs)

    @classmethod
    def using(cls, **options: Unpack[NoOptions]) -> Maker:
        return super().using(**options)

    # `bits` is fixed, so that no config holds it.
    def method_options(self) -> Config:
        return {}


@keras.saving.register_keras_serializable("tfcompress")
class TernaryDense(TernaryKernel, CompressedDense):
    __doc__ = "Dense with ternary weights. " + TernaryKernel.__doc__

    def __init__(self, units: int, **kwargs: Unpack[LayerArguments]) -> None:
        super().__init__(units, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class TernaryConv1D(TernaryKernel, CompressedConv1D):
    __doc__ = "Conv1D with ternary weights. " + TernaryKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, **kwargs)


@keras.saving.register_keras_serializable("tfcompress")
class TernaryConv2D(TernaryKernel, CompressedConv2D):
    __doc__ = "Conv2D with ternary weights. " + TernaryKernel.__doc__

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        **kwargs: Unpack[ConvArguments],
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, **kwargs)
