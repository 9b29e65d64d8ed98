"""Export to LiteRT in five steps: lower, convert, rewrite, verify, write."""

from tfcompress.export.exporter import file_bytes, to_tflite
from tfcompress.utils.errors import ExportError

__all__ = ["ExportError", "file_bytes", "to_tflite"]
