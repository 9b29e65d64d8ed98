"""Kernels of a .tflite file, encoded in fewer bits."""
