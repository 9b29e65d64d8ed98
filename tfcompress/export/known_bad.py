"""Forms that are never written: some runtimes load them and then give wrong results or crash."""

from typing import Any

from tfcompress.export.draft import Draft
from tfcompress.export.kernels.sparse_forms import BLOCK_SIZE, MOST_BLOCKS, SPARSE_VERSION
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name, type_name
from tfcompress.tflite.runtimes import min_runtime, parse_version
from tfcompress.utils.errors import ExportError

LOWEST_INTEGER = {"INT8": -127, "INT4": -7}  # of a kernel, by its type
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


def refuse(draft: Draft) -> None:
    """Refuses a file that some runtime is known to run wrongly, or that needs a newer one."""
    refuse_known_bad(draft.file)
    refuse_newer(draft.file, draft.runtime)


def refuse_known_bad(file: Any) -> None:
    """Raises `ExportError` if a file holds a form that is known to give wrong results.

    Seen in LiteRT 1.2 to 2.3, on x86-64 and on ARM64:
    - INT2 or INT4 filters of convolutions: INT2 gives NaN, INT4 never reaches the delegate;
    - INT2 with one scale for the whole kernel: the delegate does not take it;
    - INT2 rows that do not fill whole bytes;
    - weights of -128 (INT8) or -8 (INT4) in FULLY_CONNECTED: wrong in the builtin kernels;
    - float32 activations with an integer kernel in FULLY_CONNECTED without
      `asymmetricQuantizeInputs`: wrong on ARM before 2.0.3;
    - sparse float16 kernels: NaN;
    - sparse INT8 kernels in an operator version other than 8: the delegate reads them as dense;
    - sparse INT8 kernels in other blocks than those of 16 entries, or with more than 256 blocks in
      a row;
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


def refuse_newer(file: Any, runtime: tuple[int, ...]) -> None:
    """Raises `ExportError` if a file needs a newer LiteRT than `runtime`, in numbers."""
    needed = min_runtime(file)
    if parse_version(needed) > runtime:
        asked = ".".join(map(str, runtime))
        raise ExportError(
            f"The file needs LiteRT {needed}, and `min_runtime` is {asked}. No file was written."
        )


def _reason(graph, operator, code) -> str | None:
    if code == "VAR_HANDLE" and not _has_assignment(graph):
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
        return _reason_against_sparse(graph, operator, weight, type)
    if code in CONVOLUTIONS:
        return f"an {type} filter" if type in ("INT2", "INT4") else None
    return _reason_against_product(graph, operator, weight, type) if integers else None


def _reason_against_sparse(graph, operator, weight, type) -> str | None:
    if type == "FLOAT16" or (type == "INT8" and _version(graph, operator) != SPARSE_VERSION):
        return f"a sparse {type} kernel"
    cut = weight.sparsity.blockMap
    size = weight.sparsity.dimMetadata[-1].denseSize if cut is not None and len(cut) else 1
    if type == "INT8" and size != BLOCK_SIZE[8]:
        return f"a sparse INT8 kernel in blocks of {size}"
    if type == "INT8" and weight.shape[-1] > BLOCK_SIZE[8] * (MOST_BLOCKS + 1):
        return f"a sparse INT8 kernel with rows of {weight.shape[-1]}"
    return None


def _reason_against_product(graph, operator, weight, type) -> str | None:
    makers = {o.outputs[0]: o for o in graph.subgraph.operators if len(o.outputs)}
    maker = makers.get(operator.inputs[1])
    if maker is not None and operator_name(graph.model, maker) == "DENSIFY":
        return (
            None if _version(graph, operator) == SPARSE_VERSION else "the INT8 output of a DENSIFY"
        )
    values = graph.values(operator.inputs[1])
    if values is None:
        return None
    scales = weight.quantization.scale if weight.quantization else None
    if type == "INT2" and (scales is None or len(scales) != weight.shape[0]):
        return "an INT2 kernel without a scale per row"
    if type == "INT2" and weight.shape[-1] % 4:
        return "INT2 rows that do not fill whole bytes"
    if values.min(initial=0) < LOWEST_INTEGER.get(type, -2):
        return f"an {type} weight below {LOWEST_INTEGER[type]}"
    return None


def _version(graph, operator) -> int:
    return graph.model.operatorCodes[operator.opcodeIndex].version


def _has_assignment(graph) -> bool:
    graphs = [Graph(graph.model, i) for i in range(len(graph.model.subgraphs))]
    operators = [o for g in graphs for o in g.subgraph.operators or []]
    return any(operator_name(graph.model, o) == "ASSIGN_VARIABLE" for o in operators)
