"""Checks of a config that nobody vouches for, before Keras makes anything of it."""

import math
import sys
from collections.abc import Iterable
from typing import Any

import keras

from tfcompress.archive import allowed
from tfcompress.archive.entropy import DTYPES

ARRAYS = {"__tensor__", "__numpy__"}
PLAIN = ARRAYS | {"__bytes__", "__ellipsis__", "__slice__"}
SYMBOLIC = "__keras_tensor__"
KEYS = {"module", "class_name", "config", "registered_name", "build_config", "name"}
KEYS |= {"inbound_nodes", "compile_config", "shared_object_id"}
MOST_ENTRIES = 50_000  # each is an object of some kilobytes
MOST_CALLS = 100_000  # of all of them; NASNet-Large has 3,896


class Checker:
    """Walks a whole config and raises `ValueError` at what may not be in it.

    An entry is a dict with a `class_name`. It must name a layer, an operation without functions, an
    activation, an initializer, a regularizer, a constraint or a dtype policy of Keras by its
    module, or a registered object: a layer of ours, or one among `trusted`. What is looked up is
    what Keras looks up: a function by its `config`, a class by its `registered_name`, and only if
    that is not registered by module and name.

    Args:
        trusted: the names of registered or custom objects that the caller vouches for; None: all.
        max_bytes: of what layers derive from the shapes in their configs when they are made.
    """

    def __init__(self, trusted: Iterable[str] | None = (), max_bytes: int = sys.maxsize) -> None:
        self.trusted = None if trusted is None else frozenset(trusted)
        self.max_bytes = max_bytes
        self.entries, self.derived = 0, 0
        self.calls, self.times = 0, 1  # the second one of what is being checked

    def check(self, value: Any, below_operation: bool = False) -> None:
        """Checks a value of a config; no entry but plain ones may stand below an operation."""
        if isinstance(value, str):
            if is_known(value) and not self._is_trusted(value):
                raise ValueError(f"the name of a registered object, {value!r}, stands for a value")
        elif isinstance(value, list):
            for item in value:
                self.check(item, below_operation)
        elif isinstance(value, dict):
            if "class_name" in value:
                self._entry(value, below_operation)
            else:
                self.check([*value, *value.values()], below_operation)
        elif not (value is None or isinstance(value, int | float)):
            raise ValueError(f"Expected a value of JSON. Received: {value!r}")

    def _entry(self, entry, below_operation):
        self.entries += 1
        if self.entries > MOST_ENTRIES:
            raise ValueError(f"it has more than {MOST_ENTRIES} entries")
        name, config = entry["class_name"], entry.get("config")
        if name in PLAIN:
            self._plain(entry)
            return
        if not isinstance(name, str) or "module" not in entry:
            raise ValueError(f"{name!r} is refused, as it does not name its module")
        if below_operation:
            raise ValueError(f"{name} is refused below an operation, which could call it")
        if unknown := set(entry) - KEYS:
            raise ValueError(f"{name} has unknown keys: {sorted(unknown)}")
        if name == "function":
            self._function(entry)
            return
        if not isinstance(config, dict):
            raise ValueError(f"the config of {name} is none: {type(config).__name__}")
        is_operation, times = self._class(entry), self.times
        # A nested model makes the calls in it each time that it is called.
        self.times *= max(1, len(entry.get("inbound_nodes") or []))
        self.calls += self.times
        if self.calls > MOST_CALLS:
            raise ValueError(f"it makes more than {MOST_CALLS} calls")
        self.check(config, is_operation)
        self.times = times
        if "build_config" in entry:
            check_shapes(entry["build_config"])
        if name == allowed.DERIVING:
            self._deriving(entry)
        for node in entry.get("inbound_nodes") or []:
            self._node(node, name, is_operation)

    def _plain(self, entry):
        name, config = entry["class_name"], entry.get("config")
        if set(entry) - {"class_name", "config"}:
            raise ValueError(f"{name} has unknown keys: {sorted(entry)}")
        if name in ARRAYS and config["dtype"] not in DTYPES:
            raise ValueError(f"an array of dtype {config['dtype']} is refused")
        self.check(config, below_operation=True)

    def _function(self, entry):
        name, module = entry["config"], entry["module"]
        names = (None, name, "function")  # the last one for what is no function of Keras
        if not isinstance(name, str) or entry.get("registered_name") not in names:
            raise ValueError(f"function {name!r} has another name too")
        if is_known(name):
            self._registered(name)
        elif name not in allowed.FUNCTIONS.get(module, ()):
            raise ValueError(f"{module}.{name} is refused: it is no activation of Keras")

    def _class(self, entry) -> bool:
        """Whether an allowed class is an operation, which knows no entries."""
        name, module = entry["class_name"], entry["module"]
        registered = entry.get("registered_name", name)
        if is_known(registered):
            self._registered(registered)
            return False
        if registered not in (None, name):
            raise ValueError(f"{registered!r} is not registered. Import what defines it first")
        if name in allowed.CLASSES.get(module, ()):
            return False
        if module not in allowed.OPERATIONS or name in allowed.CALLING:
            raise ValueError(
                f"{module}.{name} is refused, as it may hold code or a vocabulary, or reads files. "
                "Leave it outside the model, or register a class of your own in its place"
            )
        if name in allowed.LISTING:
            self._listing(entry)
        return True

    def _registered(self, name):
        made = keras.saving.get_registered_object(name)
        ours = isinstance(made, type) and issubclass(made, keras.layers.Layer)
        ours = (ours and made.__module__.startswith(allowed.OURS)) or name == allowed.SWAPPED
        if not ours and not self._is_trusted(name):
            raise ValueError(
                f"{name!r} is registered here, but may run any code: a file may name it only "
                f"if you say so, with `allow=[{name!r}]`"
            )

    def _is_trusted(self, name):
        return self.trusted is None or name in self.trusted

    def _listing(self, entry):
        """An operation that makes as many objects as a number tells."""
        count = entry["config"].get(allowed.LISTING[entry["class_name"]])
        count = len(count) if isinstance(count, list) else count
        if type(count) is not int or not 0 < count <= allowed.LONGEST_LIST:
            raise ValueError(
                f"{entry['class_name']} must tell how many outputs it has, at most "
                f"{allowed.LONGEST_LIST}. Received: {count}"
            )

    def _deriving(self, entry):
        """A mean and a variance with an entry for each place along the axes of a layer."""
        axes, build = entry["config"].get("axis", -1), entry.get("build_config") or {}
        if "input_shape" not in build:  # it would be built for whatever it is called with
            raise ValueError(f"{entry['class_name']} must tell for which shape it is built")
        axes = [] if axes is None else axes if isinstance(axes, list) else [axes]
        self.derived += 2 * 4 * math.prod(build["input_shape"][axis] or 0 for axis in axes)
        check_bound(self.derived, self.max_bytes)

    def _node(self, node, name, is_operation):
        if not isinstance(node, dict) or set(node) != {"args", "kwargs"}:
            raise ValueError(f"a node of {name} is none: {node!r:.80}")
        arguments = [node["args"], node["kwargs"]]
        if not sum(map(_symbolic, arguments)):
            raise ValueError(
                f"a node of {name} has no symbolic argument, so that Keras would run it"
            )
        self.check(_without_symbolic(arguments), below_operation=True)


