"""Full-integer files: int8 activations with fixed ranges, and exact low-bit kernels."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.export.convert.stock import convert, name_inputs_and_outputs
from tfcompress.export.exported import Exported
from tfcompress.export.kernels.kernel import Kernel, channel_axis, find_kernel, kernel_rows
from tfcompress.export.lower.lower import with_chains
from tfcompress.graph.private_keras import layers_in
from tfcompress.layers.discrete.fake_quant import ClipToRange, FakeQuant
from tfcompress.tflite.graph_editor import Graph, per_channel
from tfcompress.tflite.reader import operator_name, read, schema
from tfcompress.tflite.runner import Probe
from tfcompress.tflite.writer import write
from tfcompress.utils.types import Path

EXACT = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")  # get their exact kernels
IO_TYPES = {"float32": tf.float32, "int8": tf.int8}


def convert_static(model: Exported, batches: list, io: str) -> Any:
    """The full-integer file of the stock converter, a `ModelT`.

    Args:
        batches: lists of arrays, one for each input, on which the ranges are measured.
        io: `"float32"` or `"int8"`, the type of the inputs and outputs.
    """

    return convert(
        model,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: iter(batches),
        target_spec=tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
        inference_input_type=IO_TYPES[io],
        inference_output_type=IO_TYPES[io],
    )


def clip_ranges(model: keras.Model) -> Any:
    """The model with `FakeQuant` layers that clip without rounding; itself if it has none."""
    clips = {
        layer: [ClipToRange.from_config(layer.get_config())]
        for layer in layers_in(model)
        if type(layer) is FakeQuant
    }
    return with_chains(model, clips) if clips else model


def convert_learned(model: Exported, batches: list, io: str) -> Any:
    """Does what `convert_static` does, with the ranges of `FakeQuant` layers; others are measured.

    The stock converter measures either all ranges of a model or none. Here its last steps are done
    with other ranges: they are written into the float32 file, which is then quantized.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    file = convert(model)
    outputs = [entry.name.decode() for entry in file.signatureDefs[0].outputs]
    _move_ranges_to_tensors(file)
    blob = write(file)  # takes unused tensors out, so indices hold from here on
    tensors = file.subgraphs[0].tensors
    for index, measured in _measured(blob, batches).items():
        if not _has_range(tensors[index]):
            _set_range(tensors[index], *measured)
    types = {"input_data_type": IO_TYPES[io], "output_data_type": IO_TYPES[io]}
    file = read(mlir_quantize(write(file), **types))
    file.signatureDefs = []  # the next line keeps the order of inputs and outputs then
    name_inputs_and_outputs(file, model.input_names(), outputs)
    return file


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


def _measured(blob, batches) -> dict:
    """The range of each float32 activation of a file."""
    probe, found = Probe(blob, rounded_activations(blob)), {}
    for inputs in batches:
        for tensor, values in probe.run(inputs)[1].items():
            low, high = found.get(tensor, (0.0, 0.0))
            found[tensor] = (min(low, float(values.min())), max(high, float(values.max())))
    return found


def store_exact(file: Any, plain: Path, int2: bool) -> None:
    """Puts the exact integers of each low-bit kernel in place of the converter's rounded ones.

    The converter's scale is the largest weight of a channel over 127, whose multiples are only near
    levels such as 1/7 of that weight. FULLY_CONNECTED takes 2- and 4-bit kernels too, convolutions
    take 8-bit ones alone.
    """
    graph, kernels = Graph(file), _low_bit_kernels(plain)
    for operator in graph.subgraph.operators:
        code = operator_name(file, operator)
        if code not in EXACT or graph.type(operator.inputs[1]) != "INT8":
            continue
        kernel = _matching_kernel(graph, operator, code, kernels)
        if kernel is None:
            continue
        bits = kernel.bits_for(int2) if code == "FULLY_CONNECTED" else 8
        operator.inputs[1] = kernel.add_as_is(graph, bits)
        version = {2: 14, 4: 10, 8: 4}[bits] if code == "FULLY_CONNECTED" else 3
        graph.set_version(operator, code, version)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            operator.inputs[2] = _rescaled_bias(graph, operator, kernel)


def _low_bit_kernels(plain) -> list[Kernel]:
    graph = Graph(read(plain))
    found = [find_kernel(graph, operator, {}) for operator in graph.subgraph.operators]
    return [kernel for kernel in found if kernel is not None and kernel.grid is not None]


def _matching_kernel(graph, operator, code, kernels) -> Kernel | None:
    """The low-bit kernel of which the converter's rounding has made this operator's constant."""
    weight = graph.tensors[operator.inputs[1]]
    values = graph.values(operator.inputs[1])
    if values is None:
        return None
    rows = kernel_rows(values, channel_axis(graph, operator))
    scale = np.broadcast_to(weight.quantization.scale, len(rows))[:, None]
    for kernel in kernels:
        same = kernel.code == code and kernel.shape == values.shape
        if same and np.all(np.abs(kernel.grid.decode() - rows * scale) <= 0.51 * scale):
            return kernel
    return None


def _rescaled_bias(graph, operator, kernel) -> int:
    """The bias in units of the input scale times the new kernel scales."""
    old = graph.tensors[operator.inputs[2]]
    unit = graph.tensors[operator.inputs[0]].quantization.scale[0] * kernel.grid.scale
    values = graph.values(operator.inputs[2]) * np.float64(old.quantization.scale)
    values = np.rint(values / unit).astype(np.int32)
    return graph.constant(values, f"{kernel.layer}/bias", per_channel(unit))


def rounded_activations(plain: Path, model: keras.Model | None = None) -> dict[int, float]:
    """The float32 activations of a file, all of which a full-integer file rounds.

    Each has the step of its learned range if `model` has a `FakeQuant` for it, or 0. The range can
    be much wider than the values after a short training.
    """
    graph = Graph(read(plain))
    steps = dict.fromkeys(map(int, graph.subgraph.inputs), 0.0)
    layers = [] if model is None else layers_in(model)
    learned = {
        np.float32(end): (layer.high - layer.low) / 255
        for layer in layers
        if isinstance(layer, FakeQuant)
        for end in (layer.low, layer.high)
        if end
    }
    for operator in graph.subgraph.operators:
        constants = [graph.values(i) for i in operator.inputs if i >= 0]
        ends = [c.item() for c in constants if c is not None and c.size == 1]  # of a clip
        step = max((learned.get(np.float32(end), 0.0) for end in ends), default=0.0)
        steps.update((int(index), step) for index in operator.outputs)
    return {index: s for index, s in steps.items() if graph.type(index) == "FLOAT32"}
