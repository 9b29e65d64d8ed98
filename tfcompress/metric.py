"""The forms of a second-order damage: diagonal and Kronecker."""

from tfcompress.numerics.metric import Diagonal, Kronecker, as_metric

__all__ = ["Diagonal", "Kronecker", "as_metric"]