def is_known(name: str | None) -> bool:
    return keras.saving.get_registered_object(name) is not None


def _is_symbolic(value):
    return isinstance(value, dict) and value.get("class_name") == SYMBOLIC


def _symbolic(value) -> int:
    """How many symbolic tensors there are, in lists and dicts alone, as Keras counts them."""
    if _is_symbolic(value):
        return 1
    if isinstance(value, dict) and "class_name" not in value:
        value = list(value.values())
    return sum(map(_symbolic, value)) if isinstance(value, list) else 0


def _without_symbolic(value):
    """The rest of the arguments; of symbolic tensors their configs."""
    if _is_symbolic(value):
        if set(value) != {"class_name", "config"}:
            raise ValueError(f"{SYMBOLIC} has unknown keys: {sorted(value)}")
        return value["config"]
    if isinstance(value, dict) and "class_name" not in value:
        return {key: _without_symbolic(item) for key, item in value.items()}
    return list(map(_without_symbolic, value)) if isinstance(value, list) else value


def check_shapes(value: Any) -> None:
    """Raises `ValueError` unless a build config holds nothing but shapes, and names for them."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            check_shapes(item)
    elif value is not None and not (type(value) is int and value >= 0):
        raise ValueError(f"a size in a build config is no whole number >= 0. Received: {value!r}")


def without_training(value: Any) -> Any:
    """A config without what only training needs: the compiled states of all its models."""
    if isinstance(value, list):
        return [without_training(item) for item in value]
    if isinstance(value, dict):
        compiled = "class_name" in value
        return {
            key: without_training(item)
            for key, item in value.items()
            if not (compiled and key == "compile_config")
        }
    return value


def check_bound(declared: int, max_bytes: int) -> None:
    """Raises `ValueError` if more bytes are declared than are allowed."""
    if declared > max_bytes:
        raise ValueError(
            f"it declares {declared} bytes or more, and at most {max_bytes} are allowed. If you "
            "trust the file, raise `max_bytes`."
        )
