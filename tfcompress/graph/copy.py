"""A copy of any Keras model, in which some layers may be replaced."""

import collections
import copy
import enum
import functools
import inspect
import types
import weakref

import keras
import numpy as np

from tfcompress.graph import keras_state

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
OWNED = (keras.Operation, keras.Variable, keras.Metric, keras.random.SeedGenerator)


def copied(model, replacements: dict | None = None):
    """Copies a model or layer of any kind with all that it holds, and replaces layers in the copy.

    The copy has the same class, names, paths, weights (in every bit), states and flags, and shares
    no variable with the original. It is not compiled. No layer is called or made from its config.
    Functions and other things that cannot change are shared. Memory: that of one more model.

    Args:
        model: a `keras.Model` or `keras.layers.Layer`.
        replacements: `{layer of the model, at any depth: layer}`. The new layer stands wherever the
            old one stood: in graphs, attributes, lists, dicts, and at each use of a shared layer.
            It is not copied.

    Returns:
        The copy.

    Raises:
        TypeError: `model` is neither a model nor a layer.
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
    return _Copy(replacements or {}).of(model)


class _Copy:
    """One copy in the making.

    Whatever can hold other things is made empty at first and filled later, from a queue: so
    cycles close, and no depth of a graph is a depth of calls.
    """

    def __init__(self, replacements):
        self.replaced = {id(old): old for old in replacements}
        self.memo = {id(old): new for old, new in replacements.items()}
        self.operations = list(replacements.items())
        self.tensors, self.made, self.originals = [], [], []
        self.queue = collections.deque()
        self.found = set()
        self.place = (None, ())

    def of(self, model):
        new = self.one(model)
        while self.queue:
            fill, old, copy_of_it, place = self.queue.popleft()
            fill(old, copy_of_it, place)
        self._check()
        keras_state.connect(self.operations, self.memo)
        keras_state.place_tensors(self.tensors, self.memo)
        for made in self.made:
            keras_state.renew_keys(made, self.memo)
            keras_state.forget_training(made)
        return new

    def one(self, x):
        """The copy of one thing, perhaps still empty; the thing itself if it cannot change."""
        if id(x) in self.memo:
            if id(x) in self.replaced:
                self.found.add(id(x))
            return self.memo[id(x)]
        if isinstance(x, SHARED):
            return x
        if isinstance(x, keras.Variable):
            return self._later(self._variable, x, object.__new__(type(x)))
        for kinds, make in self.CONTAINERS.items():
            if isinstance(x, kinds):
                return make(self, x)
        try:
            of_backend, new = keras_state.backend_copy(x)
            if of_backend:
                return self._keep(x, new)
            if keras_state.is_traced(x):
                return self._keep(x, x._clone(self.one(x.python_function)))
            if not keras_state.is_plain(type(x)):
                return self._keep(x, copy.deepcopy(x))
            new = keras_state.empty(x)
        except Exception as error:
            self._refuse(x, error)
        if isinstance(x, keras.Operation):
            self.operations.append((x, new))
        if keras_state.is_symbolic(x):
            self.tensors.append((x, new))
        self.made.append(new)
        return self._later(self._attributes, x, new)

    def _keep(self, x, new):
        self.originals.append(x)  # alive, so that no other object gets its id
        self.memo[id(x)] = new
        return new

    def _later(self, fill, x, new):
        self.queue.append((fill, x, new, self.place))
        return self._keep(x, new)

    def _at(self, place, key, x):
        """The copy of what an object holds under a key."""
        self.place = (place[0], (*place[1], key))
        return self.one(x)

    def _attributes(self, x, new, place):
        if isinstance(x, keras.layers.Layer):
            place = (x, ())
        for name, value in keras_state.attributes(x).items():
            keras_state.put(new, name, self._at(place, name, value))

    def _variable(self, x, new, place):
        for name, value in vars(x).items():
            if name != "_value":
                vars(new)[name] = self._at(place, name, value)
        keras_state.new_value(x, new)

    def _dict(self, x, new, place):
        self._extras(x, new, place)
        kind = collections.OrderedDict if isinstance(x, collections.OrderedDict) else dict
        x, new = keras_state.inside(x), keras_state.inside(new)
        for key, value in kind.items(x):
            kind.__setitem__(new, self._at(place, key, key), self._at(place, key, value))

    def _list(self, x, new, place):
        self._extras(x, new, place)
        kind = collections.deque if isinstance(x, collections.deque) else list
        for index, value in enumerate(kind.__iter__(x)):  # TensorFlow's lists have two contents
            kind.append(new, self._at(place, index, value))

    def _set(self, x, new, place):
        self._extras(x, new, place)
        for value in x:
            set.add(new, self._at(place, "{}", value))

    def _extras(self, x, new, place):
        for name, value in getattr(x, "__dict__", {}).items():
            vars(new)[name] = self._at(place, name, value)

    def _new_dict(self, x):
        plain = keras_state.inside(x)
        new = type(plain).__new__(type(plain))
        if isinstance(plain, collections.defaultdict):
            new.default_factory = self.one(plain.default_factory)
        return self._later(self._dict, x, new if plain is x else type(x)(new))

    def _new_list(self, x):
        new = collections.deque(maxlen=x.maxlen) if type(x) is collections.deque else None
        return self._later(self._list, x, type(x).__new__(type(x)) if new is None else new)

    def _new_set(self, x):
        return self._later(self._set, x, type(x).__new__(type(x)))

    def _tuple(self, x):
        place = self.place
        if keras_state.inside(x) is not x:
            return self._keep(x, type(x)(self._tuple(keras_state.inside(x))))
        values = [self._at(place, index, value) for index, value in enumerate(x)]
        same = all(value is old for value, old in zip(values, x, strict=True))
        kind = tuple if isinstance(x, tuple) else frozenset
        return x if same else self._keep(x, kind.__new__(type(x), values))

    def _array(self, x):
        new = self._keep(x, x.copy())
        if x.dtype == object:
            place = self.place
            for index, value in np.ndenumerate(x):
                new[index] = self._at(place, index, value)
        return new

    def _method(self, x):
        owner = self.one(x.__self__)
        if type(owner) is type(x.__self__):
            return types.MethodType(x.__func__, owner)
        return getattr(owner, x.__name__)  # of the layer that replaces the owner

    def _partial(self, x):
        place = self.place
        keywords = {name: self._at(place, name, value) for name, value in x.keywords.items()}
        return self._keep(x, functools.partial(self.one(x.func), *self.one(x.args), **keywords))

    def _function(self, x):
        """Functions are shared, but for those that reach layers or variables in their closure."""
        if not _owns(x, set()):
            return x
        place, cells = self.place, [types.CellType() for _ in x.__closure__ or ()]
        names = x.__code__.co_freevars
        new = types.FunctionType(x.__code__, x.__globals__, x.__name__, None, tuple(cells))
        self._keep(x, new)
        for name, old, cell in zip(names, x.__closure__ or (), cells, strict=True):
            if _filled(old):
                cell.cell_contents = self._at(place, name, old.cell_contents)
        new.__defaults__ = self.one(x.__defaults__)
        new.__kwdefaults__ = self.one(x.__kwdefaults__)
        new.__qualname__, new.__module__, new.__doc__ = x.__qualname__, x.__module__, x.__doc__
        self._extras(x, new, place)
        return new

    def _weak(self, x):
        return x if x() is None else weakref.ref(self.one(x()))

    def _refuse(self, x, error):
        layer, keys = self.place
        raise ValueError(
            f"Attribute `{'.'.join(map(str, keys))}` of layer '{layer.name}' of class "
            f"{type(layer).__name__} can neither be copied nor shared: {error}. Received: {x!r} of "
            f"type {type(x)}. Set it to None before, or give its class a `__deepcopy__`."
        ) from error

    def _check(self):
        for i, old in self.replaced.items():
            if i not in self.found:
                raise ValueError(f"Layer '{old.name}' is not a part of the model: it has no place.")
            parts = self.memo[i]._flatten_layers()
            held = [part for part in parts if id(part) in self.memo and part.variables]
            if held:
                raise ValueError(
                    f"The layer that replaces '{old.name}' holds '{held[0].name}', a part of the "
                    "original. Expected a layer of its own: copy the part first."
                )

    CONTAINERS = {  # noqa: RUF012
        types.FunctionType: _function,
        types.MethodType: _method,
        functools.partial: _partial,
        weakref.ref: _weak,
        dict: _new_dict,
        (list, collections.deque): _new_list,
        set: _new_set,
        (tuple, frozenset): _tuple,
        np.ndarray: _array,
    }


def _owns(x, seen) -> bool:
    """Whether a function, or what it holds, reaches a layer, variable, metric or seed generator."""
    if isinstance(x, SHARED) or id(x) in seen:
        return False
    seen.add(id(x))
    if isinstance(x, OWNED):
        return True
    if isinstance(x, types.FunctionType):
        cells = [cell.cell_contents for cell in x.__closure__ or () if _filled(cell)]
        held = [*cells, x.__defaults__, x.__kwdefaults__, vars(x)]
    elif isinstance(x, types.MethodType):
        held = [x.__self__, x.__func__]
    elif isinstance(x, functools.partial):
        held = [x.func, x.args, x.keywords]
    elif isinstance(x, dict):
        held = x.values()
    elif isinstance(x, (list, tuple, set, frozenset)):
        held = x
    else:
        held = [x.__wrapped__] if hasattr(x, "__wrapped__") else []
    return any(_owns(value, seen) for value in held)


def _filled(cell) -> bool:
    try:
        cell.cell_contents
    except ValueError:  # of a name that was never bound
        return False
    return True
