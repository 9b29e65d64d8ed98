"""Binary, ternary, m-bit and float16 forms of depthwise, transposed and 3D convolutions."""

import keras

from tfcompress.layers.core.embedding import CompressedReversibleEmbedding
from tfcompress.layers.core.other_convolutions import (
    CompressedConv1DTranspose,
    CompressedConv2DTranspose,
    CompressedConv3D,
    CompressedConv3DTranspose,
    CompressedDepthwiseConv1D,
    CompressedDepthwiseConv2D,
)
from tfcompress.layers.discrete.binary import BinaryKernel
from tfcompress.layers.discrete.float16 import Float16Kernel
from tfcompress.layers.discrete.quantized import QuantizedKernel
from tfcompress.layers.discrete.ternary import TernaryKernel


@keras.saving.register_keras_serializable("tfcompress")
class BinaryConv3D(BinaryKernel, CompressedConv3D):
    __doc__ = "Conv3D with one bit per weight. " + BinaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class BinaryDepthwiseConv1D(BinaryKernel, CompressedDepthwiseConv1D):
    __doc__ = "DepthwiseConv1D with one bit per weight. " + BinaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class BinaryDepthwiseConv2D(BinaryKernel, CompressedDepthwiseConv2D):
    __doc__ = "DepthwiseConv2D with one bit per weight. " + BinaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class BinaryConv1DTranspose(BinaryKernel, CompressedConv1DTranspose):
    __doc__ = "Conv1DTranspose with one bit per weight. " + BinaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class BinaryConv2DTranspose(BinaryKernel, CompressedConv2DTranspose):
    __doc__ = "Conv2DTranspose with one bit per weight. " + BinaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class BinaryConv3DTranspose(BinaryKernel, CompressedConv3DTranspose):
    __doc__ = "Conv3DTranspose with one bit per weight. " + BinaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class TernaryConv3D(TernaryKernel, CompressedConv3D):
    __doc__ = "Conv3D with ternary weights. " + TernaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class TernaryDepthwiseConv1D(TernaryKernel, CompressedDepthwiseConv1D):
    __doc__ = "DepthwiseConv1D with ternary weights. " + TernaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class TernaryDepthwiseConv2D(TernaryKernel, CompressedDepthwiseConv2D):
    __doc__ = "DepthwiseConv2D with ternary weights. " + TernaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class TernaryConv1DTranspose(TernaryKernel, CompressedConv1DTranspose):
    __doc__ = "Conv1DTranspose with ternary weights. " + TernaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class TernaryConv2DTranspose(TernaryKernel, CompressedConv2DTranspose):
    __doc__ = "Conv2DTranspose with ternary weights. " + TernaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class TernaryConv3DTranspose(TernaryKernel, CompressedConv3DTranspose):
    __doc__ = "Conv3DTranspose with ternary weights. " + TernaryKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedConv3D(QuantizedKernel, CompressedConv3D):
    __doc__ = "Conv3D with m bits per weight. " + QuantizedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedDepthwiseConv1D(QuantizedKernel, CompressedDepthwiseConv1D):
    __doc__ = "DepthwiseConv1D with m bits per weight. " + QuantizedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedConv1DTranspose(QuantizedKernel, CompressedConv1DTranspose):
    __doc__ = "Conv1DTranspose with m bits per weight. " + QuantizedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedConv2DTranspose(QuantizedKernel, CompressedConv2DTranspose):
    __doc__ = "Conv2DTranspose with m bits per weight. " + QuantizedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedConv3DTranspose(QuantizedKernel, CompressedConv3DTranspose):
    __doc__ = "Conv3DTranspose with m bits per weight. " + QuantizedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedReversibleEmbedding(QuantizedKernel, CompressedReversibleEmbedding):
    __doc__ = "ReversibleEmbedding with m bits per weight. " + QuantizedKernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16Conv3D(Float16Kernel, CompressedConv3D):
    __doc__ = "Conv3D with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16DepthwiseConv1D(Float16Kernel, CompressedDepthwiseConv1D):
    __doc__ = "DepthwiseConv1D with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16Conv1DTranspose(Float16Kernel, CompressedConv1DTranspose):
    __doc__ = "Conv1DTranspose with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16Conv2DTranspose(Float16Kernel, CompressedConv2DTranspose):
    __doc__ = "Conv2DTranspose with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16Conv3DTranspose(Float16Kernel, CompressedConv3DTranspose):
    __doc__ = "Conv3DTranspose with 16 bits per weight. " + Float16Kernel.__doc__


@keras.saving.register_keras_serializable("tfcompress")
class Float16ReversibleEmbedding(Float16Kernel, CompressedReversibleEmbedding):
    __doc__ = "ReversibleEmbedding with 16 bits per weight. " + Float16Kernel.__doc__
