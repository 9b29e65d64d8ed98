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
from tfcompress.layers.discrete.other_forms import BinaryConv1DTranspose as BinaryConv1DTranspose
from tfcompress.layers.discrete.other_forms import BinaryConv2DTranspose as BinaryConv2DTranspose
from tfcompress.layers.discrete.other_forms import BinaryConv3D as BinaryConv3D
from tfcompress.layers.discrete.other_forms import BinaryConv3DTranspose as BinaryConv3DTranspose
from tfcompress.layers.discrete.other_forms import BinaryDepthwiseConv1D as BinaryDepthwiseConv1D
from tfcompress.layers.discrete.other_forms import BinaryDepthwiseConv2D as BinaryDepthwiseConv2D
from tfcompress.layers.discrete.other_forms import Float16Conv1DTranspose as Float16Conv1DTranspose
from tfcompress.layers.discrete.other_forms import Float16Conv2DTranspose as Float16Conv2DTranspose
from tfcompress.layers.discrete.other_forms import Float16Conv3D as Float16Conv3D
from tfcompress.layers.discrete.other_forms import Float16Conv3DTranspose as Float16Conv3DTranspose
from tfcompress.layers.discrete.other_forms import Float16DepthwiseConv1D as Float16DepthwiseConv1D
from tfcompress.layers.discrete.other_forms import (
    Float16ReversibleEmbedding as Float16ReversibleEmbedding,
)
from tfcompress.layers.discrete.other_forms import (
    QuantizedConv1DTranspose as QuantizedConv1DTranspose,
)
from tfcompress.layers.discrete.other_forms import (
    QuantizedConv2DTranspose as QuantizedConv2DTranspose,
)
from tfcompress.layers.discrete.other_forms import QuantizedConv3D as QuantizedConv3D
from tfcompress.layers.discrete.other_forms import (
    QuantizedConv3DTranspose as QuantizedConv3DTranspose,
)
from tfcompress.layers.discrete.other_forms import (
    QuantizedDepthwiseConv1D as QuantizedDepthwiseConv1D,
)
from tfcompress.layers.discrete.other_forms import (
    QuantizedReversibleEmbedding as QuantizedReversibleEmbedding,
)
from tfcompress.layers.discrete.other_forms import TernaryConv1DTranspose as TernaryConv1DTranspose
from tfcompress.layers.discrete.other_forms import TernaryConv2DTranspose as TernaryConv2DTranspose
from tfcompress.layers.discrete.other_forms import TernaryConv3D as TernaryConv3D
from tfcompress.layers.discrete.other_forms import TernaryConv3DTranspose as TernaryConv3DTranspose
from tfcompress.layers.discrete.other_forms import TernaryDepthwiseConv1D as TernaryDepthwiseConv1D
from tfcompress.layers.discrete.other_forms import TernaryDepthwiseConv2D as TernaryDepthwiseConv2D
from tfcompress.layers.factorized.low_rank_embedding import LowRankEmbedding as LowRankEmbedding
from tfcompress.layers.factorized.low_rank_embedding import (
    LowRankReversibleEmbedding as LowRankReversibleEmbedding,
)
from tfcompress.layers.factorized.low_rank_forms import (
    LowRankConv1DTranspose as LowRankConv1DTranspose,
)
from tfcompress.layers.factorized.low_rank_forms import (
    LowRankConv2DTranspose as LowRankConv2DTranspose,
)
from tfcompress.layers.factorized.low_rank_forms import (
    LowRankConv3D as LowRankConv3D,
)
from tfcompress.layers.factorized.low_rank_forms import (
    LowRankConv3DTranspose as LowRankConv3DTranspose,
)
from tfcompress.layers.shared.codebook_forms import (
    CodebookConv1DTranspose as CodebookConv1DTranspose,
)
from tfcompress.layers.shared.codebook_forms import (
    CodebookConv2DTranspose as CodebookConv2DTranspose,
)
from tfcompress.layers.shared.codebook_forms import CodebookConv3D as CodebookConv3D
from tfcompress.layers.shared.codebook_forms import (
    CodebookConv3DTranspose as CodebookConv3DTranspose,
)
from tfcompress.layers.shared.codebook_forms import (
    CodebookDepthwiseConv1D as CodebookDepthwiseConv1D,
)
from tfcompress.layers.shared.codebook_forms import (
    CodebookDepthwiseConv2D as CodebookDepthwiseConv2D,
)
from tfcompress.layers.shared.codebook_forms import CodebookEinsumDense as CodebookEinsumDense
from tfcompress.layers.shared.codebook_forms import CodebookEmbedding as CodebookEmbedding
from tfcompress.layers.shared.codebook_forms import (
    CodebookReversibleEmbedding as CodebookReversibleEmbedding,
)
from tfcompress.layers.shared.hashed_embedding import HashedEmbedding as HashedEmbedding
from tfcompress.layers.shared.hashed_embedding import (
    HashedReversibleEmbedding as HashedReversibleEmbedding,
)
