"""A copy of any Keras model, in which some layers may be replaced."""

import collections
import copy
import enum
import inspect
import types
from typing import Any

import keras
import numpy as np

from tfcompress.graph import keras_state
from tfcompress.graph.chain import Chain, open_chain
from tfcompress.graph.containers import MAKERS, owns
from tfcompress.graph.private_training import strategy_scope

SHARED = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type,
    enum.Enum,
    inspect.Signature,
    np.dtype,
    np.generic,
    types.BuiltinFunctionType,
    types.CodeType,
    types.ModuleType,
)


def copied(model: keras.Model, replacements: dict | None = None) -> Any:
    """Copies a model or layer of any kind with all that it holds, and replaces layers in the copy.

    The copy has the same class, names, paths, weights (in every bit), states and flags, and shares
    no variable with the original. It is not compiled. No layer is called or made from its config.
    Functions and other things that cannot change are shared. Memory: that of one more model.

    Args:
        model: a `keras.Model` or `keras.layers.Layer`.
        replacements: `{layer of the model, at any depth: layer or list of layers}`. The new layer
            stands wherever the old one stood: in graphs, attributes, lists, dicts, and at each use
            of a shared layer. It is not copied. Layers in a list are called one after the other:
            in a Functional or Sequential model each is a layer of its own; where an attribute holds
            the old layer, a `Chain` holds them.

    Returns:
        The copy.

    Raises:
        TypeError: `model` is neither a model nor a layer; a replacement is no layer.
        ValueError: an attribute can neither be copied nor shared; a layer to replace is not in the
            model; a new layer holds a part of the model.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="fc")])
    >>> new = copied(model, {model.get_layer("fc"): keras.layers.Dense(2, use_bias=False)})
    >>> [len(layer.weights) for layer in (model.get_layer("fc"), new.layers[0])]
    [2, 0]
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"Expected a Keras model or layer. Received: {model!r}")
    with strategy_scope(model):
        return _Copy(replacements or {}).of(model)


def shadow(model: Any) -> tuple[Any, dict[int, Any]]:
    """A copy of a model or layer whose objects are its own and whose variables are the model's.

    Returns:
        The copy, and `{id of an object of the model: its copy}`.
    """
    making = _Copy({})
    for variable in model.variables:
        making.keep(variable, variable)
    return making.of(model), making.memo


class _Copy:
    """One copy in the making.

    Whatever can hold other things is made empty at first and filled later, from a queue: so
    cycles close, and no depth of a graph is a depth of calls.
    """

    def __init__(self, replacements):
        self.operations = [(old, as_layer(old, new)) for old, new in replacements.items()]
        self.replaced = {id(old): old for old in replacements}
        made = [old for old, new in self.operations if new is not replacements[old]]
        self.listed = {id(old) for old in made if len(replacements[old]) > 1}
        self.memo = {id(old): new for old, new in self.operations}
        self.held = set()  # of those, what an attribute holds
        self.tensors, self.variables, self.made, self.originals = [], [], [], []
        self.queue = collections.deque()
        self.found = set()
        self.place = (None, ())

    def of(self, model):
        new = self.one(model)
        while self.queue:
            fill, old, copy_of_it, place = self.queue.popleft()
            fill(self, old, copy_of_it, place)
        self._check()
        keras_state.connect(self.operations, self.memo)
        keras_state.place_tensors(self.tensors, self.memo)
        for old, made in self.made:
            keras_state.renew_keys(made)
            keras_state.renew_variable_keys(old, made, self.variables)
            keras_state.forget_training(made)
        graphs = [made for _, made in self.made if hasattr(made, "_layers")]
        for old in self.listed - self.held:
            open_chain(self.memo[old], graphs)
        return new

    def one(self, x):
        """The copy of one thing, perhaps still empty; the thing itself if it cannot change."""
        if id(x) in self.memo:
            if id(x) in self.replaced:
                self.found.add(id(x))
                if not keras_state.is_graph_place(self.place[0], self.place[1][0]):
                    self.held.add(id(x))
            return self.memo[id(x)]
        if isinstance(x, SHARED):
            return x
        if isinstance(x, keras.Variable):
            return self.later(_Copy._variable, x, object.__new__(type(x)))
        for kinds, make in MAKERS.items():
            if isinstance(x, kinds):
                return make(self, x)
        try:
            of_backend, new = keras_state.backend_copy(x)
            if of_backend:
                if new is x and owns(x, set()):
                    raise TypeError("it was compiled with parts of the original")
                return self.keep(x, new)
            if keras_state.is_traced(x):
                return self.keep(x, x._clone(self.one(x.python_function)))
            if not keras_state.is_plain(type(x)):
                return self.keep(x, copy.deepcopy(x))
            new = keras_state.empty(x)
        except Exception as error:
            self._refuse(x, error)
        if isinstance(x, keras.Operation):
            self.operations.append((x, new))
        if keras_state.is_symbolic(x):
            self.tensors.append((x, new))
        self.made.append((x, new))
        return self.later(_Copy._attributes, x, new)

    def keep(self, x, new):
        self.originals.append(x)  # alive, so that no other object gets its id
        self.memo[id(x)] = new
        return new

    def later(self, fill, x, new):
        self.queue.append((fill, x, new, self.place))
        return self.keep(x, new)

    def at(self, place, key, x):
        """The copy of what an object holds under a key."""
        self.place = (place[0], (*place[1], key))
        return self.one(x)

    def _attributes(self, x, new, place):
        if isinstance(x, keras.layers.Layer):
            place = (x, ())
        for name, value in keras_state.attributes(x).items():
            keras_state.put(new, name, self.at(place, name, value))

    def _variable(self, x, new, place):
        for name, value in vars(x).items():
            if name != "_value":
                vars(new)[name] = self.at(place, name, value)
        keras_state.new_value(x, new)
        self.variables.append((x, new))

    def _refuse(self, x, error):
        layer, keys = self.place
        raise ValueError(
            f"Attribute `{'.'.join(map(str, keys))}` of layer {layer.name!r} of class "
            f"{type(layer).__name__} can neither be copied nor shared: {error}. Received: {x!r} of "
            f"type {type(x)}. Set it to None before, or give its class a `__deepcopy__`."
        ) from error

    def _check(self):
        for i, old in self.replaced.items():
            if i not in self.found:
                raise ValueError(f"Layer {old.name!r} is not a part of the model: it has no place.")
            parts = self.memo[i]._flatten_layers()
            held = [part for part in parts if id(part) in self.memo and part.variables]
            if held:
                raise ValueError(
                    f"The layer that replaces {old.name!r} holds '{held[0].name}', a part of the "
                    "original. Expected a layer of its own: copy the part first."
                )


def as_layer(old: keras.layers.Layer, new: Any) -> keras.layers.Layer:
    """The layer that takes the place of another, of the layer or list that was given."""
    if isinstance(new, keras.layers.Layer):
        return new
    parts = list(new) if isinstance(new, (list, tuple)) else []
    if not parts or not all(isinstance(part, keras.layers.Layer) for part in parts):
        raise TypeError(
            f"Expected a layer or a list of layers in the place of {old.name!r}. Received: {new!r}"
        )
    return parts[0] if len(parts) == 1 else Chain(parts, name=old.name)
