"""Adds constants, tensors and operators to the graph of a .tflite file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcompress.tflite.reader import constant, pack_integers, schema, type_name
from tfcompress.tflite.writer import LazyBuffer

# The table of an operator's options, where the schema does not name it like the operator.
_OPTION_TABLES = {
    **{"REDUCE_MAX": "Reducer", "SUM": "Reducer"},
    **{"MAXIMUM": "MaximumMinimum", "ROUND": None, "EMBEDDING_LOOKUP": None},
}


class Graph:
    """One subgraph of a model, with functions that add to it.

    Args:
        model: a `ModelT`, see `tfcompress.tflite.reader.read`.
        index: the index of the subgraph.

    Attributes:
        added: what callers have added already, under keys of their own, to use it again.
    """

    def __init__(self, model: Any, index: int = 0) -> None:
        self.model = model
        self.subgraph = model.subgraphs[index]
        self.added = {}

    @property
    def tensors(self) -> Any:
        return self.subgraph.tensors

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a tensor, with -1 for an unknown size."""
        tensor = self.tensors[index]
        shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
        return () if shape is None else tuple(int(size) for size in shape)

    def static_space(self, operator: Any) -> bool:
        """Whether the height and width of a convolution's input and output are known."""
        shapes = self.shape(operator.inputs[0]), self.shape(operator.outputs[0])
        return all(size > 0 for shape in shapes for size in shape[1:])

    def name(self, index: int) -> str:
        return (self.tensors[index].name or b"").decode()

    def values(self, index: int) -> np.ndarray | None:
        """The values of a constant, or None."""
        return constant(self.model, self.tensors[index])

    def is_lazy(self, index: int) -> bool:
        return isinstance(self.model.buffers[self.tensors[index].buffer], LazyBuffer)

    def type(self, index: int) -> str:
        return type_name(self.tensors[index])

    def tensor(
        self,
        shape: Sequence[int],
        type: str = "FLOAT32",
        name: str = "",
        data: bytes | None = None,
        quantization: Any = None,
    ) -> int:
        """Adds a tensor and returns its index; `data` holds the bytes of a constant."""
        tensor = schema().TensorT()
        tensor.shape = [max(int(size), 1) for size in shape]
        if any(size < 0 for size in shape):
            tensor.shapeSignature = [int(size) for size in shape]
        tensor.type = getattr(schema().TensorType, type)
        tensor.name, tensor.hasRank = name.encode(), True
        tensor.quantization = quantization
        if data is not None:
            self.model.buffers.append(schema().BufferT(data=np.frombuffer(data, np.uint8)))
            tensor.buffer = len(self.model.buffers) - 1
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, array: np.ndarray, name: str = "", quantization: Any = None) -> int:
        """Adds a constant that has the type of the array."""
        array = np.asarray(array, order="C")  # `ascontiguousarray` would give a scalar an axis
        type = array.dtype.name.upper()
        return self.tensor(array.shape, type, name, array.tobytes(), quantization)

    def integers(self, values: np.ndarray, bits: int, name: str, quantization: Any) -> int:
        """Adds a constant of `bits`-bit integers."""
        data = pack_integers(values, bits).tobytes()
        return self.tensor(values.shape, f"INT{bits}", name, data, quantization)

    def subgraph_of(self, name: str) -> "Graph":
        """Adds a subgraph without inputs and outputs."""
        subgraph = schema().SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = name.encode(), [], []
        subgraph.inputs, subgraph.outputs = [], []
        self.model.subgraphs.append(subgraph)
        return Graph(self.model, len(self.model.subgraphs) - 1)

    def operator(
        self, code: str, inputs: Sequence[int], output: int | None, version: int = 1, **options: Any
    ) -> Any:
        """Makes an operator, which the caller has to place; `options` are fields of its table.

        `output` is the index of a tensor, or None for an operator without outputs.
        """
        operator = schema().OperatorT()
        self.set_version(operator, code, version)
        operator.inputs = [int(i) for i in inputs]
        operator.outputs = [] if output is None else [int(output)]
        table = _OPTION_TABLES.get(code, code.title().replace("_", ""))
        if table:
            operator.builtinOptions = getattr(schema(), f"{table}OptionsT")()
            operator.builtinOptionsType = getattr(schema().BuiltinOptions, f"{table}Options")
        for name, value in options.items():
            setattr(operator.builtinOptions, name, value)
        return operator

    def set_version(self, operator: Any, code: str, version: int) -> None:
        """Gives an operator its own version; other operators of its kind keep theirs."""
        entry = schema().OperatorCodeT()
        entry.builtinCode = getattr(schema().BuiltinOperator, code)
        entry.deprecatedBuiltinCode, entry.version = min(entry.builtinCode, 127), version
        self.model.operatorCodes.append(entry)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1


class Writer:
    """Writes a chain of operators: each call adds one and returns its output tensor.

    The tensors get no names, which would take as many bytes as the kernels of a small file.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.operators = graph, []

    def __call__(
        self,
        code: str,
        inputs: Sequence[int],
        output: int | Sequence[int],
        version: int = 1,
        like: int | None = None,
        **options: Any,
    ) -> int:
        """Adds an operator.

        Args:
            output: the shape of a new output tensor, or the index of a tensor that exists.
            like: the tensor whose type and quantization a new output gets; None is float32.
        """
        if not isinstance(output, int):
            output = self._tensor(output, like)
        self.operators.append(self.graph.operator(code, inputs, output, version, **options))
        return output

    def _tensor(self, shape, like):
        if like is None:
            return self.graph.tensor(shape)
        quantization = self.graph.tensors[like].quantization
        return self.graph.tensor(shape, self.graph.type(like), quantization=quantization)

    def reshape(
        self, x: int, shape: Sequence[int], output: int | None = None, like: int | None = None
    ) -> int:
        shape = [int(size) for size in shape]
        output = shape if output is None else output
        inputs = [x, self.constant(np.array(shape, np.int32))]
        return self("RESHAPE", inputs, output, like=like, newShape=shape)

    def cast(self, x: int, type: str) -> int:
        output = self.graph.tensor(self.graph.shape(x), type)
        kinds = [self.graph.tensors[index].type for index in (x, output)]
        return self("CAST", [x], output, inDataType=kinds[0], outDataType=kinds[1])

    def constant(self, array: np.ndarray) -> int:
        return self.graph.constant(array)

    def float32(self, values: Any) -> int:
        return self.constant(np.array(values, np.float32))

    def int32(self, values: Any) -> int:
        return self.constant(np.array(values, np.int32))


def per_channel(scale: float | np.ndarray, axis: int = 0, zero_point: int = 0) -> Any:
    """Quantization parameters; `scale` is a number, or an array along the axis."""
    table = schema().QuantizationParametersT()
    table.scale = np.atleast_1d(np.asarray(scale, np.float32))
    table.zeroPoint = np.full(len(table.scale), zero_point, np.int64)
    table.quantizedDimension = axis
    return table
