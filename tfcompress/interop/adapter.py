"""A compressed layer inside a tf_keras model."""

import functools
import json
from typing import Any

import keras
import numpy as np

from tfcompress.interop.packages import load
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Config, InputShape, Tensor

VARIABLE_PREFIX = "part_"


@functools.cache
def adapter_class() -> type:
    """The class of adapters. It is made on demand: its bases need tf_keras."""
    packages = load()
    bases = (Adapter, packages.tf_keras.layers.Layer)
    cls = type("CompressedAdapter", (*bases, packages.PrunableLayer, packages.ClusterableLayer), {})
    return packages.tf_keras.utils.register_keras_serializable("tfcompress")(cls)


class Adapter:
    """Runs a compressed layer on variables of tf_keras, which its optimizers and wrappers change.

    The variables that may be pruned are offered to pruning and clustering, and as weights to
    quantization-aware training. Wrappers replace these attributes by other tensors.

    Args:
        layer: a built `tfcompress.layers.CompressedLayer`, or its config as JSON.
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        if isinstance(layer, str):
            layer = keras.saving.deserialize_keras_object(json.loads(layer))
        kwargs = {"dtype": layer.dtype_policy.name, "trainable": layer.trainable, **kwargs}
        super().__init__(**{"name": layer.name, **kwargs})
        object.__setattr__(self, "inner", layer)  # tf_keras must not find its variables

    def build(self, input_shape: InputShape) -> None:
        for variable in self.inner.variables:
            value = to_numpy(variable)
            part = self.add_weight(
                name=VARIABLE_PREFIX + variable.name,
                shape=variable.shape,
                dtype=variable.dtype,
                initializer=lambda shape, dtype, value=value: load().tf.constant(value, dtype),
                trainable=variable.trainable,
                constraint=getattr(variable, "constraint", None),
                experimental_autocast=False,
            )
            setattr(self, VARIABLE_PREFIX + variable.name, part)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        inner = self.inner
        trainable, others = (
            [getattr(self, VARIABLE_PREFIX + variable.name) for variable in variables]
            for variables in (inner.trainable_variables, inner.non_trainable_variables)
        )
        others = [load().tf.convert_to_tensor(value) for value in others]
        outputs, states, losses = inner.stateless_call(
            [load().tf.convert_to_tensor(value) for value in trainable],
            others,
            inputs,
            training=bool(training) if isinstance(training, (bool, int)) else False,
            return_losses=True,
        )
        for variable, before, after in zip(
            inner.non_trainable_variables, others, states, strict=True
        ):
            if after is not before:  # such as the state of a random generator
                getattr(self, VARIABLE_PREFIX + variable.name).assign(after)
        self.add_loss(losses)
        return outputs

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        return load().tf.TensorShape(self.inner.compute_output_shape(tuple(input_shape)))

    @property
    def offered(self) -> list[str]:
        """The names of the attributes whose variables wrappers may change."""
        return [VARIABLE_PREFIX + variable.name for variable in self.inner.prunable]

    def get_prunable_weights(self) -> list[Any]:
        return [getattr(self, name) for name in self.offered]

    def get_clusterable_weights(self) -> list[Any]:
        return [(name, getattr(self, name)) for name in self.offered]

    def restored(self, values: Tensor = ()) -> keras.layers.Layer:
        """A copy of the compressed layer; `values` has other values for some attributes."""
        new = type(self.inner).from_config(self.inner.get_config())
        new.build(self.inner.get_build_config()["input_shape"])
        values = dict(values)
        for variable in new.variables:
            name = VARIABLE_PREFIX + variable.name
            variable.assign(np.asarray(values.get(name, getattr(self, name))))
        return new

    def get_config(self) -> Config:
        layer = json.dumps(keras.saving.serialize_keras_object(self.inner))
        return super().get_config() | {"layer": layer}
