"""Works together with other packages."""

from tfcompress.interop import keras_hub, tfmot

__all__ = ["keras_hub", "tfmot"]
