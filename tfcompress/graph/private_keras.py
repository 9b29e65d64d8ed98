"""Every use of Keras that its documentation does not promise, each in one function.

A function says what it relies on. `tests/graph/test_private_keras.py` runs each alone, so that a
release of Keras which changes one of them fails there and is repaired here.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.backend import KerasTensor, compute_output_spec
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.models.functional import Functional
from keras.src.models.model import Trainer
from keras.src.ops.node import KerasHistory
from keras.src.saving.serialization_lib import SafeModeScope

from tfcompress.graph.keras_state import COMPILED, inside
from tfcompress.graph.private_training import strategy_scope
from tfcompress.utils.types import Initializer, Tensor

# Attributes in which Keras keeps lists of its own beside a layer's parts.
BOOKKEEPING = {
    "_functional",
    "_inbound_nodes",
    "_inputs",
    "_inputs_struct",
    "_layers",
    "_nodes",
    "_nodes_by_depth",
    "_operations",
    "_operations_by_depth",
    "_outbound_nodes",
    "_outputs",
    "_outputs_struct",
    "_tracker",
}

# The beginnings of the names under which TensorFlow keeps its own attributes of a tracked object.
OF_TENSORFLOW = (
    "_self_name_based",
    "_self_saveable",
    "_self_setattr",
    "_self_unconditional",
    "_self_update",
)

__all__ = ["Functional", "KerasTensor", "compute_output_spec"]


def functional_of(model: keras.Model) -> Any:
    """The graph of a Sequential model, or None before it is built; a Functional one is its own.

    Relies on `Sequential._functional`.
    """
    return model._functional if isinstance(model, keras.Sequential) else model


def nodes_by_depth(graph: Any) -> dict[int, list]:
    """The calls of a graph by their distance from its outputs.

    Relies on `Function._nodes_by_depth`; a node has `operation`, `arguments`, `input_tensors`,
    `outputs` and `is_input`.
    """
    return graph._nodes_by_depth


def run_through_graph(graph: Any, inputs: Tensor, operation_fn: Callable[..., Any]) -> Any:
    """Runs a graph on inputs, `operation_fn(operation)` in place of each operation.

    Relies on `Function._run_through_graph`.
    """
    return graph._run_through_graph(inputs, operation_fn=operation_fn)


def arguments_in_inference(node: Any, values: dict[int, Tensor]) -> tuple[tuple, dict]:
    """The arguments of a call in a graph, for tensors by the ids of symbolic ones.

    As in Keras' own `predict`, `training` is false for each operation that takes it, whatever its
    default or the value that it was called with. Relies on `Node.arguments` and
    `Layer._call_context_args`.
    """
    args, kwargs = node.arguments.fill_in(values)
    if "training" in getattr(node.operation, "_call_context_args", {}):
        kwargs = {**kwargs, "training": False}
    return args, kwargs


def inputs_structure(graph: Any) -> Any:
    """The inputs of a graph in the structure that it was made with.

    Relies on `Function._inputs_struct`.
    """
    return graph._inputs_struct


def outputs_structure(graph: Any) -> Any:
    """The outputs of a graph in the structure that it was made with.

    Relies on `Function._outputs_struct`.
    """
    return graph._outputs_struct


def standardized_inputs(graph: Any, x: Any) -> list:
    """A batch of inputs as the flat list that a graph's nodes start from, ranks and dtypes right.

    Relies on `Functional._standardize_inputs`.
    """
    return graph._standardize_inputs(x)


def history_of(tensor: Tensor) -> tuple:
    """What made a symbolic tensor: its operation, the number of the call and of the output.

    Relies on `KerasTensor._keras_history`.
    """
    operation, call, index = tensor._keras_history
    return operation, call, index


def inbound_nodes(operation: Any) -> list:
    """The calls of an operation. Relies on `Operation._inbound_nodes`."""
    return operation._inbound_nodes


def forget_calls(operation: Any) -> None:
    """Lets a copied operation start without calls.

    Relies on `Operation._inbound_nodes` and `_outbound_nodes`.
    """
    operation._inbound_nodes, operation._outbound_nodes = [], []


def layers_in(
    layer: keras.layers.Layer, include_self: bool = True, recursive: bool = True
) -> list[keras.layers.Layer]:
    """A layer and the layers that it holds, as Keras tracks them.

    Relies on `Layer._flatten_layers`.
    """
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def mask_of(tensor: Tensor) -> Any:
    """The mask that a layer gave its output, or None. Relies on `get_keras_mask`."""
    return get_keras_mask(tensor)


def with_mask(x: Any, mask: Any) -> Tensor:
    """An array as a tensor with a mask, as `Masking` gives it. Relies on `set_keras_mask`."""
    tensor = keras.ops.convert_to_tensor(x)
    set_keras_mask(tensor, keras.ops.convert_to_tensor(mask))
    return tensor


def trusting_deserialization() -> Iterator[None]:
    """While open, functions in configs are read: for layers of this very process.

    Relies on `SafeModeScope`.
    """
    return SafeModeScope(False)


@contextlib.contextmanager
def variables_without_values() -> Iterator[list[keras.Variable]]:
    """While open, new variables have shapes only; yields the list of them.

    They stay so, and `initialize` gives each its value. Relies on
    `StatelessScope(initialize_variables=False)` and on the list `uninitialized_variables` of the
    global state, to which a new variable adds itself there.
    """
    before = global_state.get_global_attribute("uninitialized_variables", [])
    made = []
    global_state.set_global_attribute("uninitialized_variables", made)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield made
    finally:
        global_state.set_global_attribute("uninitialized_variables", before)


def initialize(variable: keras.Variable, initializer: Initializer | None = None) -> None:
    """Gives a variable without a value the one of an initializer, or of its own.

    Relies on `Variable._value`, `_initializer` and `_deferred_initialize`.
    """
    if variable._value is not None:  # made with a value; only a new one is put into it
        if initializer is not None:
            variable.assign(initializer(variable.shape, dtype=variable.dtype))
        return
    if initializer is not None:
        variable._initializer = initializer
    variable._deferred_initialize()


def has_value(variable: keras.Variable) -> bool:
    """Whether a variable has a value by now.

    One that TensorFlow's `fit` makes while it traces the first step gets it after that trace.
    Relies on `Variable._value`.
    """
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    with tf.init_scope():
        return bool(variable._value.is_initialized())


def replace_in(owner: Any, memo: dict[int, Any] | None) -> None:
    """Lets one object hold the replacements of things in place of these: a layer, list, dict, node.

    Relies on what Keras objects keep in their attributes, in tracked lists and dicts and in their
    tracker.

    Args:
        owner: the object; what lies in lists and dicts of it is replaced too, what other objects
            hold is not.
        memo: `{id(old): new}`.
    """
    for name, value in list(vars(owner).items()):
        if not name.startswith(OF_TENSORFLOW):
            vars(owner)[name] = _replaced(value, memo)
    tracker = vars(owner).get("_tracker")
    if tracker is not None:
        for name, (_, store) in tracker.config.items():
            store[:] = [memo.get(id(one), one) for one in store]
            tracker.stored_ids[name] = {id(one) for one in store}


def _replaced(value, memo):
    if id(value) in memo:
        return memo[id(value)]
    plain = inside(value)  # TensorFlow wraps dicts and tuples, and its lists have a second content
    if isinstance(plain, dict):
        for key, one in list(dict.items(plain)):
            dict.__setitem__(plain, key, _replaced(one, memo))
    elif isinstance(plain, list):
        for content in (plain, getattr(plain, "_storage", plain)):
            list.__setitem__(content, slice(None), [_replaced(one, memo) for one in content])
    elif type(plain) is tuple:
        new = tuple(_replaced(one, memo) for one in plain)
        return value if all(a is b for a, b in zip(new, plain, strict=True)) else new
    return value


def take_over_calls(old: Any, new: Any) -> None:
    """Gives the calls of an operation in graphs to another one.

    Relies on `Node.operation`, and on the history of the tensors that a node made.
    """
    for index, node in enumerate(old._inbound_nodes):
        node.operation = new
        for place, tensor in enumerate(node.outputs):
            tensor._keras_history = KerasHistory(new, index, place)
    new._inbound_nodes, new._outbound_nodes = old._inbound_nodes, old._outbound_nodes
    old._inbound_nodes, old._outbound_nodes = [], []


def derive_state(layer: Any) -> None:
    """Lets a layer whose weights were assigned compute what it derives from them.

    Such as `Normalization` its mean. A layer without weights, such as `Discretization`, has its
    state from the config, and would make another one of the data that `adapt` saw. Relies on
    `finalize_state`, of Keras 3 and tf_keras.
    """
    if hasattr(layer, "finalize_state") and layer.weights:
        layer.finalize_state()


def forget_compiled(model: keras.Model) -> None:
    """Takes from a model what `compile` and `fit` left in it.

    Relies on `Trainer.__init__`, which sets most of what they change, and on the names of the rest.
    """
    for name in COMPILED:
        vars(model).pop(name, None)
    with strategy_scope(model):
        Trainer.__init__(model)
