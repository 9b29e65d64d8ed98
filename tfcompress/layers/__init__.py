"""Layers whose kernel is stored in fewer bits."""

from .base import CompressedLayer as CompressedLayer
from .binary import BinaryConv1D as BinaryConv1D
from .binary import BinaryConv2D as BinaryConv2D
from .binary import BinaryDense as BinaryDense
from .circulant import CirculantDense as CirculantDense
from .codebook import CodebookConv1D as CodebookConv1D
from .codebook import CodebookConv2D as CodebookConv2D
from .codebook import CodebookDense as CodebookDense
from .cp import CPConv2D as CPConv2D
from .hashed import HashedDense as HashedDense
from .low_rank import LowRankConv1D as LowRankConv1D
from .low_rank import LowRankConv2D as LowRankConv2D
from .low_rank import LowRankDense as LowRankDense
from .quantized import QuantizedConv1D as QuantizedConv1D
from .quantized import QuantizedConv2D as QuantizedConv2D
from .quantized import QuantizedDense as QuantizedDense
from .quantized import QuantizedDepthwiseConv2D as QuantizedDepthwiseConv2D
from .quantized import QuantizedEinsumDense as QuantizedEinsumDense
from .quantized import QuantizedEmbedding as QuantizedEmbedding
from .quantized import TernaryConv1D as TernaryConv1D
from .quantized import TernaryConv2D as TernaryConv2D
from .quantized import TernaryDense as TernaryDense
from .spatial import SpatialConv2D as SpatialConv2D
from .tucker import TuckerConv2D as TuckerConv2D
