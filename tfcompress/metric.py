"""The forms of a second-order damage: diagonal and Kronecker."""

from tfcompress.numerics.metric import Diagonal as Diagonal
from tfcompress.numerics.metric import Kronecker as Kronecker
from tfcompress.numerics.metric import as_metric as as_metric
