"""Layers whose kernel is stored in fewer bits."""

from tfcompress.layers.core.base import CompressedLayer as CompressedLayer
from tfcompress.layers.discrete.binary import BinaryConv1D as BinaryConv1D
from tfcompress.layers.discrete.binary import BinaryConv2D as BinaryConv2D
from tfcompress.layers.discrete.binary import BinaryDense as BinaryDense
from tfcompress.layers.discrete.fake_quant import FakeQuant as FakeQuant
from tfcompress.layers.discrete.float16 import Float16Conv1D as Float16Conv1D
from tfcompress.layers.discrete.float16 import Float16Conv2D as Float16Conv2D
from tfcompress.layers.discrete.float16 import Float16Dense as Float16Dense
from tfcompress.layers.discrete.float16 import Float16DepthwiseConv2D as Float16DepthwiseConv2D
from tfcompress.layers.discrete.float16 import Float16EinsumDense as Float16EinsumDense
from tfcompress.layers.discrete.float16 import Float16Embedding as Float16Embedding
from tfcompress.layers.discrete.quantized import QuantizedConv1D as QuantizedConv1D
from tfcompress.layers.discrete.quantized import QuantizedConv2D as QuantizedConv2D
from tfcompress.layers.discrete.quantized import QuantizedDense as QuantizedDense
from tfcompress.layers.discrete.quantized import (
    QuantizedDepthwiseConv2D as QuantizedDepthwiseConv2D,
)
from tfcompress.layers.discrete.quantized import QuantizedEinsumDense as QuantizedEinsumDense
from tfcompress.layers.discrete.quantized import QuantizedEmbedding as QuantizedEmbedding
from tfcompress.layers.discrete.rounding import rounding as rounding
from tfcompress.layers.discrete.ternary import TernaryConv1D as TernaryConv1D
from tfcompress.layers.discrete.ternary import TernaryConv2D as TernaryConv2D
from tfcompress.layers.discrete.ternary import TernaryDense as TernaryDense
from tfcompress.layers.factorized.cp import CPConv2D as CPConv2D
from tfcompress.layers.factorized.low_rank import LowRankConv1D as LowRankConv1D
from tfcompress.layers.factorized.low_rank import LowRankConv2D as LowRankConv2D
from tfcompress.layers.factorized.low_rank import LowRankDense as LowRankDense
from tfcompress.layers.factorized.spatial import SpatialConv2D as SpatialConv2D
from tfcompress.layers.factorized.tucker import TuckerConv2D as TuckerConv2D
from tfcompress.layers.shared.circulant import CirculantConv2D as CirculantConv2D
from tfcompress.layers.shared.circulant import CirculantDense as CirculantDense
from tfcompress.layers.shared.codebook import CodebookConv1D as CodebookConv1D
from tfcompress.layers.shared.codebook import CodebookConv2D as CodebookConv2D
from tfcompress.layers.shared.codebook import CodebookDense as CodebookDense
from tfcompress.layers.shared.hashed import HashedConv1D as HashedConv1D
from tfcompress.layers.shared.hashed import HashedConv2D as HashedConv2D
from tfcompress.layers.shared.hashed import HashedDense as HashedDense
from tfcompress.layers.shared.tile_hashed import TileHashedDense as TileHashedDense
