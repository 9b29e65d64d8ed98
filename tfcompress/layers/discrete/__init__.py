"""Kernels whose entries take few values."""
