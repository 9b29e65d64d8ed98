"""Runs a .tflite file, and measures what rounding its activations to int8 costs."""

import contextlib
import os
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tfcompress.tflite.graph_editor import Graph, Writer
from tfcompress.tflite.reader import duplicate
from tfcompress.tflite.writer import write_to
from tfcompress.utils.types import Path
from tfcompress.utils.writers import temporary_folder

NOISE_DRAWS = 8
INT8_LEVELS = 127.0


class Runner:
    """A loaded .tflite file: called with a list of arrays, it returns the list of outputs.

    Args:
        source: the file's bytes or its path, or a `ModelT`, which is written to a temporary file so
            that its weights are not in memory twice.
        delegates: whether LiteRT applies its default delegates; False runs the builtin kernels.
        threads: the number of threads.
    """

    def __init__(self, source: Path | bytes, delegates: bool = True, threads: int = 1) -> None:
        if hasattr(source, "subgraphs"):
            with contextlib.ExitStack() as stack:
                path = os.path.join(stack.enter_context(temporary_folder()), "model.tflite")
                with open(path, "wb") as file:
                    write_to(file, source)
                weakref.finalize(self, stack.pop_all().close)  # keeps the folder as long
            source = path
        self.interpreter = None
        self._load = partial(_loaded, source, delegates, threads)
        self._renew()

    def _renew(self):
        self.interpreter = None  # let go first, so that there is one at a time
        self.interpreter, self.allocated = self._load(), False

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        details = self.interpreter.get_input_details()
        shapes = [array.shape for array in inputs]
        if [tuple(detail["shape"]) for detail in details] != shapes:
            # LiteRT 2.3 with XNNPACK now and then computes with what lay in memory before, in files
            # with loops whose inputs change their sizes after they were allocated.
            if self.allocated:
                self._renew()
            for detail, shape in zip(details, shapes, strict=True):
                self.interpreter.resize_tensor_input(detail["index"], shape)
        if not self.allocated:
            self.interpreter.allocate_tensors()
            self.allocated = True
        for detail, array in zip(details, inputs, strict=True):
            self.interpreter.set_tensor(detail["index"], _quantize(array, detail))
        self.interpreter.invoke()
        outputs = self.interpreter.get_output_details()
        return [_dequantize(self.interpreter.get_tensor(d["index"]), d) for d in outputs]


def _loaded(source, delegates, threads):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    given = {"model_path" if isinstance(source, str) else "model_content": source}
    return Interpreter(**given, num_threads=threads, experimental_op_resolver_type=kind)


def with_inner_noise(source: Any, tensors: dict[int, set[int]], seed: int) -> Any:
    """A file as a `ModelT` with noise of one int8 step on tensors in the bodies of loops.

    The noise is the same in each turn of a loop: a body takes no further inputs.

    Args:
        source: the file's bytes or its path, or a `ModelT`.
        tensors: the tensors that operators get with noise, by the index of the subgraph.
        seed: of the noise.
    """
    file, random = duplicate(source), np.random.default_rng(seed)
    for index, inner in tensors.items():
        graph, operators, noisy = Graph(file, index), [], {}
        for operator in graph.subgraph.operators:
            for t in inner & set(operator.inputs) - noisy.keys():
                write = Writer(graph)
                noisy[t] = _with_noise(write, t, random)
                operators += write.operators
            operator.inputs = [noisy.get(t, t) for t in operator.inputs]
            operators.append(operator)
        graph.subgraph.operators = operators
    return file


def _with_noise(write, t, random) -> int:
    shape = write.graph.shape(t)
    axes, one = write.int32(range(len(shape))), (1,) * len(shape)
    peak = write("REDUCE_MAX", [write("ABS", [t], shape), axes], one, keepDims=True)
    steps = random.uniform(-0.5, 0.5, shape[-1:]) / INT8_LEVELS
    noise = write("MUL", [peak, write.float32(steps)], (*one[:-1], *shape[-1:]))
    return write("ADD", [t, noise], shape)


