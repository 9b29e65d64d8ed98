"""From a Keras model to a .tflite file, by the stock converter."""
