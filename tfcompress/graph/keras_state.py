"""What a copy of a Keras object relies on beyond its attributes: one private use, one function."""

import sys
import types
from collections.abc import Iterable
from typing import Any

import keras
from keras.src.backend import KerasTensor
from keras.src.models.model import Trainer
from keras.src.ops.function import Function, make_node_key
from keras.src.ops.node import KerasHistory
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.utils.tracking import Tracker

from tfcompress.utils.types import Tensor

# What `compile`, `fit`, `predict` and `generate` leave in a model, and a new model does not have.
COMPILED = {
    "_compile_config",
    "_compile_loss",
    "_compile_metrics",
    "_eval_epoch_iterator",
    "_loss_tracker",
    "generate_function",
    "loss",
    "optimizer",
    "predict_function",
    "stop_training",
    "test_function",
    "train_function",
}
# Methods that `Layer.__new__` wraps for one object; losses of the last call, and their ids.
OF_ONE_LAYER = {"build", "quantize", "_losses", "_loss_ids", "_losses_override"}
NODES = {"_inbound_nodes", "_outbound_nodes"}
GRAPH_PLACES = {
    "_compiled_trainable_state",
    "_layers",
    "_nodes_by_depth",
    "_operations",
    "_operations_by_depth",
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_dependency_names",
    "_tracker",
}
SHARED_PACKAGES = {"jax", "jaxlib", "sentencepiece", "tensorflow_text", "tokenizers"}


def empty(original: Any) -> Any:
    """An object of the same class without attributes.

    A layer is made by `Layer.__new__`, which gives it a `build` and a `quantize` of its own: they
    hold the layer, so that those of the original would build the original.
    """
    if isinstance(original, keras.layers.Layer):
        new = keras.layers.Layer.__new__(type(original))
        for name in vars(new).keys() - {"build", "quantize"}:
            del vars(new)[name]
        return new
    if isinstance(original, types.SimpleNamespace):
        return type(original)()
    return object.__new__(type(original))


def attributes(original: Any) -> dict:
    """The attributes of an object that a copy takes over.

    All but the places in graphs, which `connect` makes again, and `compile`'s. On torch a layer
    keeps the parameters once more in `_torch_params`, and makes them again when it lacks them.
    """
    found = dict(getattr(original, "__dict__", {}))
    for kind in type(original).__mro__:
        slots = vars(kind).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{kind.__name__.lstrip('_')}{slot}" if private else slot
            if slot not in ("__dict__", "__weakref__") and hasattr(original, name):
                found[name] = getattr(original, name)
    dropped = set()
    if isinstance(original, keras.Operation):
        dropped |= NODES
    if isinstance(original, keras.layers.Layer):
        dropped |= OF_ONE_LAYER
        if "_modules" in found:
            modules = found["_modules"].items()
            found["_modules"] = {k: v for k, v in modules if k != "_torch_params"}
    if isinstance(original, keras.Model):
        dropped |= COMPILED
        names = "_self_unconditional_dependency_names"  # TensorFlow tracks the same once more
        references = "_self_unconditional_checkpoint_dependencies"
        if names in found:
            found[names] = {k: v for k, v in found[names].items() if k not in COMPILED}
            found[references] = [one for one in found[references] if one.name not in COMPILED]
    if isinstance(original, KerasTensor):
        dropped.add("_keras_history")
    kept = {name: value for name, value in found.items() if name not in dropped}
    if "generate_function" in found:  # of KerasHub's generating models
        kept["generate_function"] = None
    return kept


def put(new: Any, name: str, value: Any) -> None:
    """Sets an attribute past every tracking `__setattr__` and property."""
    if hasattr(new, "__dict__") and not hasattr(getattr(type(new), name, None), "__objclass__"):
        vars(new)[name] = value
    else:
        object.__setattr__(new, name, value)  # a slot


def inside(x: Any) -> Any:
    """The dict or tuple in the proxy that TensorFlow's tracking puts around it, or else `x`."""
    kind = dict if isinstance(x, dict) else tuple
    return x.__wrapped__ if isinstance(x, kind) and not issubclass(type(x), kind) else x


def track_operations(graph: Any) -> None:
    """Lets TensorFlow track the operations that a graph has now, which copies take along.

    Relies on its `Trackable._track_trackable`.
    """
    if "_operations" in vars(graph).get("_self_unconditional_dependency_names", ()):
        from tensorflow.python.trackable.data_structures import wrap_or_unwrap

        vars(graph)["_operations"] = wrap_or_unwrap(list(graph._operations))
        graph._track_trackable(graph._operations, "_operations", overwrite=True)


def is_plain(kind: type) -> bool:
    """Whether an object of a class is its attributes, and nothing else.

    Keras objects are: their `__reduce__` (a saved file) is not meant for this.
    """
    if issubclass(kind, (KerasSaveable, types.SimpleNamespace)):
        return True
    by_itself = ("__reduce__", "__reduce_ex__", "__getstate__")
    same = all(getattr(kind, name) is getattr(object, name) for name in by_itself)
    return same and not hasattr(kind, "__deepcopy__")


def new_value(variable: Tensor, new: Any) -> None:
    """Gives a copied `keras.Variable` a value of its own, equal in every bit.

    Relies on `_value` (None before a deferred initialization) and `_initialize`, which makes the
    backend's own variable of it.
    """
    value = variable._value
    if value is not None:
        new._value = None
        new._initialize(keras.ops.copy(keras.ops.stop_gradient(value)))


def connect(operations: Iterable[Any], memo: dict[int, Any] | None) -> None:
    """Gives each copied operation its calls in the copied graphs, in the same order.

    A node is copied if a graph of the model holds it: calls in other models, through which the
    copy would reach their layers too, are left out.

    Args:
        operations: pairs (original, copy).
        memo: `{id(original): copy}`; that of each node of a copied graph is in it.
    """
    for old, new in operations:
        for name in NODES:
            nodes = [memo[id(node)] for node in getattr(old, name) if id(node) in memo]
            vars(new)[name] = nodes


