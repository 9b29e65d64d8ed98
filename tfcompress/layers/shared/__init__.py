"""Kernels whose entries share values: codebooks, hashes, circulant matrices."""
