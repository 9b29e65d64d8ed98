"""Export to LiteRT in five steps: lower, convert, rewrite, verify, write."""

from tfcompress.export.exporter import file_bytes as file_bytes
from tfcompress.export.exporter import to_tflite as to_tflite
from tfcompress.utils.errors import ExportError as ExportError
