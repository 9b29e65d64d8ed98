"""16 bits per weight: kernels rounded to float16."""

import math
from typing import Unpack

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.arguments import NoOptions
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.dense_and_conv import (
    CompressedConv1D,
    CompressedConv2D,
    CompressedDense,
)
from tfcompress.layers.core.einsum import CompressedEinsumDense
from tfcompress.layers.core.embedding import CompressedEmbedding
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.other_convolutions import CompressedDepthwiseConv2D
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Metric, Shape, Tensor

LARGEST_FLOAT16 = 65504.0


class Float16Kernel(CompressedLayer):
    """Weights rounded to float16; everything else stays in float32.

        V = float16(w)

    The gradient of `V` reaches the float32 latents `w` unchanged.

    Cost: 16 bits per weight; the MACs of the ordinary layer.

    Args: as in the ordinary layer.

    `from_layer` rounds each weight to the nearest value, in any metric.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.Float16Dense(4)
    >>> layer.build((None, 8))
    >>> layer.bits  # 8 * 4 weights
    512
    """

    @classmethod
    def using(cls, **options: Unpack[NoOptions]) -> Maker:
        return super().using(**options)

    def build_kernel(self, shape: Shape) -> None:
        limit = math.sqrt(3 * self.variance(shape))
        self.latent = self.add_part(
            "latent", shape, keras.initializers.RandomUniform(-limit, limit)
        )

    @property
    def kernel(self) -> Tensor:
        latent = ops.convert_to_tensor(self.latent)
        # The values are those of `half`, exactly; the gradient is that of `latent`.
        half = ops.stop_gradient(ops.cast(ops.cast(latent, "float16"), latent.dtype))
        return half + (latent - ops.stop_gradient(latent))

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        if np.max(np.abs(w), initial=0) > LARGEST_FLOAT16:
            raise ValueError(
                f"The kernel of layer {self.name!r} has weights beyond float16's range, "
                f"+-{LARGEST_FLOAT16:.0f}."
            )
        self.latent.assign(w)

    def stored(self) -> dict[str, np.ndarray]:
        return {"kernel": to_numpy(self.latent).astype("float16")}

    def restore(self, stored: dict[str, np.ndarray]) -> None:
        self._check_stored(stored, ["kernel"])
        self.latent.assign(stored["kernel"])


@keras.saving.register_keras_serializable("tfcompress")
class Float16Dense(Float16Kernel, CompressedDense):
    __doc__ = "Dense with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16Conv1D(Float16Kernel, CompressedConv1D):
    __doc__ = "Conv1D with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16Conv2D(Float16Kernel, CompressedConv2D):
    __doc__ = "Conv2D with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16DepthwiseConv2D(Float16Kernel, CompressedDepthwiseConv2D):
    __doc__ = "DepthwiseConv2D with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16EinsumDense(Float16Kernel, CompressedEinsumDense):
    __doc__ = "EinsumDense with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16Embedding(Float16Kernel, CompressedEmbedding):
    __doc__ = "Embedding with 16 bits per weight. " + Float16Kernel.__doc__
