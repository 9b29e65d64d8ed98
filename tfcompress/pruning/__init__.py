"""Weights and channels removed."""
