"""Reads, writes, edits and runs .tflite files."""
