"""Helpers of the export tests: models on a grid, and a plain run of a file."""

import math

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tfcompress.graph.paths import walk
from tfcompress.tflite import reader as flatbuffer
from tfcompress.tflite.stored_tensors import stored_tensors

BINARY, TERNARY, FOUR_BITS, EIGHT_BITS = (
    (-1, 1),
    (-1, 0, 1),
    tuple(range(-7, 8)),
    tuple(range(-127, 128)),
)


def on_grid(model, levels=TERNARY, seed=0):
    """Gives each kernel small integers times a scale per output channel, each weight some value."""
    random = np.random.default_rng(seed)
    for layer, _ in walk(model).values():
        kernel = getattr(layer, "kernel", None)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
        if kernel is None:
            continue
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        channels = kernel.shape[-2:] if depthwise else kernel.shape[-1:]
        values = random.choice(levels, kernel.shape) / max(levels)
        kernel.assign(values * random.uniform(0.5, 1.5, channels) / math.sqrt(values.size))
        if layer.bias is not None:
            layer.bias.assign(random.standard_normal(layer.bias.shape) * 0.1)
    return model


def load(blob, delegates=True):
    kind = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_content=blob, experimental_op_resolver_type=kind)


def run(blob, inputs, delegates=True):
    """The outputs of a file; the inputs in the order of the file."""
    return call(load(blob, delegates), inputs)


def call(runner, inputs):
    """The outputs of an interpreter whose inputs get other sizes, where they have others."""
    for detail, array in zip(runner.get_input_details(), inputs, strict=True):
        runner.resize_tensor_input(detail["index"], array.shape)
    runner.allocate_tensors()
    for detail, array in zip(runner.get_input_details(), inputs, strict=True):
        runner.set_tensor(detail["index"], array)
    runner.invoke()
    return [runner.get_tensor(detail["index"]) for detail in runner.get_output_details()]


def error(output, expected):
    """The largest difference, in units of the expected output's rms."""
    expected = np.asarray(expected, np.float64)
    return np.abs(output - expected).max() / np.sqrt(np.mean(expected**2))


def operators(blob):
    file = flatbuffer.read(blob)
    return [flatbuffer.operator_name(file, o) for o in file.subgraphs[0].operators]


def encodings(blob):
    """`{layer: encoding}` of the kernels."""
    rows = stored_tensors(blob)
    return {r.layer.split("/kernel")[0]: r.encoding for r in rows if r.layer.endswith("/kernel")}
