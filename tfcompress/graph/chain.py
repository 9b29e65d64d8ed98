"""Several layers in the place of one: as calls of their own in a graph, or else as one layer."""

from typing import Any

import keras
from keras.src.ops.function import map_graph
from keras.src.ops.node import KerasHistory

from tfcompress.graph import keras_state
from tfcompress.graph.paths import walk
from tfcompress.utils.types import Config, InputShape, Tensor


@keras.saving.register_keras_serializable("tfcompress")
class Chain(keras.layers.Layer):
    """Layers called one after the other, where a model has room for one.

    Args:
        parts: layers, of one input and one output each.
    """

    saves_its_parts = True  # in its own config

    def __init__(self, parts: list[keras.layers.Layer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = list(parts)
        self.supports_masking = all(part.supports_masking for part in parts)
        self.built = all(part.built for part in parts)
        if not any(part.trainable for part in parts):
            self.trainable = False

    def build(self, input_shape: InputShape) -> None:
        for part in self.parts:
            if not part.built:
                part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)

    def call(self, inputs: Tensor) -> Any:
        for part in self.parts:
            inputs = part(inputs)
        return inputs

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The mask that the first part makes of its inputs; the others pass it on."""
        return self.parts[0].compute_mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape: InputShape) -> InputShape:
        for part in self.parts:
            input_shape = part.compute_output_shape(input_shape)
        return input_shape

    def get_config(self) -> Config:
        parts = [keras.saving.serialize_keras_object(part) for part in self.parts]
        return {**super().get_config(), "parts": parts}

    @classmethod
    def from_config(cls, config: Config) -> Any:
        parts = [keras.saving.deserialize_keras_object(part) for part in config["parts"]]
        return cls(**{**config, "parts": parts})


def open_chain(chain: Any, models: list[keras.Model]) -> None:
    """Makes the parts of a chain calls of their own in the graphs that call it.

    Args:
        chain: a `Chain` in graphs.
        models: the Functional and Sequential models that may hold it; they are changed.
    """
    calls, leaving = list(chain._inbound_nodes), list(chain._outbound_nodes)
    for node in calls:
        replace_call(node, chain.parts)
    vars(chain.parts[-1])["_outbound_nodes"] = leaving
    for model in models:
        if any(layer is chain for layer in getattr(model, "_operations", ())):
            rebuild_graph(model)
        if any(layer is chain for layer in getattr(model, "_layers", ())):
            replace_in_list(chain, chain.parts, model)
        flags = vars(model).get("_compiled_trainable_state", {})  # by layers, as of `compile`
        if chain in flags:
            flags.update(dict.fromkeys(chain.parts, flags.pop(chain)))


def rebuild_graph(graph: Any) -> None:
    """Lists the calls of a graph anew, from its inputs and outputs, after calls have changed."""
    found = map_graph(graph._inputs, graph._outputs)
    names = ("_nodes", "_nodes_by_depth", "_operations", "_operations_by_depth")
    for name, value in zip(names, found, strict=True):
        object.__setattr__(graph, name, value)
    keras_state.track_operations(graph)


def replace_call(node: Any, parts: Any) -> None:
    """Calls layers one after the other in the place of one call of a graph.

    The last output stays the symbolic tensor that it was, for all that refers to it.
    """
    for tensor in node.input_tensors:
        made_by = tensor._keras_history.operation
        vars(made_by)["_outbound_nodes"] = [n for n in made_by._outbound_nodes if n is not node]
    x = parts[0](*node.arguments.args, **node.arguments.kwargs)
    for part in parts[1:]:
        x = part(x)
    last = parts[-1]
    new = last._inbound_nodes[-1]
    new.outputs = list(node.outputs)
    new.outputs[0]._keras_history = KerasHistory(last, len(last._inbound_nodes) - 1, 0)


def replace_in_list(layer: keras.layers.Layer, parts: Any, owner: Any) -> None:
    """Puts layers in the place of one in the list of layers that a model tracks."""
    listed = {id(x): x for x in (owner._layers, owner._tracker.config["layers"][1])}
    for layers in listed.values():
        if any(x is layer for x in layers):
            new = [y for x in layers for y in (parts if x is layer else [x])]
            list.__setitem__(layers, slice(None), new)
    keras_state.renew_keys(owner._tracker)


def unchained(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers of `walk` with the parts of each `Chain` as if they stood in its place."""
    found = {}
    for path, (layer, owner) in walk(model).items():
        if isinstance(owner, Chain):
            path = "/".join([*path.split("/")[:-2], layer.name])
        if not isinstance(layer, Chain):
            found[path] = layer
    return found
