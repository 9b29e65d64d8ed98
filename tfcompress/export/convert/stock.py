"""Converts a Keras model of ordinary layers with the stock converter."""

import math
import re
from typing import Any

import tensorflow as tf
from absl import logging

from tfcompress.export.convert.new_axes import new_axes_as_operators
from tfcompress.export.convert.sign_bits import sign_bits_as_comparisons
from tfcompress.export.exported import Exported, flat_outputs
from tfcompress.graph.paths import walk
from tfcompress.graph.private_keras import layers_in
from tfcompress.tflite.reader import operator_name, read, schema
from tfcompress.utils.errors import ExportError
from tfcompress.utils.writers import temporary_folder

SIGNATURE = "serving_default"
ASSIGNMENTS = {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
LARGEST_IN_MEMORY = 2**26  # bytes of weights that the converter gets without files


def convert(model: Exported) -> Any:
    """Converts a model with the stock converter and gives its inputs and outputs their names.

    Args:
        model: a model of ordinary layers.

    Returns:
        The file as a `ModelT`, see `tfcompress.tflite.reader.read`.

    Raises:
        ExportError: the model cannot be traced, or needs an operator that is not a builtin one. The
            message names the layer.
    """
    try:
        concrete, outputs = _concrete_function(model)
    except Exception as error:  # of any kind, from the code of a layer
        text = re.sub(r"\x1b\[\d*m", "", str(error))  # Keras makes parts of it bold
        raise ExportError(
            f"The calls of model {model.model.name!r} cannot be traced into a graph: {text}"
        ) from error
    file = read(_convert(model.model, concrete))
    _check_builtin(file)
    name_inputs_and_outputs(file, model.input_names(), outputs)
    return file


def _convert(model, concrete) -> bytes:
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    # The folder is made outside `try`: that it cannot be made is no fault of the model.
    with temporary_folder() as folder:
        try:
            return _converter(model, concrete, folder).convert()
        except Exception as error:  # the converter raises its own and plain ones
            raise ExportError(_explanation(model, concrete, str(error))) from error
        finally:
            logging.set_verbosity(verbosity)


def _concrete_function(model):
    """The model as a function whose input and output number i have the name `argument_i`.

    The names of the model's own tensors need not be valid or different.

    Returns:
        The function, and the model's own names of its outputs.
    """
    names = []

    def function(**inputs):
        outputs = model.call([inputs[_argument_name(i)] for i in range(len(inputs))])
        names[:] = model.output_names(outputs)
        flat = map(tf.convert_to_tensor, flat_outputs(outputs))
        return {_argument_name(i): output for i, output in enumerate(flat)}

    specs = {
        _argument_name(i): tf.TensorSpec(tensor.shape, tensor.dtype, name=_argument_name(i))
        for i, tensor in enumerate(model.tensors)
    }
    with new_axes_as_operators(), sign_bits_as_comparisons():
        return tf.function(function, autograph=False).get_concrete_function(**specs), names


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


def _explanation(model, concrete, text) -> str:
    operators = sorted(set(re.findall(r"'(tf\.\w+)' op", text)))
    reason = f"it stopped with: {text.strip()[-400:]}"
    kinds = {name.removeprefix("tf.") for name in operators} or ASSIGNMENTS
    layer = _layer_with(model, concrete, kinds)
    advice = "Replace the layer that needs it."
    quantized = {path: x for path, (x, _) in walk(model).items() if _quantized_by_keras(x)}
    if quantized:
        path, first = next(iter(quantized.items()))
        reason = f"Keras has quantized layer {path!r} ({first.quantization_mode})"
        advice = (
            "Take the float model, and `tfcompress.swap(model, tfcompress.layers.rounding(8))`."
        )
    elif "AssignVariableOp" in text:
        who = f"layer {layer!r}" if layer else "it"
        reason = f"{who} sets a variable in its `call`, as of a metric or a state"
        advice = "A file holds none: leave that out in inference (`training=False`)."
    elif operators:
        reason = f"no builtin LiteRT operator does {', '.join(operators)}"
        reason += f" of layer {layer!r}" if layer else ""
        if any(layer.compute_dtype == "float64" for layer in layers_in(model)):
            advice = "Files have no float64: make the model with `dtype='float32'`."
    if "TensorList" in text:
        advice = (
            "A loop that a layer writes itself needs a known batch size: "
            "`keras.Input(shape, batch_size=1)`, or `input_signature`."
        )
    return f"The stock converter cannot convert model {model.name!r}: {reason}. {advice}"


def _quantized_by_keras(layer) -> bool:
    return getattr(layer, "quantization_mode", None) is not None


def _layer_with(model, concrete, kinds) -> str | None:
    """The path of the first layer that calls a TensorFlow operation of one of these kinds.

    The name of an operation holds those of the layers around it: `"model_1/block_1/fc_2/Svd"`.
    """
    definition = concrete.graph.as_graph_def()
    bodies = [definition.node, *(function.node_def for function in definition.library.function)]
    for node in (node for nodes in bodies for node in nodes if node.op in kinds):
        around = [_without_numbers(part) for part in node.name.split("/")[:-1]]
        inside = [path for path in walk(model) if _in_order(path.split("/"), around)]
        if inside:
            return max(inside, key=len)
    return None


def _in_order(names, around) -> bool:
    """Whether names, without the numbers at their ends, come in a list in this order."""
    rest = iter(around)
    return all(_without_numbers(name) in rest for name in names)


def _without_numbers(name) -> str:
    """A name without those of Keras, for a further layer, and of TensorFlow, for a further call."""
    return re.sub(r"(_\d+)+$", "", name)


def _check_builtin(file):
    for graph in file.subgraphs:
        for operator in graph.operators or []:
            name = operator_name(file, operator)
            if not hasattr(schema().BuiltinOperator, name):
                raise ExportError(
                    f"The file would need the operator {name!r}, which stock LiteRT does not have."
                )


def name_inputs_and_outputs(file: Any, inputs: list[str], outputs: list[str]) -> None:
    """Orders the inputs and outputs as the model does, names them and writes the signature."""
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
    if len(set(names)) != len(names):
        raise ValueError(f"Expected another name for each input and for each output. Got: {names}")
    entries = []
    for index, name in zip(indices, names, strict=True):
        entry = schema().TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), int(index)
        graph.tensors[index].name = name.encode()
        entries.append(entry)
    return entries
