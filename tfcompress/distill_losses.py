"""Losses between a student's and a teacher's outputs or features."""

from tfcompress.distillation.losses import attention_transfer as attention_transfer
from tfcompress.distillation.losses import decoupled as decoupled
from tfcompress.distillation.losses import sigmoid_kl as sigmoid_kl
from tfcompress.distillation.losses import softmax_kl as softmax_kl
from tfcompress.distillation.losses import squared_error as squared_error
