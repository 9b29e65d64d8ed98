"""Converts a Keras model of ordinary layers to a .tflite file with the stock converter."""
