"""Export to LiteRT: lower, convert, a list of passes over one file, verify, write."""

from tfcompress.export.exporter import file_bytes, to_tflite, unverified
from tfcompress.utils.errors import ExportError

__all__ = ["ExportError", "file_bytes", "to_tflite", "unverified"]
