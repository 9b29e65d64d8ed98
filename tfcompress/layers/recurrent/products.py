"""What the cells share: their two products as layers, and dropout."""

from typing import Any

import keras
from keras import ops

from tfcompress.layers.core.opened import OpenedLayer
from tfcompress.utils.arrays import copy_into
from tfcompress.utils.types import InputShape, Tensor


class NoFusedPathError(NotImplementedError, AttributeError):
    """A cell has no kernel that could be given to a fused implementation of its layer.

    Keras' recurrent layers then call the cell step by step, and `hasattr` sees no such attribute.
    """


class OpenedCell(OpenedLayer):
    """A recurrent cell whose product with the inputs and that with the state are layers.

    `kernel`, `recurrent_kernel` and `bias` are those of the products, so that the fused
    implementations that Keras' recurrent layers try first (cuDNN) compute the same.
    """

    part_names = ("kernel", "recurrent_kernel")
    variable_names = ("kernel", "recurrent_kernel", "bias")

    @classmethod
    def from_layer(cls, layer: keras.layers.Layer) -> Any:
        new = super().from_layer(layer)
        for name in ("implementation", "dropout_mask_count"):  # in no config
            if hasattr(layer, name):
                setattr(new, name, getattr(layer, name))
        copy_into(new.seed_generator.state, layer.seed_generator.state)
        return new

    @property
    def kernel(self) -> Tensor:
        return kernel_for_fusion(self.kernel_layer)

    @property
    def recurrent_kernel(self) -> Tensor:
        return kernel_for_fusion(self.recurrent_kernel_layer)

    @property
    def bias(self) -> Any:
        return last_of(self.kernel_layer).bias

    def input_masks(self, inputs: Tensor, training: bool) -> Any:
        """The mask of `dropout`: None, one for all gates, or a list with one for each."""
        dropped = training and 0.0 < self.dropout < 1.0
        return self.get_dropout_mask(inputs) if dropped else None

    def state_masks(self, state: Tensor, training: bool) -> Any:
        """The mask of `recurrent_dropout`, as `input_masks` gives it."""
        dropped = training and 0.0 < self.recurrent_dropout < 1.0
        return self.get_recurrent_dropout_mask(state) if dropped else None


def kernel_for_fusion(product: keras.layers.Layer) -> Tensor:
    """The kernel of a product, for code that multiplies by it itself.

    Raises:
        NoFusedPathError: the product is more than one by `kernel`: a chain, or drawn at each call.
    """
    if not hasattr(product, "kernel") or getattr(product, "stochastic", False):
        raise NoFusedPathError(
            f"The product '{product.name}' of class {type(product).__name__} is not one by a "
            "kernel, so its cell runs step by step. Set `use_cudnn='auto'`."
        )
    if isinstance(product.kernel, keras.Variable):
        return product.kernel
    return ops.cast(product.kernel, product.compute_dtype)


def last_of(product: keras.layers.Layer) -> keras.layers.Layer:
    """The layer of a product that has the bias: the last one of a chain."""
    return product.parts[-1] if isinstance(getattr(product, "parts", None), list) else product


def by_gate(
    product: keras.layers.Layer, x: Tensor, masks: Any, gates: int, axis: int = -1
) -> list[Tensor]:
    """The outputs of a product, one for each gate of the cell.

    Args:
        product: a layer whose outputs are those of all gates, joined along `axis`.
        x: its inputs.
        masks: of dropout: None, one for all gates, or a list with one for each. With a list the
            product is made once for each mask, of which one gate is kept.
        gates: how many there are.
        axis: of the outputs.
    """
    if not isinstance(masks, (list, tuple)):
        return ops.split(product(x if masks is None else x * masks), gates, axis)
    all_gates = product(ops.concatenate([x * mask for mask in masks]))
    outputs = enumerate(ops.split(all_gates, gates))
    return [ops.split(output, gates, axis)[gate] for gate, output in outputs]


def dense_product(
    cell: keras.layers.Layer, name: str, kernel: Tensor, bias: Any = None
) -> keras.layers.Dense:
    """A built Dense layer with a kernel and a bias of a cell."""
    kind = "kernel" if name == "kernel" else "recurrent"
    layer = keras.layers.Dense(
        kernel.shape[-1],
        use_bias=bias is not None,
        **product_arguments(cell, kind),
        name=name,
        dtype=cell.dtype_policy,
    )
    return carrying(layer, (None, kernel.shape[0]), kernel, bias)


def product_arguments(cell: keras.layers.Layer, kind: str) -> dict:
    """The initializers, regularizers and constraints of a product: of the kind kernel, recurrent.

    They are new objects, since layers share none.
    """
    arguments = {}
    for what, family in (
        ("initializer", keras.initializers),
        ("regularizer", keras.regularizers),
        ("constraint", keras.constraints),
    ):
        for own, theirs in (("kernel", kind), ("bias", "bias")):
            config = family.serialize(getattr(cell, f"{theirs}_{what}"))
            arguments[f"{own}_{what}"] = config and family.deserialize(config)
    return arguments


def carrying(
    layer: keras.layers.Layer, shape: InputShape, kernel: Tensor, bias: Any
) -> keras.layers.Layer:
    """The layer, built and with this kernel and bias."""
    layer.build(shape)
    copy_into(layer.kernel, kernel)
    if bias is not None:
        copy_into(layer.bias, bias)
    return layer
