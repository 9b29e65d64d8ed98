"""Kernels that are products of smaller ones."""
