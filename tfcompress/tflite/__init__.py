"""Reading, writing, editing and running .tflite files."""
