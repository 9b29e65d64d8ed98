"""The layer protocol: a compressed layer is an ordinary kernel stored differently.

An author of a layer writes `build_kernel`, `kernel`, `fit_kernel` and, where what is stored is not
simply the layer's own variables, `stored` and `restore`. Four words recur:

- A method is a way to store a kernel, such as `BinaryKernel`.
- A form is the ordinary layer that a compressed one stands for, with its shapes and its linear map,
  such as `CompressedDense`. A layer joins both: `class BinaryDense(BinaryKernel, CompressedDense)`.
- A part is one of the variables in which a method keeps the kernel.
- A maker is a layer class with its options, which makes a compressed layer of an ordinary one.
"""

import math
from typing import Any, ClassVar, Unpack

import keras
import numpy as np
from keras import ops

from tfcompress.layers.core.arguments import PlainArguments
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.ordinary import (
    COMMON,
    common_config,
    glorot_variance,
    kernel_of,
    positions,
    take_over,
    undrawn,
)
from tfcompress.layers.core.refusal import refuse
from tfcompress.layers.core.whole_kernel import OfWholeKernel
from tfcompress.numerics.codecs import Packed, pack
from tfcompress.utils.arrays import copy_into, to_numpy
from tfcompress.utils.types import (
    Activation,
    Config,
    Constraint,
    Initializer,
    InputShape,
    Metric,
    Regularizer,
    Shape,
    Tensor,
)