def _quantize(array, detail):
    """An array in the type of an input, which is int8 for some full-integer files."""
    scale, zero_point = detail["quantization"]
    if scale and array.dtype.kind == "f":
        array = np.clip(np.rint(array / scale) + zero_point, -128, 127)
    return array.astype(detail["dtype"], copy=False)


def _dequantize(array, detail):
    scale, zero_point = detail["quantization"]
    return (array.astype(np.float32) - zero_point) * scale if scale else array


def difference(output: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays; infinite where one is NaN or the shapes differ."""
    if output.shape != expected.shape:
        return float("inf")
    difference = np.abs(output.astype(np.float64) - expected.astype(np.float64))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


class Probe:
    """A float32 file whose inner tensors can be read, and to which noise can be added.

    Args:
        source: the file's bytes or its path, or a `ModelT`.
        tensors: the indices of the float32 tensors to read; a dict maps each of them to the
            smallest step that int8 rounding has there.
    """

    def __init__(self, source: Any, tensors: Any) -> None:
        self.tensors = sorted(tensors)
        self.least_steps = tensors if isinstance(tensors, dict) else {}
        self.runner = Runner(_instrumented(source, self.tensors) if tensors else source)

    def run(
        self, inputs: Sequence[np.ndarray], noise: dict[int, np.ndarray] | None = None
    ) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
        """The outputs of the model and `{tensor: values}`; `noise` is `{tensor: array}` to add."""
        if noise is None:
            noise = {t: np.zeros(1, np.float32) for t in self.tensors}
        values = self.runner([*inputs, *(noise[t] for t in self.tensors)])
        count = len(values) - len(self.tensors)
        return values[:count], dict(zip(self.tensors, values[count:], strict=True))

    def deviations(self, inputs: Sequence[np.ndarray]) -> list[float]:
        """The largest change of each output when the tensors are rounded to int8.

        Uniform noise of one step stands for the rounding, and the largest change of a few draws
        counts. A step is `max|x| / 127`, or the smallest step of the tensor if that is larger.
        """
        outputs, values = self.run(inputs)
        random, worst = np.random.default_rng(0), [0.0] * len(outputs)
        for _ in range(NOISE_DRAWS):
            noise = {}
            for t in self.tensors:
                peak = np.abs(values[t]).max(initial=0.0)
                step = max(peak / INT8_LEVELS, self.least_steps.get(t, 0.0))
                noise[t] = random.uniform(-step / 2, step / 2, values[t].shape).astype(np.float32)
            noisy, _ = self.run(inputs, noise)
            worst = list(map(max, worst, map(difference, noisy, outputs)))
        return worst


def _instrumented(source, tensors):
    """A `ModelT` with an output for each tensor, and an input that is added to it."""
    file = duplicate(source)
    graph = Graph(file)
    subgraph, file.signatureDefs = graph.subgraph, []
    subgraph.inputs, subgraph.outputs = list(subgraph.inputs), list(subgraph.outputs)
    replaced = {}
    for t in tensors:
        noise = graph.tensor((1,), name=f"noise of {t}")
        replaced[t] = (noise, graph.tensor(graph.shape(t), name=f"noisy {t}"))
    adds = {t: graph.operator("ADD", [t, noise], noisy) for t, (noise, noisy) in replaced.items()}
    # Noise on a tensor that no operator makes, an input, is added before the first operator.
    made = {int(i) for operator in subgraph.operators for i in operator.outputs}
    operators = [adds[t] for t in tensors if t not in made]
    for operator in subgraph.operators:
        operator.inputs = [replaced[i][1] if i in replaced else i for i in operator.inputs]
        operators += [operator, *(adds[t] for t in operator.outputs if t in adds)]
    subgraph.operators = operators
    subgraph.inputs += [replaced[t][0] for t in tensors]
    subgraph.outputs = [replaced[t][1] if t in replaced else t for t in subgraph.outputs]
    subgraph.outputs += tensors
    return file
