"""Data of the demo, the examples, the benchmarks and the papers: read from files, or made."""

from tfcompress.datasets.files import cifar10, fashion_mnist, mnist, usps
from tfcompress.datasets.made import (
    convex,
    mnist_random_background,
    mnist_rotated,
    monks,
    rectangles,
)

__all__ = [
    "cifar10",
    "convex",
    "fashion_mnist",
    "mnist",
    "mnist_random_background",
    "mnist_rotated",
    "monks",
    "rectangles",
    "usps",
]
