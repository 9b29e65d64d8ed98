"""One entropy-coded file for a compressed model."""

from tfcompress.archive.files import ArchiveError, load, save

__all__ = ["ArchiveError", "load", "save"]
