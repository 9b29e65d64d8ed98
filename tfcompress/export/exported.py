"""A model as it is exported: what it takes, what it gives, and the names of both."""

import inspect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfcompress.graph.nodes import calls_its_graph, graph_of, operation_of
from tfcompress.graph.paths import is_graph
from tfcompress.graph.private_keras import inputs_structure
from tfcompress.utils.types import Sample

OUTPUT = "output"  # the name of an output that has no other
NOT_INPUTS = ("self", "training", "mask")


@dataclass(frozen=True)
class Exported:
    """A model and the inputs of its call.

    Attributes:
        model: a `keras.Model` of any kind.
        inputs: a `keras.KerasTensor` for each input, in the structure of the first argument of
            `call`; or a dict `{name of an argument: structure}`.
        by_name: whether `inputs` is such a dict.
    """

    model: keras.Model
    inputs: Any
    by_name: bool = False

    @property
    def tensors(self) -> list:
        """The inputs as a flat list."""
        return keras.tree.flatten(self.inputs)

    def flat(self, x: Any) -> list:
        """Inputs in any structure that the model takes as a flat list, in the order of `tensors`.

        As in Keras, a dict gives the inputs of a list by their names, and may hold more.

        Raises:
            ValueError: an input is missing in a dict.
        """
        if not isinstance(x, dict) or self.by_name or not is_graph(self.model):
            return keras.tree.flatten(x)
        keys = isinstance(self.inputs, dict)
        names = sorted(self.inputs) if keys else _names_of_inputs(self.model)
        if missing := sorted(set(names) - set(x)):
            raise ValueError(f"Inputs {missing} are missing. Received: a dict of {sorted(x)}")
        return keras.tree.flatten([x[name] for name in names])

    def of(self, model: keras.Model) -> "Exported":
        """Another model that is called in the same way."""
        return replace(self, model=model)

    def call(self, arrays: Sequence[np.ndarray]) -> Any:
        """The outputs for a flat list of inputs, in inference mode and in their own structure."""
        inputs = keras.tree.pack_sequence_as(self.inputs, list(arrays))
        if self.by_name:
            return self.model(**inputs, training=False)
        return self.model(inputs, training=False)

    def outputs(self, arrays: Sequence[np.ndarray]) -> list:
        """The outputs for a flat list of inputs as a flat list."""
        return flat_outputs(self.call(arrays))

    def input_names(self) -> list[str]:
        """The names of the inputs: of the `keras.Input`s, keys of a dict, or arguments of `call`.

        A list of inputs without names is numbered.
        """
        first = next(iter(_arguments(self.model)), "inputs")
        lead = () if self.by_name or isinstance(self.inputs, dict) else (first,)
        return different(
            tensor.name if _has_own_name(tensor) else _joined((*lead, *path))
            for path, tensor in keras.tree.flatten_with_path(self.inputs)
        )

    def output_names(self, outputs: Any) -> list[str]:
        """The names of the outputs: keys of a dict, the layers of a graph, or `"output"`.

        Args:
            outputs: what `call` gave, in its structure.
        """
        if isinstance(outputs, dict):
            lead = ()
        elif calls_its_graph(self.model):
            graph = graph_of(self.model)
            return different(operation_of(tensor).name for tensor in graph.outputs)
        else:
            lead = (OUTPUT,)
        paths = keras.tree.flatten_with_path(outputs)
        return different(_joined((*lead, *path)) for path, y in paths if y is not None)


def exported(model: keras.Model, check: Sample = None, signature: Any = None) -> Exported:
    """Finds out how a model is called.

    Args:
        model: a built `keras.Model` of any kind.
        check: sample inputs, by which the call of a subclassed model is known.
        signature: the inputs, as objects with a `shape` and a `dtype` (a `keras.InputSpec`,
            `keras.KerasTensor` or `tf.TensorSpec`) in the structure of the model's inputs; None
            takes them from the graph of the model, from `check`, or from the shapes that the model
            was built for.

    Raises:
        ValueError: none of these tells.
    """
    built = is_graph(model) and model.built and model.inputs
    if signature is not None:
        inputs = keras.tree.map_structure(_from_spec, signature)
        return _named_or_not(model, _with_names(model, inputs) if built else inputs)
    if is_graph(model):
        if not built:
            raise ValueError(
                f"Model {model.name!r} has no inputs yet. Begin it with a `keras.Input`, or build "
                "it."
            )
        return Exported(model, _with_names(model, inputs_structure(graph_of(model))))
    if check is not None:
        return _named_or_not(model, keras.tree.map_structure(_from_sample, check))
    return _from_build(model)


