"""Working together with other packages."""

from . import tfmot as tfmot
