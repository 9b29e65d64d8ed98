"""What a .tflite file computes otherwise than its model, layer by layer."""
