"""The training of compressed models."""
