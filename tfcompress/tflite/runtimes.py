"""Which LiteRT versions run a .tflite file correctly, by its types and operator versions."""

from tfcompress.tflite.reader import operator_name, read, type_name
from tfcompress.utils.types import Path

OLDEST, NEWEST = (1, 2, 0), (2, 3, 0)  # that were tried
HALF_DEPTHWISE, SYMMETRIC, INT2, HALF_SPARSE = (1, 4, 0), (2, 0, 3), (2, 1, 2), (2, 2, 0)
LAST_WITHOUT_INT2 = 13  # version of FULLY_CONNECTED


def min_runtime(source: Path | bytes) -> str:
    """The oldest LiteRT, from 1.2.0 on, that is known to run a file correctly.

    Seen on x86-64 and on emulated ARM64 CPUs:
    - `2.1.2` for INT2 kernels and version 14 of FULLY_CONNECTED: older ones refuse them or stop in
      the first call;
    - `2.0.3` for float32 activations and an INT8 kernel in FULLY_CONNECTED without
      `asymmetricQuantizeInputs`: older ones give wrong results on ARM and no error;
    - `2.2.0` for a FLOAT16 DENSIFY: NaN in some older ones;
    - `1.4.0` for a FLOAT16 kernel with a float32 bias in DEPTHWISE_CONV_2D: older ones refuse it;
    - `1.2.0` for the other forms that `to_tflite` writes.

    Args:
        source: the file's bytes or its path, or a `ModelT` from `tfcompress.tflite.reader.read`.

    Raises:
        ValueError: the bytes are not a .tflite file.
    """
    model = source if hasattr(source, "subgraphs") else read(source)
    needs = [OLDEST]
    for graph in model.subgraphs:
        needs += [INT2 for tensor in graph.tensors or [] if type_name(tensor) == "INT2"]
        operators = graph.operators or []
        halves = {o.outputs[0] for o in operators if _unpacks_half(model, graph.tensors, o)}
        needs += [_needed_by(model, graph.tensors, operator, halves) for operator in operators]
    return ".".join(map(str, max(needs)))


def _unpacks_half(model, tensors, operator) -> bool:
    names = ("DEQUANTIZE", "DENSIFY")
    half = operator_name(model, operator) in names
    return half and type_name(tensors[operator.inputs[0]]) == "FLOAT16"


def _needed_by(model, tensors, operator, halves):
    """The version that one operator needs; `halves`: tensors that are unpacked float16 numbers."""
    code = operator_name(model, operator)
    if code == "DENSIFY" and operator.outputs[0] in halves:
        return HALF_SPARSE
    if code == "DEPTHWISE_CONV_2D":
        kernel, *bias = operator.inputs[1:]
        return HALF_DEPTHWISE if kernel in halves and not halves & set(bias) else OLDEST
    if code != "FULLY_CONNECTED":
        return OLDEST
    if model.operatorCodes[operator.opcodeIndex].version > LAST_WITHOUT_INT2:
        return INT2
    types = [type_name(tensors[index]) for index in operator.inputs[:2]]
    hybrid = types == ["FLOAT32", "INT8"]
    symmetric = hybrid and not operator.builtinOptions.asymmetricQuantizeInputs
    return SYMMETRIC if symmetric else OLDEST


def parse_version(version: str) -> tuple[int, ...]:
    """A version in numbers: (1, 2, 0) for `"1.2"`.

    Raises:
        ValueError: the text is no version, or one older than 1.2.
    """
    try:
        numbers = tuple(int(part) for part in version.split("."))
    except (AttributeError, ValueError):
        numbers = ()
    numbers += (0,) * (len(OLDEST) - len(numbers)) if numbers else ()
    if numbers[:1] > NEWEST[:1]:
        raise ValueError(
            f"`min_runtime` is newer than LiteRT itself, {'.'.join(map(str, NEWEST))}. "
            f"Received: {version!r}"
        )
    if numbers < OLDEST:
        raise ValueError(
            "`min_runtime` must be a LiteRT version of at least '1.2', such as '2.1.2'. "
            f"Received: {version!r}"
        )
    return numbers
