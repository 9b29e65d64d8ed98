"""Lowers compressed layers to ordinary layers and operations that the converter knows."""
