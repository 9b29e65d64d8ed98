"""One entropy-coded file for a compressed model."""

from tfcompress.archive.files import ArchiveError as ArchiveError
from tfcompress.archive.files import load as load
from tfcompress.archive.files import save as save
