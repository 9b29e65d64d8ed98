"""Works together with other packages."""

from tfcompress.interop import keras_hub, tensorly, tfmot

__all__ = ["keras_hub", "tensorly", "tfmot"]
