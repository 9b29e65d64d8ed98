"""Replacing layers of a model."""
