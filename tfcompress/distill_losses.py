"""Losses between a student's and a teacher's outputs or features."""

from tfcompress.distillation.losses import (
    attention_transfer,
    decoupled,
    sigmoid_kl,
    softmax_kl,
    squared_error,
)

__all__ = ["attention_transfer", "decoupled", "sigmoid_kl", "softmax_kl", "squared_error"]
