"""Compressed layers as plain operations that the converter takes."""
