"""Full-integer files: int8 or int16 activations with ranges that the file holds."""

import warnings
from typing import Any

import keras
import tensorflow as tf

from tfcompress.export.convert.integer_activations import to_int8, to_int16
from tfcompress.export.convert.masked_scores import bound_masks
from tfcompress.export.convert.ranges import measure_ranges, normalized_later
from tfcompress.export.convert.stock import convert, name_inputs_and_outputs
from tfcompress.export.draft import Draft
from tfcompress.export.kernels.kernel import CHANNEL_AXIS, layer_of, weight_place
from tfcompress.export.lower.lower import lower, with_chains
from tfcompress.graph.private_keras import layers_in
from tfcompress.layers.discrete.fake_quant import ClipToRange, FakeQuant
from tfcompress.tflite.graph_editor import Graph, Writer
from tfcompress.tflite.reader import operator_name, read, schema
from tfcompress.tflite.writer import write
from tfcompress.utils.errors import ExportError

IO_TYPES = {"float32": tf.float32, "int8": tf.int8}


def clip_ranges(model: keras.Model) -> Any:
    """The model with `FakeQuant` layers that clip without rounding; itself if it has none."""
    clips = {
        layer: [ClipToRange.from_config(layer.get_config())]
        for layer in layers_in(model)
        if type(layer) is FakeQuant
    }
    return with_chains(model, clips) if clips else model


def quantize(draft: Draft) -> None:
    """Makes a full-integer file of the float32 one, with the ranges of `FakeQuant` layers.

    The stock converter's calibrator ends the process on loops and on some numbers. So other ranges
    are measured here and written into the float32 file, and the converter only quantizes it. The
    bodies of loops have no ranges and stay in float32.

    Raises:
        ExportError: an int8 input cannot hold columns of such different sizes; or the converter
            does not quantize the model; or LiteRT does not run it with int16 activations.
    """
    measured = draft.ranges
    if draft.source is not draft.model.model:
        measured = _convert_with_ranges(draft)
    file = draft.file
    bound_masks(file, measured)
    outputs = [entry.name.decode() for entry in draft.float32.signatureDefs[0].outputs]
    before = normalized_later(Graph(file), measured, draft.levels)
    wide = draft.activations == "static_int16"
    if before and (wide or draft.io == "int8"):
        raise ExportError(
            "An input that is normalized has columns of too different sizes for integers with one "
            "scale. Use `activations='static_int8'` with `io='float32'`, or normalize before."
        )
    for index in measured.keys() - before:
        tensor = file.subgraphs[0].tensors[index]
        if not _has_range(tensor):
            _set_range(tensor, *measured[index])
    file.signatureDefs = []
    draft.file = to_int16(file) if wide else to_int8(file, IO_TYPES[draft.io])
    _concatenate_integers(Graph(draft.file))
    _warn_of_float32(Graph(draft.file))
    draft.file.signatureDefs = []  # the next line keeps the order of inputs and outputs then
    name_inputs_and_outputs(draft.file, draft.model.input_names(), outputs)


def _concatenate_integers(graph) -> None:
    """Quantizes what the converter leaves in float32 beside integers that it is joined with.

    That is what a loop gives, joined with an input, as before a causal convolution that streams.
    """
    operators = []
    for operator in graph.subgraph.operators:
        out = operator.outputs[0]
        joined = operator_name(graph.model, operator) == "CONCATENATION"
        if joined and graph.type(out) in ("INT8", "INT16"):
            write = Writer(graph)
            operator.inputs = [
                write("QUANTIZE", [x], graph.shape(x), like=out)
                if graph.type(x) == "FLOAT32"
                else x
                for x in operator.inputs
            ]
            operators += write.operators
        operators.append(operator)
    graph.subgraph.operators = operators


def _warn_of_float32(graph) -> None:
    """Names the layers whose products stay in float32, as LiteRT has no others for CONV_3D."""
    left = [
        layer_of(graph.name(operator.inputs[weight_place(code)]))
        for operator in graph.subgraph.operators
        if (code := operator_name(graph.model, operator)) in CHANNEL_AXIS
        and code != "GATHER"
        and graph.type(operator.outputs[0]) == "FLOAT32"
    ]
    if left:
        warnings.warn(
            f"The products of layers {left} stay in float32: LiteRT has none in integers for them.",
            stacklevel=2,
        )


def _convert_with_ranges(draft) -> dict:
    """Converts the model with its `FakeQuant` layers, and measures the other ranges."""
    draft.lowered = lower(draft.source)
    file = convert(draft.model.of(draft.lowered))
    _move_ranges_to_tensors(file)
    blob = write(file)  # without unused tensors, so that indices hold from here on
    draft.file = read(blob)
    return measure_ranges(blob, draft.batches)


def _move_ranges_to_tensors(file) -> None:
    """Moves the range of each QUANTIZE, which a `FakeQuant` becomes, to the tensor it reads."""
    graph, same, kept = file.subgraphs[0], {}, []
    for operator in graph.operators:
        code = operator_name(file, operator)
        operator.inputs = [same.get(int(i), int(i)) for i in operator.inputs]
        if code == "QUANTIZE":
            table = graph.tensors[operator.outputs[0]].quantization
            scale, zero = float(table.scale[0]), int(table.zeroPoint[0])
            _set_range(graph.tensors[operator.inputs[0]], -zero * scale, (255 - zero) * scale)
        if code in ("QUANTIZE", "DEQUANTIZE"):
            same[int(operator.outputs[0])] = operator.inputs[0]
        else:
            kept.append(operator)
    graph.operators = kept
    graph.outputs = [same.get(int(i), int(i)) for i in graph.outputs]
    file.signatureDefs = []


def _set_range(tensor, low, high) -> None:
    tensor.quantization = schema().QuantizationParametersT()
    tensor.quantization.min, tensor.quantization.max = [low], [max(high, low + 1e-6)]


def _has_range(tensor) -> bool:
    return tensor.quantization is not None and tensor.quantization.min is not None
