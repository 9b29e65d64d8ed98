"""Make Keras 3 networks small and fast: swap layers, fit, convert to LiteRT."""

__version__ = "0.1.0"
