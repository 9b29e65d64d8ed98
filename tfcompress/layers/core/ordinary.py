"""The ordinary layers that compressed ones come from and turn into."""

import math

import keras
import numpy as np

from tfcompress.utils.arrays import copy_into
from tfcompress.utils.types import Config, Initializer, InputShape, Shape, Tensor

COMMON = (
    "activation",
    "use_bias",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "bias_constraint",
    "activity_regularizer",
)


def kernel_of(layer: keras.layers.Layer) -> keras.Variable:
    """The kernel of an ordinary or compressed layer; that of an Embedding is its table."""
    return layer.embeddings if isinstance(layer, keras.layers.Embedding) else layer.kernel


def kernel_bits(layer: keras.layers.Layer) -> int:
    """The stored size of a layer's kernel in bits; that of an ordinary layer is in float32."""
    stored = getattr(layer, "bits", None)  # of a compressed layer
    return 32 * math.prod(kernel_of(layer).shape) if stored is None else stored


def common_config(layer: keras.layers.Layer) -> Config:
    """The values of the `COMMON` arguments for a config."""
    return {
        "activation": keras.activations.serialize(layer.activation),
        "use_bias": layer.use_bias,
        "bias_initializer": keras.initializers.serialize(layer.bias_initializer),
        "kernel_regularizer": keras.regularizers.serialize(layer.kernel_regularizer),
        "bias_regularizer": keras.regularizers.serialize(layer.bias_regularizer),
        "bias_constraint": keras.constraints.serialize(layer.bias_constraint),
        "activity_regularizer": keras.regularizers.serialize(layer.activity_regularizer),
    }


def ordinary_layer(
    layer: keras.layers.Layer,
    arguments: Config,
    kernel: Tensor,
    cls: type | None = None,
    name: str | None = None,
    last: bool = True,
) -> keras.layers.Layer:
    """A built Keras layer with this kernel; the last of a chain has the bias and the activation."""
    if hasattr(layer, "data_format"):
        arguments = arguments | {"data_format": layer.data_format}
    new = (cls or layer.ordinary)(
        **arguments,
        **({name: getattr(layer, name) for name in COMMON} if last else {"use_bias": False}),
        name=name or layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )
    depthwise = isinstance(new, keras.layers.DepthwiseConv2D)
    channels = kernel.shape[-2] * (1 if depthwise else getattr(new, "groups", 1))
    new.build((*[None] * (kernel.ndim - 1), channels))
    copy_into(new.kernel, kernel)
    if last and new.use_bias:
        copy_into(new.bias, layer.bias)
        if not layer.bias.trainable:
            new.bias.trainable = False
    return new


def take_over(layer: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Gives a built compressed layer the bias and the flags of the layer that it is made from.

    Its parts are frozen where the kernel is, and its bias where the bias is.
    """
    if new.bias is not None:
        copy_into(new.bias, layer.bias)
    new.trainable = layer.trainable  # for each variable, so not before they exist
    kernel = kernel_of(layer)  # a tensor where the layer is a compressed one
    if isinstance(kernel, keras.Variable) and not kernel.trainable:
        for part in new.parts.values():
            part.trainable = False
    if new.bias is not None and not layer.bias.trainable:
        new.bias.trainable = False
    new.supports_masking = layer.supports_masking


def hand_over(layer: keras.layers.Layer, chain: list[keras.layers.Layer]) -> None:
    """Freezes the kernels and the bias of ordinary layers as they are in the compressed one."""
    parts = layer.parts.values()
    if parts and not any(part.trainable for part in parts):
        for part in chain:
            kernel_of(part).trainable = False
    if layer.bias is not None and not layer.bias.trainable:
        chain[-1].bias.trainable = False


def to_rows(w: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """A kernel as a matrix with a column for each index along these axes, those of its outputs."""
    columns = math.prod(w.shape[axis] for axis in axes)
    return w.transpose(_rows_first(w.ndim, axes)).reshape(-1, columns)


def from_rows(rows: np.ndarray, shape: Shape, axes: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_rows`."""
    order = _rows_first(len(shape), axes)
    return rows.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def _rows_first(ndim, axes):
    axes = [axis % ndim for axis in axes]
    return [axis for axis in range(ndim) if axis not in axes] + axes


def glorot_variance(shape: tuple[int, ...]) -> float:
    """`2 / (fan_in + fan_out)` of a kernel of this shape."""
    space = math.prod(shape[:-2])
    return 2.0 / (space * (shape[-2] + shape[-1]))


def positions(space: InputShape) -> int:
    if any(n is None for n in space):
        raise ValueError(f"MACs need a known input size. Received: {tuple(space)}")
    return math.prod(space)


def undrawn(initializer: Initializer) -> Initializer:
    """Zeros in the place of random numbers, which take three times the memory to make."""
    drawn = keras.initializers.RandomUniform, keras.initializers.RandomNormal
    return "zeros" if isinstance(initializer, drawn) else initializer
