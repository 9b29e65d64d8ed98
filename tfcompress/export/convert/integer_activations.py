"""The stock converter's two quantizers: both take a float32 file whose tensors have ranges."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfcompress.export.kernels.kernel import layer_of
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name, read
from tfcompress.tflite.run_in_child import check_runs
from tfcompress.tflite.runner import Runner
from tfcompress.tflite.writer import write
from tfcompress.utils.errors import ExportError
from tfcompress.utils.writers import temporary_folder

_ALONE = threading.Lock()  # a file descriptor is of the whole process
PROGRAM = os.path.join(os.path.dirname(__file__), "int16_child.py")
WHOLE = ("INT32", "INT64", "BOOL")
REPORT = b"fully_quantize: "  # how the line begins that the quantizer writes each time
COPIES = ("REVERSE_V2", "REVERSE_SEQUENCE")  # what the quantizer is not known to treat as such


def to_int8(file: Any, io: Any) -> Any:
    """The file with int8 activations and kernels.

    Args:
        file: a `ModelT` whose tensors have ranges.
        io: the TensorFlow dtype of its inputs and outputs.

    Raises:
        ExportError: the converter does not quantize the model, or LiteRT would abort on the file.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    types = {"input_data_type": io, "output_data_type": io}
    try:
        with _without_report():
            blob = mlir_quantize(write(file), **types)
    except Exception as error:  # the converter raises its own and plain ones
        raise ExportError(_message(error)) from error
    refuse_what_ends_the_process(blob)
    made = read(blob)
    _rescale_copies(made)
    return made


@contextmanager
def _without_report() -> Iterator[None]:
    """Leaves out the quantizer's own line, which would break progress bars.

    What else is written to file descriptor 2 meanwhile follows.
    """
    with _ALONE, tempfile.TemporaryFile() as held:
        try:
            terminal = os.dup(2)
        except OSError:  # a process without it
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not line.startswith(REPORT)))


def _rescale_copies(file) -> None:
    """Lets operators that copy numbers keep the scale of their input, and rescales behind them.

    Where a CONCATENATION forces one scale on all of its inputs, the quantizer gives it to the
    output of a REVERSE_V2 too, which then would stand for other numbers.
    """
    graph, operators = Graph(file), []
    for operator in graph.subgraph.operators:
        operators.append(operator)
        if operator_name(file, operator) not in COPIES:
            continue
        x, y = operator.inputs[0], operator.outputs[0]
        before, after = (graph.tensors[index].quantization for index in (x, y))
        if graph.type(x) != "INT8" or _grid(before) == _grid(after):
            continue
        copy = graph.tensor(graph.shape(y), "INT8", quantization=before)
        operator.outputs = [copy]
        operators.append(graph.operator("QUANTIZE", [copy], y, version=2))
    graph.subgraph.operators = operators


def _grid(table) -> tuple[float, int]:
    return float(table.scale[0]), int(table.zeroPoint[0])


def to_int16(file: Any) -> Any:
    """The file with int16 activations and int8 kernels, float32 inputs and outputs.

    Raises:
        ExportError: the quantizer, which runs in a child process, does not take the file; or LiteRT
            does not run an operator so, and the message names the layer before it.
    """
    for tensor in file.subgraphs[0].tensors:
        table = tensor.quantization
        if table is not None and table.min is not None:  # one scale, and zero in the middle
            peak = max(abs(table.min[0]), abs(table.max[0]))
            table.min, table.max = [-peak], [peak]
    _refuse_loops(file)
    _refuse_integers(file)
    new = _quantized_in_child(write(file))
    made = read(new)
    for tensor in made.subgraphs[0].tensors:
        tensor.name = tensor.name or b""
    refuse_what_ends_the_process(new)
    _refuse_what_does_not_run(new, made)
    return made


def _quantized_in_child(blob) -> bytes:
    with temporary_folder() as folder:
        source, target = (os.path.join(folder, f"{name}.tflite") for name in ("float32", "int16"))
        with open(source, "wb") as opened:
            opened.write(blob)
        # -P: files beside the program are no modules
        command = [sys.executable, "-P", PROGRAM, source, target]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if run.returncode or not os.path.exists(target):
            ended = f"it ends the process (exit code {run.returncode})"
            raise ExportError(_message(run.stderr.strip() if run.returncode == 1 else ended))
        with open(target, "rb") as opened:
            return opened.read()


def _message(error) -> str:
    return f"The stock converter cannot quantize the model: {str(error).strip()[-400:]}"


def _refuse_loops(file) -> None:
    inner = [tensor.name.decode() for graph in file.subgraphs[1:] for tensor in graph.tensors]
    layers = sorted({layer_of(name) for name in inner if name.endswith("kernel")})
    if len(file.subgraphs) > 1:
        which = (
            f", which layers {layers} are. Give these `unroll=True` (and no `streaming`), or"
            if layers
            else ":"
        )
        raise ExportError(
            f"Int16 activations have no ranges inside loops{which} use "
            "`activations='static_int8'`, in which loops stay in float32."
        )


def _refuse_integers(file) -> None:
    """Refuses operators that compute integers, for which the quantizer wants ranges."""
    graph = Graph(file)
    whole = [o for o in graph.subgraph.operators if o.outputs and graph.type(o.outputs[0]) in WHOLE]
    codes = sorted({operator_name(file, operator) for operator in whole})
    if codes:
        raise ExportError(
            "Int16 activations do not go with operators that compute integers, as for the ids of "
            f"an Embedding or for sizes that are not known. Received: {', '.join(codes)}. Fix the "
            "batch size with `input_signature`, or use `activations='static_int8'`."
        )


def refuse_what_ends_the_process(blob: bytes) -> None:
    """Raises `ExportError` where LiteRT would take this process with it.

    It aborts on operators whose ranges it cannot compute with, such as those of a value that is
    always zero in an unrolled GRU.
    """
    try:
        check_runs(blob)
    except ValueError as error:
        if "ends the process" in str(error):
            raise ExportError(
                f"{error}. Give other samples as `check`, or use another kind of `activations`."
            ) from error


def _refuse_what_does_not_run(blob, file) -> None:
    for delegates in (True, False):
        try:
            interpreter = Runner(blob, delegates).interpreter
            interpreter.allocate_tensors()
            for detail in interpreter.get_input_details():
                interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"LiteRT does not run {_place_of(file, str(error))} with int16 activations: "
                f"{str(error).strip()[:300]} Use `activations='static_int8'` or 'int8'."
            ) from error


def _place_of(file, text) -> str:
    """The operator that an error of LiteRT names by its number, and the last layer before it."""
    found = re.search(r"Node number (\d+) \((\w+)\)", text)
    if found is None:
        return "the file"
    graph = Graph(file)
    before = graph.subgraph.operators[: int(found[1]) + 1]
    names = [graph.name(i) for o in before for i in o.inputs if i >= 0]
    layers = [layer_of(name) for name in names if name.endswith("/kernel")]
    return f"{found[2]}" + (f" at layer {layers[-1]!r}" if layers else "")
