"""Convolutions that run as a chain of smaller ones, from a multilinear form of their kernel."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.dense_and_conv import CompressedConv2D, output_length
from tfcompress.layers.core.ordinary import glorot_variance, ordinary_layer, positions
from tfcompress.layers.factorized.low_rank import LowRankConv2D
from tfcompress.layers.factorized.rank import Ranked
from tfcompress.numerics.low_rank import refine
from tfcompress.numerics.metric import as_metric
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import InputShape, Metric, Shape, Tensor


class Stage(NamedTuple):
    """One convolution of the chain: its kernel `(h, w, i, o)`, or `(h, w, i, 1)` if depthwise."""

    name: str
    kernel: object
    depthwise: bool = False
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)


class ConvChain(Ranked, CompressedConv2D):
    """A kernel that is a sum of products of parts, `einsum(expression, *parts)`.

    A method gives `expression` (in the letters h w i o of the kernel and others of its own),
    `decompose(w)` into the parts, `stages(parts)`, the convolutions that they make, and what
    `Ranked` asks for.
    """

    expression: str

    @classmethod
    def from_layer(
        cls,
        layer: keras.layers.Layer,
        metric: Metric = None,
        kernel: np.ndarray | None = None,
        **options: Any,
    ) -> CompressedLayer:
        """As for every layer, but a 1x1 kernel, which is a matrix, becomes a `LowRankConv2D`."""
        if getattr(layer, "kernel_size", None) == (1, 1):
            options = {name: options[name] for name in Ranked.options if name in options}
            if isinstance(options.get("rank"), (tuple, list)):
                options["rank"] = min(options["rank"])
            return LowRankConv2D.from_layer(layer, metric, kernel, **options)
        return super().from_layer(layer, metric, kernel, **options)

    def build_kernel(self, shape: Shape) -> None:
        shapes = self.part_shapes(shape, self.rank, **self.form)
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
    def kernel(self) -> Tensor:
        return ops.einsum(self.expression, *map(ops.convert_to_tensor, self.parts.values()))

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        parts = [ops.cast(part, self.compute_dtype) for part in self.parts.values()]
        for stage in self.stages(parts):
            convolve = ops.depthwise_conv if stage.depthwise else ops.conv
            x = convolve(
                x,
                stage.kernel,
                strides=stage.strides[0] if stage.depthwise else stage.strides,
                padding=self.padding,
                dilation_rate=stage.dilation,
                data_format=self.data_format,
            )
        return x

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        # The plain decomposition first: `refine` only goes down from where it starts.
        parts = self.decompose(np.asarray(w, np.float64))
        if metric is not None:
            parts = refine(w, parts, self.expression, as_metric(metric, w.shape))
        for variable, part in zip(self.parts.values(), parts, strict=True):
            variable.assign(part)

    def macs_at(self, input_shape: InputShape, rank: Any) -> int:
        shapes = self.part_shapes(self.kernel_shape(input_shape), rank, **self.form)
        space, total = input_shape[1:-1], 0
        for stage in self.stages([np.zeros(shape) for shape in shapes.values()]):
            space = [
                output_length(n, k, self.padding, s, d)
                for n, k, s, d in zip(
                    space, stage.kernel.shape[:2], stage.strides, stage.dilation, strict=True
                )
            ]
            total += positions(space) * math.prod(stage.kernel.shape)
        return total

    def to_ordinary(self) -> list[keras.layers.Layer]:
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
