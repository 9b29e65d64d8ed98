"""Convolutions that run as a chain of smaller ones, from a multilinear form of their kernel."""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ..factorize import refine
from ..metric import as_metric
from .base import glorot_variance, ordinary_layer, positions, to_numpy
from .forms import CompressedConv2D


class Stage(NamedTuple):
    """One convolution of the chain: its kernel `(h, w, i, o)`, or `(h, w, i, 1)` if depthwise."""

    name: str
    kernel: object
    depthwise: bool = False
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)


class ConvChain(CompressedConv2D):
    """A kernel that is a sum of products of parts, `einsum(expression, *parts)`.

    A method gives `expression` (class attribute, in the letters h w i o of the kernel and others
    of its own), `part_shapes(shape)`, `decompose(w)` and `stages(parts)`.
    """

    expression: str
    takes_groups = False

    def build_kernel(self, shape):
        shapes = self.part_shapes(shape)
        terms = self.expression.split("->")[0].split(",")
        sizes = {
            letter: n
            for term, name in zip(terms, shapes, strict=True)
            for letter, n in zip(term, shapes[name], strict=True)
        }
        summed = math.prod(n for letter, n in sizes.items() if letter not in "hwio")
        # All parts alike, so that their product has Glorot's variance.
        stddev = (glorot_variance(shape) / summed) ** (0.5 / len(shapes))
        for name, part_shape in shapes.items():
            self.add_part(name, part_shape, keras.initializers.RandomNormal(stddev=stddev))

    @property
    def kernel(self):
        return ops.einsum(self.expression, *map(ops.convert_to_tensor, self.parts.values()))

    def apply_kernel(self, x, training=None):
        parts = [ops.cast(part, self.compute_dtype) for part in self.parts.values()]
        for stage in self.stages(parts):
            convolve = ops.depthwise_conv if stage.depthwise else ops.conv
            x = convolve(
                x,
                stage.kernel,
                strides=stage.strides[0] if stage.depthwise else stage.strides,
                padding=self.padding,
                dilation_rate=stage.dilation,
                data_format="channels_last",
            )
        return x

    def fit_kernel(self, w, metric=None):
        parts = self.decompose(np.asarray(w, np.float64))
        if metric is not None:
            parts = refine(w, parts, self.expression, as_metric(metric, w.shape))
        for variable, part in zip(self.parts.values(), parts, strict=True):
            variable.assign(part)

    @property
    def prunable(self):
        return list(self.parts.values())

    def macs(self, input_shape) -> int:
        """Multiply-accumulates per sample."""
        total = 0
        for stage in self.stages([to_numpy(part) for part in self.parts.values()]):
            layer = self._ordinary(stage, last=False)
            input_shape = layer.compute_output_shape(input_shape)
            total += positions(input_shape[1:-1]) * math.prod(stage.kernel.shape)
        return total

    def to_ordinary(self):
        *first, last = self.stages([to_numpy(part) for part in self.parts.values()])
        return [self._ordinary(stage, last=False) for stage in first] + [self._ordinary(last)]

    def _ordinary(self, stage, last=True):
        arguments = {
            "kernel_size": stage.kernel.shape[:2],
            "strides": stage.strides,
            "padding": self.padding,
            "dilation_rate": stage.dilation,
        }
        cls = keras.layers.DepthwiseConv2D
        if not stage.depthwise:
            cls, arguments["filters"] = keras.layers.Conv2D, stage.kernel.shape[-1]
        name = self.name if last else f"{self.name}_{stage.name}"
        return ordinary_layer(self, arguments, stage.kernel, cls=cls, name=name, last=last)
