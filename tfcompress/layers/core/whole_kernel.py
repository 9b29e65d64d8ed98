"""A penalty on the whole kernel of a layer, which Keras asks of one of its parts."""

from typing import Any

import keras

from tfcompress.utils.types import Tensor


class OfWholeKernel(keras.regularizers.Regularizer):
    """The regularizer of a part that says what `kernel_regularizer` says of the kernel.

    It is never saved: the layer sets it when it is built.

    Args:
        layer: a `CompressedLayer` with a `kernel_regularizer`.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer.kernel_regularizer(self.layer.kernel)
