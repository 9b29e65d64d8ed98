"""The stock converter: a Keras model of ordinary layers to a float32 .tflite file."""

import re
import tempfile
import warnings

import keras
import tensorflow as tf

from ..flatbuffer import operator_name, read, schema
from .errors import ExportError

SIGNATURE = "serving_default"


def convert(model, **settings):
    """Converts a model with the stock converter and gives its inputs and outputs their names.

    The function is saved beside its plain `tf.Variable`s: the converter then finds their values,
    as it does not behind a Keras model, and needs half the memory of its other routes.

    Args:
        model: a built Sequential or Functional model.
        **settings: attributes of `tf.lite.TFLiteConverter`.

    Returns:
        The file as a `ModelT`, see `tfcompress.flatbuffer.read`.

    Raises:
        ExportError: the model needs an operator that is not a builtin one.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save(model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        for name, value in settings.items():
            setattr(converter, name, value)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about statistics that the samples give
                blob = converter.convert()
        except Exception as error:  # the converter raises its own and plain ones
            raise ExportError(_explain(model, str(error))) from error
    file = read(blob)
    _check_builtin(file)
    _name(file, input_names(model), output_names(model))
    return file


def _save(model, folder):
    """Saves the model's function; input and output number i are `place_i` in its signature."""

    def function(**inputs):
        outputs = call(model, [inputs[_place(i)] for i in range(len(inputs))])
        return {_place(i): output for i, output in enumerate(outputs)}

    specs = {
        _place(i): tf.TensorSpec(tensor.shape, tensor.dtype, name=_place(i))
        for i, tensor in enumerate(model.inputs)
    }
    module = tf.Module()
    module.variables_of_the_model = [variable.value for variable in model.variables]
    concrete = tf.function(function, autograph=False).get_concrete_function(**specs)
    tf.saved_model.save(module, folder, signatures={SIGNATURE: concrete})


def _place(index) -> str:
    return f"place_{index}"


def input_names(model) -> list[str]:
    """The names of the inputs: those of the `keras.Input`s."""
    return _unique([tensor.name for tensor in model.inputs])


def output_names(model) -> list[str]:
    """The names of the outputs: the keys of a dict, else those of the layers."""
    structure = functional(model).output
    if isinstance(structure, dict):
        return sorted(structure)
    return _unique([tensor._keras_history.operation.name for tensor in model.outputs])


def _unique(names):
    return [f"{n}_{names[:i].count(n)}" if n in names[:i] else n for i, n in enumerate(names)]


def call(model, inputs) -> list:
    """The outputs of a model for a flat list of inputs, in inference mode."""
    inputs = keras.tree.pack_sequence_as(functional(model).input, list(inputs))
    return keras.tree.flatten(model(inputs, training=False))


def functional(model):
    """The graph of a model: a Sequential one keeps it inside."""
    return model._functional if isinstance(model, keras.Sequential) else model


def _explain(model, text):
    operators = sorted(set(re.findall(r"'(tf\.\w+)' op", text)))
    reason = f"it stopped with: {text.strip()[-400:]}"
    advice = "Replace the layer that needs it."
    if operators:
        reason = f"no builtin LiteRT operator does {', '.join(operators)}"
    if "TensorList" in text:
        advice = "A recurrent layer needs a known batch size: `keras.Input(shape, batch_size=1)`."
    return f"The stock converter cannot take model '{model.name}': {reason}. {advice}"


def _check_builtin(file):
    for graph in file.subgraphs:
        for operator in graph.operators or []:
            name = operator_name(file, operator)
            if not hasattr(schema().BuiltinOperator, name):
                raise ExportError(
                    f"The file would need the operator '{name}', which stock LiteRT does not have."
                )


def _name(file, inputs, outputs):
    """Puts inputs and outputs in the model's order and gives them their names."""
    graph, (signature,) = file.subgraphs[0], file.signatureDefs
    graph.inputs = _rename(graph, signature.inputs, inputs)
    graph.outputs = _rename(graph, signature.outputs, outputs)


def _rename(graph, entries, names) -> list[int]:
    indices = {entry.name.decode(): entry for entry in entries}
    ordered = [indices[_place(i)] for i in range(len(names))]
    for entry, name in zip(ordered, names, strict=True):
        entry.name = graph.tensors[entry.tensorIndex].name = name.encode()
    return [entry.tensorIndex for entry in ordered]
