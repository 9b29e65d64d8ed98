"""Converts a Keras model of ordinary layers with the stock converter."""

import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfcompress.graph.nodes import graph_of, operation_of
from tfcompress.tflite.reader import operator_name, read, schema
from tfcompress.utils.errors import ExportError
from tfcompress.utils.writers import temporary_folder

SIGNATURE = "serving_default"
LARGEST_IN_MEMORY = 2**26  # bytes of weights that the converter gets without files


def convert(model: keras.Model, **settings: Any) -> Any:
    """Converts a model with the stock converter and gives its inputs and outputs their names.

    Args:
        model: a built Sequential or Functional model.
        **settings: attributes of `tf.lite.TFLiteConverter`.

    Returns:
        The file as a `ModelT`, see `tfcompress.tflite.reader.read`.

    Raises:
        ExportError: the model needs an operator that is not a builtin one.
    """
    file = read(_convert(model, settings))
    _check_builtin(file)
    name_inputs_and_outputs(file, model)
    return file


def _convert(model, settings) -> bytes:
    concrete = _concrete_function(model)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    # The folder is made outside `try`: that it cannot be made is no fault of the model.
    with temporary_folder() as folder, warnings.catch_warnings():
        try:
            warnings.simplefilter("ignore")  # about statistics that the samples give
            converter = _converter(model, concrete, folder)
            for name, value in settings.items():
                setattr(converter, name, value)
            return converter.convert()
        except Exception as error:  # the converter raises its own and plain ones
            raise ExportError(_explanation(model, str(error))) from error
        finally:
            logging.set_verbosity(verbosity)


def _concrete_function(model):
    """The model as a function whose input and output number i have the name `argument_i`.

    The names of the model's own tensors need not be valid or different.
    """

    def function(**inputs):
        outputs = call_model(model, [inputs[_argument_name(i)] for i in range(len(inputs))])
        return {_argument_name(i): output for i, output in enumerate(outputs)}

    specs = {
        _argument_name(i): tf.TensorSpec(tensor.shape, tensor.dtype, name=_argument_name(i))
        for i, tensor in enumerate(model.inputs)
    }
    return tf.function(function, autograph=False).get_concrete_function(**specs)


def _converter(model, concrete, folder):
    """A converter that finds the values of the variables, by the better of two routes.

    From memory it is five times faster; through a folder it needs half the memory. With the Keras
    model as its `trackable` it would leave the values out of the file without an error.
    """
    variables = [variable.value for variable in model.variables]
    if sum(math.prod(v.shape) * v.dtype.size for v in variables) < LARGEST_IN_MEMORY:
        return tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    module = tf.Module()
    module.variables_of_the_model = variables
    tf.saved_model.save(module, folder, signatures={SIGNATURE: concrete})
    return tf.lite.TFLiteConverter.from_saved_model(folder)


def _argument_name(index) -> str:
    return f"place_{index:06d}"


def input_names(model: keras.Model) -> list[str]:
    """The names of the inputs: those of the `keras.Input`s."""
    return _unique([tensor.name for tensor in model.inputs])


def output_names(model: keras.Model) -> list[str]:
    """The names of the outputs: the keys of a dict, else those of the layers."""
    structure = graph_of(model).output
    if isinstance(structure, dict):
        return sorted(structure)
    return _unique([operation_of(tensor).name for tensor in model.outputs])


def _unique(names):
    return [f"{n}_{names[:i].count(n)}" if n in names[:i] else n for i, n in enumerate(names)]


def call_model(model: keras.Model, inputs: Sequence[np.ndarray]) -> list:
    """The outputs of a model for a flat list of inputs, in inference mode."""
    inputs = keras.tree.pack_sequence_as(graph_of(model).input, list(inputs))
    return keras.tree.flatten(model(inputs, training=False))


def _explanation(model, text):
    operators = sorted(set(re.findall(r"'(tf\.\w+)' op", text)))
    reason = f"it stopped with: {text.strip()[-400:]}"
    advice = "Replace the layer that needs it."
    if operators:
        reason = f"no builtin LiteRT operator does {', '.join(operators)}"
    if "TensorList" in text:
        advice = "A recurrent layer needs a known batch size: `keras.Input(shape, batch_size=1)`."
    return f"The stock converter cannot convert model {model.name!r}: {reason}. {advice}"


def _check_builtin(file):
    for graph in file.subgraphs:
        for operator in graph.operators or []:
            name = operator_name(file, operator)
            if not hasattr(schema().BuiltinOperator, name):
                raise ExportError(
                    f"The file would need the operator {name!r}, which stock LiteRT does not have."
                )


def name_inputs_and_outputs(file: Any, model: keras.Model) -> None:
    """Orders the inputs and outputs as the model does, names them and writes the signature."""
    inputs, outputs = input_names(model), output_names(model)
    graph, signature = file.subgraphs[0], schema().SignatureDefT()
    if file.signatureDefs:  # a file converted through a folder; others have the model's order
        graph.inputs = _indices_by_name(file.signatureDefs[0].inputs)
        graph.outputs = _indices_by_name(file.signatureDefs[0].outputs)
    signature.signatureKey, signature.subgraphIndex = SIGNATURE.encode(), 0
    signature.inputs = _signature_entries(graph, graph.inputs, inputs)
    signature.outputs = _signature_entries(graph, graph.outputs, outputs)
    file.signatureDefs = [signature]


def _indices_by_name(entries) -> list[int]:
    return [entry.tensorIndex for entry in sorted(entries, key=lambda entry: entry.name)]


def _signature_entries(graph, indices, names):
    entries = []
    for index, name in zip(indices, names, strict=True):
        entry = schema().TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), int(index)
        graph.tensors[index].name = name.encode()
        entries.append(entry)
    return entries
