"""Layers whose kernel is stored in fewer bits."""

from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.discrete.binary import BinaryConv1D, BinaryConv2D, BinaryDense
from tfcompress.layers.discrete.fake_quant import FakeQuant
from tfcompress.layers.discrete.float16 import (
    Float16Conv1D,
    Float16Conv2D,
    Float16Dense,
    Float16DepthwiseConv2D,
    Float16EinsumDense,
    Float16Embedding,
)
from tfcompress.layers.discrete.quantized import (
    QuantizedConv1D,
    QuantizedConv2D,
    QuantizedDense,
    QuantizedDepthwiseConv2D,
    QuantizedEinsumDense,
    QuantizedEmbedding,
)
from tfcompress.layers.discrete.rounding import rounding
from tfcompress.layers.discrete.ternary import TernaryConv1D, TernaryConv2D, TernaryDense
from tfcompress.layers.factorized.cp import CPConv2D
from tfcompress.layers.factorized.low_rank import LowRankConv1D, LowRankConv2D, LowRankDense
from tfcompress.layers.factorized.spatial import SpatialConv2D
from tfcompress.layers.factorized.tucker import TuckerConv2D
from tfcompress.layers.shared.circulant import CirculantConv2D, CirculantDense
from tfcompress.layers.shared.codebook import CodebookConv1D, CodebookConv2D, CodebookDense
from tfcompress.layers.shared.hashed import HashedConv1D, HashedConv2D, HashedDense
from tfcompress.layers.shared.tile_hashed import TileHashedDense

__all__ = [
    "BinaryConv1D",
    "BinaryConv2D",
    "BinaryDense",
    "CPConv2D",
    "CirculantConv2D",
    "CirculantDense",
    "CodebookConv1D",
    "CodebookConv2D",
    "CodebookDense",
    "CompressedLayer",
    "FakeQuant",
    "Float16Conv1D",
    "Float16Conv2D",
    "Float16Dense",
    "Float16DepthwiseConv2D",
    "Float16EinsumDense",
    "Float16Embedding",
    "HashedConv1D",
    "HashedConv2D",
    "HashedDense",
    "LowRankConv1D",
    "LowRankConv2D",
    "LowRankDense",
    "QuantizedConv1D",
    "QuantizedConv2D",
    "QuantizedDense",
    "QuantizedDepthwiseConv2D",
    "QuantizedEinsumDense",
    "QuantizedEmbedding",
    "SpatialConv2D",
    "TernaryConv1D",
    "TernaryConv2D",
    "TernaryDense",
    "TileHashedDense",
    "TuckerConv2D",
    "rounding",
]
