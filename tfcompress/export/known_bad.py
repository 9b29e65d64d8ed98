"""Forms that load and run, and give wrong results or crash on some runtime: never written."""

from typing import Any

from tfcompress.export.kernels.sparse_forms import BLOCK, LEDGER, SPARSE
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name, type_name
from tfcompress.tflite.runtimes import min_runtime, parse
from tfcompress.utils.errors import ExportError
from tfcompress.utils.types import Path

LEAST = {"INT8": -127, "INT4": -7}
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


def refuse_known_bad(file: Any) -> None:
    """Raises `ExportError` if a file holds a form that is known to be silently wrong.

    Seen in LiteRT 1.2 to 2.3, on x86-64 and on ARM64:
    - INT2 or INT4 filters of convolutions: INT2 gives NaN, INT4 never reaches the delegate;
    - INT2 with one scale for the whole kernel: the delegate leaves it;
    - INT2 rows that do not fill whole bytes;
    - weights of -128 (INT8) or -8 (INT4) in FULLY_CONNECTED: wrong in the builtin kernels;
    - float32 activations with an integer kernel in FULLY_CONNECTED without
      `asymmetricQuantizeInputs`: wrong on ARM before 2.0.3;
    - sparse float16 kernels (NaN), sparse INT8 ones in an operator version other than 8, which the
      delegate reads as dense, and sparse INT8 ones that are not cut in blocks of 16, 256 to a row
      at most;
    - the INT8 output of a DENSIFY in another version: the delegate fails;
    - a FLOAT16 DENSIFY: NaN in the delegate of several versions before 2.2;
    - variables that nothing ever sets, which a converter route leaves in place of weights.
    """
    for index in range(len(file.subgraphs)):
        graph = Graph(file, index)
        for operator in graph.subgraph.operators or []:
            code = operator_name(file, operator)
            reason = _reason(graph, operator, code)
            if reason:
                raise ExportError(f"{code} with {reason} gives wrong results. No file was written.")


def refuse_newer(source: Path | bytes, runtime: str) -> None:
    """Raises `ExportError` if a file needs a newer LiteRT than `runtime`, a tuple of numbers."""
    needed = min_runtime(source)
    if parse(needed) > runtime:
        asked = ".".join(map(str, runtime))
        raise ExportError(
            f"The file needs LiteRT {needed}, and `min_runtime` is {asked}. No file was written."
        )


def _reason(graph, operator, code) -> str | None:
    if code == "VAR_HANDLE" and not _assigned(graph):
        return "a variable that is never set"
    if code == "DENSIFY" and graph.type(operator.inputs[0]) == "FLOAT16":
        return "a FLOAT16 kernel"
    if code not in (*CONVOLUTIONS, "FULLY_CONNECTED") or len(operator.inputs) < 2:
        return None
    weight = graph.tensors[operator.inputs[1]]
    type = type_name(weight)
    integers = type in ("INT2", "INT4", "INT8")
    hybrid = code == "FULLY_CONNECTED" and integers and graph.type(operator.inputs[0]) == "FLOAT32"
    if hybrid and not operator.builtinOptions.asymmetricQuantizeInputs:
        return "float32 activations quantized symmetrically"
    if weight.sparsity is not None:
        return _sparse(graph, operator, weight, type)
    if code in CONVOLUTIONS:
        return f"an {type} filter" if type in ("INT2", "INT4") else None
    return _fully_connected(graph, operator, weight, type) if integers else None


def _sparse(graph, operator, weight, type) -> str | None:
    if type == "FLOAT16" or (type == "INT8" and _version(graph, operator) != SPARSE):
        return f"a sparse {type} kernel"
    cut = weight.sparsity.blockMap
    size = weight.sparsity.dimMetadata[-1].denseSize if cut is not None and len(cut) else 1
    if type == "INT8" and size != BLOCK[8]:
        return f"a sparse INT8 kernel in blocks of {size}"
    if type == "INT8" and weight.shape[-1] > BLOCK[8] * (LEDGER + 1):
        return f"a sparse INT8 kernel with rows of {weight.shape[-1]}"
    return None


def _fully_connected(graph, operator, weight, type) -> str | None:
    makers = {o.outputs[0]: o for o in graph.subgraph.operators if len(o.outputs)}
    maker = makers.get(operator.inputs[1])
    if maker is not None and operator_name(graph.model, maker) == "DENSIFY":
        return None if _version(graph, operator) == SPARSE else "the INT8 output of a DENSIFY"
    values = graph.values(operator.inputs[1])
    if values is None:
        return None
    scales = weight.quantization.scale if weight.quantization else None
    if type == "INT2" and (scales is None or len(scales) != weight.shape[0]):
        return "an INT2 kernel without a scale per row"
    if type == "INT2" and weight.shape[-1] % 4:
        return "INT2 rows that are no whole bytes"
    if values.min(initial=0) < LEAST.get(type, -2):
        return f"an {type} weight below {LEAST[type]}"
    return None


def _version(graph, operator) -> int:
    return graph.model.operatorCodes[operator.opcodeIndex].version


def _assigned(graph) -> bool:
    graphs = [Graph(graph.model, i) for i in range(len(graph.model.subgraphs))]
    operators = [o for g in graphs for o in g.subgraph.operators or []]
    return any(operator_name(graph.model, o) == "ASSIGN_VARIABLE" for o in operators)
