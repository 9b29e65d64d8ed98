"""Layers of several kernels, each of which is a layer of its own."""

from typing import Any, ClassVar

import keras

from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.utils.arrays import copy_into
from tfcompress.utils.types import Config, InputShape


class OpenedLayer(keras.layers.Layer):
    """A Keras layer of several kernels whose products are layers, ordinary or compressed.

    The parts are attributes, `kernel_layer` for the part `"kernel"`. A subclass derives from this
    class and from the Keras layer, computes in `call` what that one computes, and gives its
    variables (`kernel`, `bias`, ...) as properties.

    Attributes:
        closed_class: of the class, the Keras layer.
        part_names: of the class, the names of the parts.
        variable_names: of the class, the attributes of the Keras layer's variables.
        whose_kernel: of the class, the one of them that the kernel of a part lies in, where that
            has another name than the part.
    """

    closed_class: type
    part_names: tuple[str, ...]
    variable_names: tuple[str, ...]
    whose_kernel: ClassVar = {}
    saves_its_parts = True  # in its own config

    @classmethod
    def from_layer(cls, layer: keras.layers.Layer) -> Any:
        """The opened form of a built Keras layer: the same function, with ordinary parts."""
        new = cls.from_config(cls.config_of(layer) | {"parts": {}})
        new._set_parts(cls.ordinary_parts(layer))
        new.build(cls.shape_of(layer))
        new.trainable = layer.trainable  # for each variable, so before their own flags
        for own, theirs in new._beside(layer):
            own.trainable = theirs.trainable
        return new

    @classmethod
    def opens(cls, layer: keras.layers.Layer) -> bool:
        """Whether a layer of the Keras class has several kernels."""
        return True

    @classmethod
    def ordinary_parts(cls, layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
        """Built ordinary layers with the kernels and biases of a Keras layer, by name."""
        raise TypeError(f"{cls.__name__} must define `ordinary_parts`.")

    @classmethod
    def config_of(cls, layer: keras.layers.Layer) -> Config:
        """The config of a Keras layer, with all arguments that its class needs."""
        return layer.get_config()

    @classmethod
    def shape_of(cls, layer: keras.layers.Layer) -> InputShape:
        """The shape of the inputs that a layer was built for."""
        return layer.get_build_config()["input_shape"]

    @property
    def parts_by_name(self) -> dict[str, keras.layers.Layer]:
        return {
            name: getattr(self, f"{name}_layer")
            for name in self.part_names
            if hasattr(self, f"{name}_layer")
        }

    def closed(self) -> keras.layers.Layer | None:
        """The Keras layer with the kernels of the parts; None if a part is not an ordinary one."""
        parts = self.parts_by_name.values()
        if not all(type(part).__module__.startswith("keras.") for part in parts):
            return None
        config = self.get_config()
        del config["parts"]
        new = self.closed_class.from_config(config)
        new.build(self.get_build_config()["input_shape"])
        for name in self.variable_names:
            if getattr(new, name) is not None:
                copy_into(getattr(new, name), getattr(self, name))
        new.trainable = self.trainable
        pairs = self._beside(new)
        for _, theirs in pairs:
            theirs.trainable = any(_is_trainable(own) for own, same in pairs if same is theirs)
        return new

    def _beside(self, layer):
        """Pairs of a kernel or bias of a part and the variable of the Keras layer that it is of."""
        pairs = []
        for name, part in self.parts_by_name.items():
            pairs.append((kernel_of(part), getattr(layer, self.whose_kernel.get(name, name))))
            if getattr(part, "bias", None) is not None:
                pairs.append((part.bias, layer.bias))
        return pairs

    def _set_parts(self, parts):
        for name, part in parts.items():
            setattr(self, f"{name}_layer", part)

    def get_config(self) -> Config:
        parts = self.parts_by_name.items()
        return super().get_config() | {
            "parts": {name: keras.saving.serialize_keras_object(part) for name, part in parts}
        }

    @classmethod
    def from_config(cls, config: Config) -> Any:
        config = dict(config)
        parts = config.pop("parts")
        new = cls(**config)
        new._set_parts({k: keras.saving.deserialize_keras_object(c) for k, c in parts.items()})
        return new


def _is_trainable(kernel):
    return getattr(kernel, "trainable", True)  # with LoRA factors it is a tensor
