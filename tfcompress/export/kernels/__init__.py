"""Encodes the kernels of a .tflite file in fewer bits."""
