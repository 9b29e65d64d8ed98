"""Works together with other packages."""

from tfcompress.interop import tfmot

__all__ = ["tfmot"]
