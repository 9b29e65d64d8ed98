"""Containers, functions and arrays in a copy: made empty or of copies.

`copy` is the copy in the making: `one(x)` is the copy of a thing, `at(place, key, x)` of what lies
under a key, `keep(x, new)` remembers one, and `later(fill, x, new)` has an empty one filled.
"""

import collections
import functools
import types
import weakref
from typing import Any

import keras
import numpy as np

from tfcompress.graph import keras_state

OWNED = (keras.Operation, keras.Variable, keras.Metric, keras.random.SeedGenerator)


def _dict(copy, x, new, place):
    _extras(copy, x, new, place)
    kind = collections.OrderedDict if isinstance(x, collections.OrderedDict) else dict
    x, new = keras_state.inside(x), keras_state.inside(new)
    for key, value in kind.items(x):
        kind.__setitem__(new, copy.at(place, key, key), copy.at(place, key, value))


def _list(copy, x, new, place):
    _extras(copy, x, new, place)
    kind = collections.deque if isinstance(x, collections.deque) else list
    for index, value in enumerate(kind.__iter__(x)):  # TensorFlow's lists have two contents
        kind.append(new, copy.at(place, index, value))


def _set(copy, x, new, place):
    _extras(copy, x, new, place)
    for value in x:
        set.add(new, copy.at(place, "{}", value))


def _extras(copy, x, new, place):
    for name, value in getattr(x, "__dict__", {}).items():
        vars(new)[name] = copy.at(place, name, value)


def _new_dict(copy, x):
    plain = keras_state.inside(x)
    new = type(plain).__new__(type(plain))
    if isinstance(plain, collections.defaultdict):
        new.default_factory = copy.one(plain.default_factory)
    return copy.later(_dict, x, new if plain is x else type(x)(new))


def _new_list(copy, x):
    new = collections.deque(maxlen=x.maxlen) if type(x) is collections.deque else None
    return copy.later(_list, x, type(x).__new__(type(x)) if new is None else new)


def _new_set(copy, x):
    return copy.later(_set, x, type(x).__new__(type(x)))


def _tuple(copy, x):
    place = copy.place
    if keras_state.inside(x) is not x:
        return copy.keep(x, type(x)(_tuple(copy, keras_state.inside(x))))
    values = [copy.at(place, index, value) for index, value in enumerate(x)]
    same = all(value is old for value, old in zip(values, x, strict=True))
    kind = tuple if isinstance(x, tuple) else frozenset
    return x if same else copy.keep(x, kind.__new__(type(x), values))


def _array(copy, x):
    new = copy.keep(x, x.copy())
    if x.dtype == object:
        place = copy.place
        for index, value in np.ndenumerate(x):
            new[index] = copy.at(place, index, value)
    return new


def _method(copy, x):
    owner = copy.one(x.__self__)
    if type(owner) is type(x.__self__):
        return types.MethodType(x.__func__, owner)
    return getattr(owner, x.__name__)  # of the layer that replaces the owner


def _partial(copy, x):
    place = copy.place
    keywords = {name: copy.at(place, name, value) for name, value in x.keywords.items()}
    return copy.keep(x, functools.partial(copy.one(x.func), *copy.one(x.args), **keywords))


def _function(copy, x):
    """Functions are shared, but for those that reach layers or variables in their closure."""
    if not owns(x, set()):
        return x
    place, cells = copy.place, [types.CellType() for _ in x.__closure__ or ()]
    names = x.__code__.co_freevars
    new = types.FunctionType(x.__code__, x.__globals__, x.__name__, None, tuple(cells))
    copy.keep(x, new)
    for name, old, cell in zip(names, x.__closure__ or (), cells, strict=True):
        if _filled(old):
            cell.cell_contents = copy.at(place, name, old.cell_contents)
    new.__defaults__ = copy.one(x.__defaults__)
    new.__kwdefaults__ = copy.one(x.__kwdefaults__)
    new.__qualname__, new.__module__, new.__doc__ = x.__qualname__, x.__module__, x.__doc__
    _extras(copy, x, new, place)
    return new


def _weak(copy, x):
    return x if x() is None else weakref.ref(copy.one(x()))


def owns(x: Any, seen: Any) -> bool:
    """Whether a function, or what it holds, reaches a layer, variable, metric or seed generator."""
    if id(x) in seen or isinstance(x, (str, int, float, type(None), type)):
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
    return any(owns(value, seen) for value in held)


def _filled(cell) -> bool:
    """Whether a name in a closure was ever bound."""
    return cell != types.CellType()


MAKERS = {
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
