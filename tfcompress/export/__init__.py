"""Export to LiteRT: lower, convert, rewrite, verify, write."""

from .errors import ExportError as ExportError
from .exporter import file_bytes as file_bytes
from .exporter import to_tflite as to_tflite
