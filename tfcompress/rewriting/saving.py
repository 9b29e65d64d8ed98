"""Composite layers and subclassed models with replaced parts, saved and read back by Keras.

The class of such a layer makes its ordinary parts again, whatever stands in their places now. So an
owner of replaced parts gets a class of its own, made of its class and the mixin `Swapped`: its
config is the plain owner's, and that of each replaced part with its address. An address is made of
attribute names, indices and keys, as in `"blocks/0/attention/_query_dense"`: they are the same each
time that the class makes its parts, while automatic names of layers are not.
"""

from typing import Any

import keras

from tfcompress.graph.addresses import addresses, held_layers
from tfcompress.graph.private_keras import compute_output_spec, layers_in
from tfcompress.graph.private_saving import (
    class_config,
    default_like,
    has_graph_config,
    register_under,
)
from tfcompress.graph.replace import replace_in_place
from tfcompress.rewriting.preset_saving import SWAPPED, save_preset
from tfcompress.utils.types import Config

_CLASSES: dict[type, type] = {}  # a class and its subclass that is `Swapped`


def mark_owners(model: Any, placed: set[int]) -> None:
    """Gives each layer or model around replaced parts the class that saves them.

    Args:
        model: changed in place.
        placed: ids of the replaced parts.
    """
    _mark(model, placed, {})


def _mark(owner, placed, known) -> bool:
    """Marks an owner and those that it holds; returns whether it holds replaced parts."""
    if id(owner) not in known:
        known[id(owner)] = False  # a part that holds its owner
        below = [id(part) in placed or _mark(part, placed, known) for _, part in held_layers(owner)]
        known[id(owner)] = any(below) or isinstance(owner, Swapped)
        if known[id(owner)] and not _saves_its_parts(owner):
            before = vars(owner).get("_replaced_parts", ())
            found = [
                address
                for address, part in addresses(owner, before, placed)
                if address in before or id(part) in placed
            ]
            owner.__class__ = swapped_class(type(owner))
            object.__setattr__(owner, "_replaced_parts", tuple(found))
    return known[id(owner)]


def _saves_its_parts(owner):
    return has_graph_config(owner) or getattr(owner, "saves_its_parts", False)


def unmark_owners(model: Any, restored: set[int]) -> None:
    """Takes from owners what `mark_owners` gave them for parts that again are those of their class.

    Args:
        model: changed in place.
        restored: ids of these parts.
    """
    for owner in layers_in(model):
        if isinstance(owner, Swapped):
            there = dict(addresses(owner, owner._replaced_parts))
            kept = tuple(a for a in owner._replaced_parts if id(there[a]) not in restored)
            object.__setattr__(owner, "_replaced_parts", kept)
            if not kept:
                owner.__class__ = owner._plain


def swapped_class(kind: type) -> type:
    """The subclass of a class of layers or models that saves its replaced parts."""
    if issubclass(kind, Swapped):
        return kind
    if kind not in _CLASSES:

        def get_config(self):
            return Swapped.get_config(self)

        names = {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "_plain": kind,
            "get_config": default_like(get_config, kind.get_config),
        }
        if hasattr(kind, "save_to_preset"):
            names["save_to_preset"] = save_preset
        _CLASSES[kind] = type(kind.__name__, (Swapped, kind), names)
        register_under(_CLASSES[kind], SWAPPED)
    return _CLASSES[kind]


def give_parts(owner: Any, configs: dict[str, Config]) -> None:
    """Puts layers made from configs in the places of an owner's ordinary parts.

    Args:
        owner: a layer or model of an ordinary class; parts that it has not made yet, as those of a
            layer that is not built, are replaced once it has made them.
        configs: `{address: config}`.
    """
    owner.__class__ = swapped_class(type(owner))
    object.__setattr__(owner, "_replaced_parts", tuple(configs))
    object.__setattr__(owner, "_parts_to_place", configs)
    if owner.built:  # as the graph of a Functional model is
        owner.place_parts()


@keras.saving.register_keras_serializable("tfcompress")
class Swapped:
    """A composite layer or model some of whose parts were replaced.

    Mixed into the owner's own class by `swapped_class`. `_replaced_parts` has the addresses.
    """

    _plain: type
    _replaced_parts: tuple[str, ...] = ()

    def get_config(self) -> Config:
        there = dict(addresses(self, self._replaced_parts))
        parts = {
            address: keras.saving.serialize_keras_object(there[address])
            for address in self._replaced_parts
        }
        config = self._plain.get_config(self)
        return {"composite": class_config(self._plain, config), "parts": parts}

    @classmethod
    def from_config(cls, config: Config) -> Any:
        """The owner with its ordinary parts; `build_from_config` replaces them once they exist."""
        owner = keras.saving.deserialize_keras_object(config["composite"])
        give_parts(owner, config["parts"])
        return owner

    def build_from_config(self, config: Config) -> None:
        super().build_from_config(config)
        there = dict(addresses(self, vars(self).get("_parts_to_place", ())))
        absent = vars(self).get("_parts_to_place", {}).keys() - there
        if not absent or all(part.built for part in there.values()):
            self.place_parts()

    def __call__(self, *args, **kwargs):
        if "_parts_to_place" in vars(self):  # some parts are made when their owner is called
            compute_output_spec(super().__call__, *args, **kwargs)
            self.place_parts()
        return super().__call__(*args, **kwargs)

    def place_parts(self) -> None:
        """Puts the parts of the config in the places of the ordinary ones."""
        configs = vars(self).pop("_parts_to_place", None)
        if not configs:
            return
        there = dict(addresses(self, configs))
        absent = [address for address in configs if address not in there]
        if absent:
            raise ValueError(
                f"{self.name!r} of class {type(self).__name__} was saved with other layers at "
                f"{absent}, and it has none there now. Its class makes other parts than it did "
                "when the file was written."
            )
        parts = {a: keras.saving.deserialize_keras_object(c) for a, c in configs.items()}
        # Keras reads an object that two owners share once, so that it may be in its place already.
        new = {there[a]: part for a, part in parts.items() if there[a] is not part}
        replace_in_place(self, new)
        mark_owners(self, {id(part) for part in parts.values()})