def place_tensors(tensors: Any, memo: dict[int, Any] | None) -> None:
    """Tells each copied symbolic tensor which copied call made it (its `_keras_history`)."""
    position = {}
    for old, new in tensors:
        history = getattr(old, "_keras_history", None)
        if history is None:
            continue
        if history.operation is None:
            new._keras_history = history
            continue
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) not in memo:
            continue
        operation = memo[id(history.operation)]
        if id(operation) not in position:
            position[id(operation)] = {id(n): i for i, n in enumerate(operation._inbound_nodes)}
        index = position[id(operation)][id(memo[id(node)])]
        new._keras_history = KerasHistory(operation, index, history.tensor_index)


def renew_keys(new: Any) -> None:
    """Makes what holds `id()`s of other objects again, for one copied object.

    A `Tracker` knows what it stores by id, and a graph its nodes by the id of their operation; each
    has the objects themselves too.
    """
    if isinstance(new, Tracker):
        new.stored_ids = {name: set(map(id, store)) for name, (_, store) in new.config.items()}
    elif isinstance(new, Function) and "_nodes_by_depth" in vars(new):
        nodes = [node for nodes in new._nodes_by_depth.values() for node in nodes]
        keys = {make_node_key(n.operation, n.operation._inbound_nodes.index(n)) for n in nodes}
        object.__setattr__(new, "_nodes", keys)


def renew_variable_keys(old: Any, new: Any, variables: Iterable[tuple[Any, Any]]) -> None:
    """Lets a copied optimizer know its variables: `_var_key` of each is the backend's.

    Args:
        old, new: an object and its copy; nothing is done unless they are optimizers.
        variables: pairs (original, copy) of all copied variables.
    """
    if not isinstance(new, keras.optimizers.Optimizer):
        return
    vars(new).pop("_exclude_from_weight_decay_cache", None)
    renewed = {old._var_key(a): new._var_key(b) for a, b in variables}
    indices = inside(new._trainable_variables_indices)  # TensorFlow wraps it
    keys = {renewed.get(key, key): index for key, index in indices.items()}
    dict.clear(inside(indices))
    dict.update(indices, keys)
    excluded = getattr(old, "_exclude_from_weight_decay", None)
    if excluded:
        vars(new)["_exclude_from_weight_decay"] = {renewed.get(key, key) for key in excluded}


def output_specs(node: Any) -> list:
    """What the operation of a call says of its outputs now. Relies on `compute_output_spec`."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    return keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))


def set_spec(tensor: Any, spec: Any) -> None:
    """Gives a symbolic tensor another shape and dtype. Relies on `_shape` and `_dtype`."""
    tensor._shape, tensor._dtype = spec.shape, spec.dtype


def set_input_shape(layer: keras.layers.InputLayer, shape: tuple) -> None:
    """Gives an input layer another shape. Relies on `_batch_shape`."""
    layer._batch_shape = shape


def is_graph_place(owner: Any, key: str) -> bool:
    """Whether a Functional or Sequential model keeps the layers of its graph at an attribute."""
    if not isinstance(owner, (Function, keras.Sequential)):
        return False
    return key in GRAPH_PLACES


def forget_training(new: Any) -> None:
    """Brings a copied layer into the state of one that was never compiled, called or fitted.

    `Trainer.__init__` sets just what `compile` later changes.
    """
    if isinstance(new, keras.layers.Layer):
        vars(new).update(_losses=[], _loss_ids=set(), _losses_override=[])
    if isinstance(new, keras.Model):
        Trainer.__init__(new)


def is_symbolic(x: Any) -> bool:
    return isinstance(x, KerasTensor)


def backend_copy(x: Any) -> tuple:
    """`(whether it is a tensor, table or function of a backend, what a copy has in its place)`.

    Tensors, shapes, types and lookup tables that cannot change are shared; TensorFlow is looked up
    among the loaded modules, for on another backend only tables need it.

    Raises:
        TypeError: it is bound to the variables of the original.
    """
    package = type(x).__module__.partition(".")[0]
    if package in SHARED_PACKAGES:
        return True, x
    tf = sys.modules.get("tensorflow")
    if package == "keras" or not hasattr(tf, "lookup"):
        return False, None
    if isinstance(x, tf.lookup.experimental.MutableHashTable):
        keys, values = x.export()
        new = tf.lookup.experimental.MutableHashTable(x.key_dtype, x.value_dtype, x._default_value)
        new.insert(keys, values)
        return True, new
    shared = (tf.TypeSpec, tf.DType, tf.TensorShape, tf.data.Dataset, tf.distribute.Strategy)
    tables = (tf.lookup.StaticHashTable, tf.saved_model.experimental.TrackableResource)
    if isinstance(x, shared + tables) or (tf.is_tensor(x) and not isinstance(x, tf.Variable)):
        return True, x
    if isinstance(x, tf.types.experimental.ConcreteFunction) or (
        isinstance(x, tf.types.experimental.PolymorphicFunction) and not is_traced(x)
    ):
        raise TypeError("a TensorFlow function that was traced or loaded with its variables")
    return False, None


def is_traced(x: Any) -> bool:
    """Whether it is a `tf.function`, which `_clone` makes anew of another Python function."""
    tf = sys.modules.get("tensorflow")
    return hasattr(tf, "lookup") and type(x) is type(_traced_function(tf))


def _traced_function(tf):
    if "example" not in vars(_traced_function):
        _traced_function.example = tf.function(lambda: None)
    return _traced_function.example