class CompressedLayer(keras.layers.Layer):
    """An ordinary layer whose kernel is stored in a compressed form.

    Attributes:
        ordinary: of the class, the Keras layer that it stands for.
        arguments: of the class, the constructor arguments of the form, such as `filters`.
        width: of the class, the one of them that is the number of outputs.
        common: of the class, the arguments that most layers take, such as `activation`.
        ordinary_names: of the class, those of them that have another name in `ordinary`.
        scale_axes: of the class, the axes of the kernel along which each index has its own scale.
        options: of the class, the constructor arguments of the method, such as `bits`.
        parts: the variables in which the kernel is kept, by name (`add_part` adds to them).

    Args:
        activation, use_bias, activity_regularizer: as in Keras' own layers.
        bias_initializer, bias_regularizer, bias_constraint: the same.
        kernel_regularizer: a penalty on `kernel`, however that is stored, unless the layer is
            frozen. It makes the layer compute its whole kernel in every step.
        **kwargs: `name`, `dtype`, `trainable`.

    A fresh kernel has the variance of Glorot, Bengio, "Understanding the difficulty of training
    deep feedforward neural networks", 2010. There is no `kernel_initializer`, because most methods
    have no kernel to initialise. A `kernel_constraint` cannot hold on a compressed kernel and is
    refused.
    """

    ordinary: type
    arguments: tuple[str, ...] = ()
    common: tuple[str, ...] = COMMON
    ordinary_names: ClassVar = {}
    scale_axes: tuple[int, ...] = (-1,)
    options: tuple[str, ...] = ()
    takes_groups = True
    _waits_for_kernel = False  # whether a kernel is fitted as soon as it is built

    def __init__(
        self,
        activation: Activation = None,
        use_bias: bool = True,
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        bias_constraint: Constraint = None,
        **kwargs: Unpack[PlainArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.bias = None
        self.parts = {}

    def build_kernel(self, shape: tuple[int, ...]) -> None:
        """Adds the variables of a kernel of this shape (layout of the ordinary layer)."""
        raise TypeError(f"{type(self).__name__} must define `build_kernel`.")

    @property
    def kernel(self) -> Tensor:
        """The inference kernel, in the layout of the ordinary layer and the variable dtype."""
        raise TypeError(f"{type(self).__name__} must define `kernel`.")

    def fit_kernel(self, w: np.ndarray, metric: Metric = None) -> None:
        """Sets the variables to the nearest stored form of a trained kernel.

        Args:
            w: array of the shape of `kernel`.
            metric: what "nearest" means: an array like `w`, a `tfcompress.metric.Diagonal` or
                `Kronecker`, or None for the sum of squares.
        """
        raise TypeError(f"{type(self).__name__} must define `fit_kernel`.")

    def stored(self) -> dict[str, np.ndarray]:
        """The arrays that inference needs to rebuild the kernel; `restore` is the exact inverse."""
        return {name: to_numpy(variable) for name, variable in self.parts.items()}

    def restore(self, stored: dict[str, np.ndarray]) -> None:
        """Sets the kernel from `stored()`; the kernel is then equal in every bit."""
        self._check_stored(stored, self.parts)
        for name, variable in self.parts.items():
            variable.assign(stored[name])

    @classmethod
    def resolve(
        cls, shape: Shape, w: Tensor = None, metric: Metric = None, **options: Any
    ) -> Config:
        """Replaces automatic options, such as a rank of "auto", by numbers.

        `shape` is that of the kernel, and `w` the trained kernel or None.
        """
        return options

    def apply_kernel(self, x: Tensor, training: bool | None = None) -> Tensor:
        """The linear map on inputs `x` in the compute dtype."""
        return self.multiply(x, ops.cast(self.kernel, self.compute_dtype))

    def macs(self, input_shape: InputShape) -> int:
        """Multiply-accumulates per sample."""
        return self.positions(input_shape) * math.prod(self.kernel_shape(input_shape))

    def to_ordinary(self) -> list[keras.layers.Layer]:
        """The same function as built Keras layers in a chain; the last one keeps the name."""
        state = {"name": self.name, "dtype": self.dtype_policy, "trainable": self.trainable}
        new = self.ordinary(**self.ordinary_arguments(), **state)
        new.build((self.get_build_config() or {}).get("input_shape"))
        copy_into(kernel_of(new), self.kernel)
        if self.bias is not None:
            copy_into(new.bias, self.bias)
        return [new]

    @property
    def derived_bytes(self) -> int:
        """Bytes of arrays that a built layer makes from its seed, beside its variables."""
        return 0

    @property
    def prunable(self) -> list:
        """The variables that a pruner may zero."""
        return []

    @classmethod
    def from_layer(
        cls,
        layer: keras.layers.Layer,
        metric: Metric = None,
        kernel: np.ndarray | None = None,
        **options: Any,
    ) -> "CompressedLayer":
        """Makes the compressed layer from an ordinary one, with its name, dtype policy and bias.

        Args:
            layer: an instance of `ordinary` or a compressed layer of the same form. If it is not
                built yet, neither is the result.
            metric: see `fit_kernel`.
            kernel: the kernel to approximate, instead of the layer's own.
            **options: of the method.

        Raises:
            ValueError: the layer cannot be taken; the message tells why.
        """
        arguments = cls.arguments_from(layer)
        if not layer.built:
            new = cls(**arguments, **options, trainable=layer.trainable)
            new.supports_masking = layer.supports_masking
            return new
        w = to_numpy(kernel_of(layer)) if kernel is None else np.asarray(kernel)
        if not np.all(np.isfinite(w)):
            raise ValueError(f"The kernel of layer {layer.name!r} holds NaN or infinite values.")
        new = cls(**arguments, **cls.resolve(w.shape, w=w, metric=metric, **options))
        new._waits_for_kernel = True
        new.build((layer.get_build_config() or {}).get("input_shape"))
        new.fit_kernel(w, metric)
        take_over(layer, new)
        return new

    @classmethod
    def arguments_from(cls, layer: keras.layers.Layer) -> Config:
        """The arguments that are the layer's own; `ValueError` if the layer cannot be taken."""
        refuse(cls, layer)
        names = {} if isinstance(layer, CompressedLayer) else cls.ordinary_names
        found = {n: getattr(layer, names.get(n, n)) for n in (*cls.arguments, *cls.common)}
        return found | {"name": layer.name, "dtype": layer.dtype_policy}

    @classmethod
    def takes(cls, layer: keras.layers.Layer) -> bool:
        """Whether a layer is an `ordinary` one or a compressed form."""
        return cls.ordinary in (type(layer), getattr(layer, "ordinary", None))

    @classmethod
    def using(cls, **options: Any) -> Maker:
        """A maker for `tfcompress.swap`: the class with its options, to be called with a layer."""
        if unknown := set(options) - set(cls.options):
            raise TypeError(
                f"{cls.__name__} has no option {sorted(unknown)}. Its options: {cls.options}"
            )
        return Maker(cls, options)

    def build(self, input_shape: InputShape) -> None:
        shape = self.kernel_shape(input_shape)
        self.build_kernel(shape)
        if self.kernel_regularizer is not None:
            # Of a variable, and not by `add_loss`, which cannot leave a loop over time steps.
            part = next(v for v in self.parts.values() if v.trainable)
            part.regularizer = OfWholeKernel(self)
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=self.bias_shape(input_shape),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=self.min_ndim, axes={-1: input_shape[-1]})
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        outputs = self.apply_kernel(inputs, training)
        if self.bias is not None:
            outputs = ops.add(outputs, ops.cast(self.bias, outputs.dtype))
        return self.activation(outputs)

    def pack(self) -> dict[str, Packed]:
        """The stored arrays as bytes; `tfcompress.numerics.codecs.unpack` is the exact inverse."""
        return {name: pack(array) for name, array in self.stored().items()}

    @property
    def bits(self) -> int:
        """Stored size of the kernel in bits, without the bias."""
        return sum(packed.bits for packed in self.pack().values())

    def add_part(
        self, name: str, shape: Shape, initializer: Initializer, **kwargs: Any
    ) -> keras.Variable:
        """Adds a part, which keeps the variable dtype whatever the compute dtype."""
        initializer = undrawn(initializer) if self._waits_for_kernel else initializer
        # Rounding a part to float16 would change the kernel: the kernel is cast once, as a whole.
        self.parts[name] = self.add_weight(
            name=name, shape=shape, initializer=initializer, autocast=False, **kwargs
        )
        return self.parts[name]

    def positions(self, input_shape: InputShape) -> int:
        """How often the kernel is applied to one sample."""
        return positions(self.compute_output_shape(input_shape)[1:-1])

    def bias_shape(self, input_shape: InputShape) -> tuple[int, ...]:
        return self.kernel_shape(input_shape)[-1:]

    def variance(self, kernel_shape: Shape) -> float:
        """Variance of the entries of a fresh kernel."""
        return glorot_variance(kernel_shape)

    def own_arguments(self) -> dict:
        return {name: getattr(self, name) for name in self.arguments}

    def ordinary_arguments(self) -> dict:
        """The constructor arguments of the ordinary layer."""
        names = (*self.arguments, *self.common)
        return {self.ordinary_names.get(name, name): getattr(self, name) for name in names}

    def method_options(self) -> dict:
        return {name: getattr(self, name) for name in self.options}

    def get_config(self) -> Config:
        common = common_config(self)
        config = super().get_config() | {name: common[name] for name in self.common}
        return config | self.own_arguments() | self.method_options()

    def _check_stored(self, stored, expected):
        if set(stored) != set(expected):
            raise ValueError(f"{self.name!r} stores {sorted(expected)}. Received: {sorted(stored)}")
