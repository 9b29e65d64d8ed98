"""Works together with other packages."""

from tfcompress.interop import tfmot as tfmot
