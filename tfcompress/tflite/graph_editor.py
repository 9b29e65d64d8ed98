"""A .tflite graph while it is rewritten: new constants, tensors and operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcompress.tflite.reader import constant, pack, schema, type_name
from tfcompress.tflite.writer import LazyBuffer
from tfcompress.utils.types import Data, Tensor

_TABLES = {"REDUCE_MAX": "Reducer", "SUM": "Reducer", "MAXIMUM": "MaximumMinimum", "ROUND": None}


class Graph:
    """Adds to one subgraph of a model.

    Args:
        model: a `ModelT`, see `tfcompress.flatbuffer.read`.
        index: of the subgraph.
    """

    def __init__(self, model: Any, index: int = 0) -> None:
        self.model = model
        self.subgraph = model.subgraphs[index]
        self.added = {}

    @property
    def tensors(self) -> Any:
        return self.subgraph.tensors

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a tensor, an unknown size as -1."""
        tensor = self.tensors[index]
        shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
        return () if shape is None else tuple(int(size) for size in shape)

    def static_space(self, operator: Any) -> bool:
        """Whether the input and output of a convolution have a known height and width."""
        shapes = self.shape(operator.inputs[0]), self.shape(operator.outputs[0])
        return all(size > 0 for shape in shapes for size in shape[1:])

    def name(self, index: int) -> str:
        return self.tensors[index].name.decode()

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
        data: Data | None = None,
        quantization: Any = None,
    ) -> int:
        """Adds a tensor and gives its index; `data`: the bytes of a constant."""
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
        """Adds a constant whose type is the array's."""
        array = np.asarray(array, order="C")  # also without axes
        type = array.dtype.name.upper()
        return self.tensor(array.shape, type, name, array.tobytes(), quantization)

    def integers(self, values: np.ndarray, bits: int, name: str, quantization: Any) -> int:
        """Adds a constant of `bits`-bit integers."""
        data = pack(values, bits).tobytes()
        return self.tensor(values.shape, f"INT{bits}", name, data, quantization)

    def subgraph_of(self, name: str) -> "Graph":
        """Adds a subgraph without inputs and outputs."""
        subgraph = schema().SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = name.encode(), [], []
        subgraph.inputs, subgraph.outputs = [], []
        self.model.subgraphs.append(subgraph)
        return Graph(self.model, len(self.model.subgraphs) - 1)

    def operator(
        self, code: Any, inputs: Any, output: Any, version: str = 1, **options: Any
    ) -> Any:
        """Makes an operator; the options are the fields of its table in the schema.

        `output`: the index of a tensor, or None for an operator without one.
        """
        operator = schema().OperatorT()
        self.set_version(operator, code, version)
        operator.inputs = [int(i) for i in inputs]
        operator.outputs = [] if output is None else [int(output)]
        table = _TABLES.get(code, code.title().replace("_", ""))
        if table:
            operator.builtinOptions = getattr(schema(), f"{table}OptionsT")()
            operator.builtinOptionsType = getattr(schema().BuiltinOptions, f"{table}Options")
        for name, value in options.items():
            setattr(operator.builtinOptions, name, value)
        return operator

    def set_version(self, operator: Any, code: Any, version: str) -> None:
        """Gives an operator its own version; other operators of its kind keep theirs."""
        entry = schema().OperatorCodeT()
        entry.builtinCode = getattr(schema().BuiltinOperator, code)
        entry.deprecatedBuiltinCode, entry.version = min(entry.builtinCode, 127), version
        self.model.operatorCodes.append(entry)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1


class Writer:
    """Writes a chain of operators: each call adds one and gives its output tensor.

    Its tensors have no names: in a small file names would take as much as the kernels.
    """

    def __init__(self, graph: Any) -> None:
        self.graph, self.operators = graph, []

    def __call__(
        self,
        code: Any,
        inputs: Any,
        output: Any,
        version: str = 1,
        like: Any = None,
        **options: Any,
    ) -> Any:
        """Adds an operator.

        Args:
            output: the shape of the output, or the index of a tensor that exists.
            like: a tensor whose type and quantization the output takes; None is float32.
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

    def reshape(self, x: Tensor, shape: Sequence[int], output: Any = None, like: Any = None) -> Any:
        shape = [int(size) for size in shape]
        output = shape if output is None else output
        inputs = [x, self.constant(np.array(shape, np.int32))]
        return self("RESHAPE", inputs, output, like=like, newShape=shape)

    def constant(self, array: np.ndarray) -> Any:
        return self.graph.constant(array)

    def float32(self, values: np.ndarray) -> Any:
        return self.constant(np.array(values, np.float32))

    def int32(self, values: np.ndarray) -> Any:
        return self.constant(np.array(values, np.int32))


def per_channel(scale: np.ndarray, axis: int = 0, zero_point: Any = 0) -> Any:
    """Quantization parameters: `scale` a number, or an array along an axis."""
    table = schema().QuantizationParametersT()
    table.scale = np.atleast_1d(np.asarray(scale, np.float32))
    table.zeroPoint = np.full(len(table.scale), zero_point, np.int64)
    table.quantizedDimension = axis
    return table