def flat_outputs(outputs: Any) -> list:
    """The tensors of a structure of outputs; None in it is no output."""
    return [y for y in keras.tree.flatten(outputs) if y is not None]


def different(names: Iterable[str]) -> list[str]:
    """Names of which no two are alike: a further one of a name gets the first number that is free.

    >>> different(["lstm", "lstm", "lstm_1"])
    ['lstm', 'lstm_2', 'lstm_1']
    """
    names, given = list(names), []
    for name in names:
        free = (f"{name}_{i}" for i in itertools.count(1))
        unlike = (one for one in free if one not in names and one not in given)
        given.append(next(unlike) if name in given else name)
    return given


def _names_of_inputs(model) -> list[str]:
    """The names of the inputs of a graph; those of its tensors count all that the process made."""
    return [operation_of(tensor).name for tensor in graph_of(model).inputs]


def _with_names(model, inputs):
    """The inputs of a graph, each of which has a name now."""
    if isinstance(inputs, dict) and not isinstance(inputs_structure(graph_of(model)), dict):
        return inputs  # the keys are the names
    tensors, names = keras.tree.flatten(inputs), _names_of_inputs(model)
    if len(tensors) != len(names):
        raise ValueError(
            f"Expected in `input_signature` the inputs {names}. Received: {len(tensors)}"
        )
    named = [
        keras.KerasTensor(x.shape, x.dtype, name=x.name if _has_own_name(x) else name)
        for x, name in zip(tensors, names, strict=True)
    ]
    return keras.tree.pack_sequence_as(inputs, named)


def _named_or_not(model, inputs):
    """`inputs` is a dict of arguments if `call` has several, and one for each key."""
    names = _arguments(model)
    by_name = isinstance(inputs, dict) and len(names) > 1 and set(inputs) <= set(names)
    return Exported(model, inputs, by_name)


def _arguments(model, required=False) -> list[str]:
    """The names of the arguments of `call` that can be inputs, or of those without a default."""
    parameters = inspect.signature(model.call).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for p in parameters if p.kind in plain and p.name not in NOT_INPUTS]
    return [p.name for p in found if not required or p.default is inspect.Parameter.empty]


def _from_spec(spec):
    shape, dtype = getattr(spec, "shape", None), getattr(spec, "dtype", None)
    if shape is None:
        raise ValueError(
            "Expected in `input_signature` objects with a shape and a dtype, such as "
            f"`keras.InputSpec(shape=(None, 8), dtype='int32')`. Received: {spec!r}"
        )
    dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
    return keras.KerasTensor(tuple(shape), dtype, name=getattr(spec, "name", None))


def _from_sample(sample):
    array = np.asarray(sample)
    dtype = _of_a_file(array.dtype.newbyteorder("=").name)
    if array.ndim == 0:
        raise ValueError(f"`check` must hold arrays of samples. Received: {sample!r}")
    return keras.KerasTensor((None, *array.shape[1:]), dtype)


def _of_a_file(dtype: str) -> str:
    """The type of an input in a file, where all that is floating is float32."""
    return "float32" if "float" in dtype else dtype


def _from_build(model):
    config = (model.get_build_config() if model.built else None) or {}
    shapes, by_name = config.get("input_shape"), "shapes_dict" in config
    shapes = config["shapes_dict"] if by_name else shapes
    if not shapes or not (by_name or len(_arguments(model, required=True)) <= 1):
        raise ValueError(
            f"The inputs of the subclassed model `{type(model).__name__}` are not known: it was "
            "not called yet, or with several. Give samples as `check`, or `input_signature`."
        )
    if by_name:
        shapes = {name.removesuffix("_shape"): shape for name, shape in shapes.items()}
    dtype = _of_a_file(model.input_dtype)
    inputs = keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape[1:]), dtype), shapes
    )
    return Exported(model, inputs, by_name)


def _has_own_name(tensor) -> bool:
    return not tensor.name.startswith("keras_tensor")


def _joined(path) -> str:
    return "_".join(map(str, path))
