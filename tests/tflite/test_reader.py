import contextlib
import copy

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.tflite import reader as flatbuffer
from tfcompress.tflite import writer as flatbuffer_writer
from tfcompress.tflite.stored_tensors import stored_tensors
from tfcompress.tflite.writer import LazyBuffer, _sharing_builder, write, write_to


def small_file(rows=3, columns=5, kind="FLOAT32"):
    """A file with one FULLY_CONNECTED, written with the schema's own classes alone."""
    schema = flatbuffer.schema()
    weight = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    data = (
        weight.tobytes() if kind == "FLOAT32" else flatbuffer.pack_integers(weight % 2, 2).tobytes()
    )
    tensors = []
    for name, shape, buffer in (
        ("x", [1, columns], 0),
        ("w", [rows, columns], 2),
        ("y", [1, rows], 0),
    ):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), shape, buffer
        tensor.type = getattr(schema.TensorType, kind if name == "w" else "FLOAT32")
        tensors.append(tensor)
    if kind == "INT2":
        tensors[1].quantization = schema.QuantizationParametersT()
        tensors[1].quantization.scale = [1.0] * rows
        tensors[1].quantization.zeroPoint = [0] * rows
    operator = schema.OperatorT()
    operator.inputs, operator.outputs, operator.opcodeIndex = [0, 1, -1], [2], 0
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [operator], [0], [2]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    model = schema.ModelT()
    unused = schema.BufferT(data=np.full(1000, 7, np.uint8))
    weights = schema.BufferT(data=np.frombuffer(data, np.uint8))
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT(), unused, weights]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output()), weight


def test_packing_by_hand():
    # 1, -1, 0, -2 are 01, 11, 00, 10 in two bits; the first one lies lowest: 10 00 11 01.
    assert flatbuffer.pack_integers([1, -1, 0, -2, 1], 2).tolist() == [0b10001101, 0b01]
    assert flatbuffer.pack_integers([7, -8, -1], 4).tolist() == [0x87, 0x0F]
    assert flatbuffer.pack_integers([-128, 127], 8).tolist() == [0x80, 0x7F]


@given(st.sampled_from([2, 4, 8]), st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_unpack_inverts_pack(bits, seed, count):
    low = -(2 ** (bits - 1))
    values = np.random.default_rng(seed).integers(low, -low, count).astype(np.int8)
    packed = flatbuffer.pack_integers(values, bits)
    assert packed.size == -(-count * bits // 8)
    np.testing.assert_array_equal(flatbuffer.unpack_integers(packed, bits, count), values)


def test_reads_a_file():
    blob, weight = small_file()
    model = flatbuffer.read(blob)
    tensor = model.subgraphs[0].tensors[1]
    assert flatbuffer.operator_name(model, model.subgraphs[0].operators[0]) == "FULLY_CONNECTED"
    assert flatbuffer.type_name(tensor) == "FLOAT32"
    np.testing.assert_array_equal(flatbuffer.constant(model, tensor), weight)
    assert flatbuffer.constant(model, model.subgraphs[0].tensors[0]) is None


def test_reads_two_bit_constants_from_a_path(tmp_path):
    blob, weight = small_file(kind="INT2")
    path = tmp_path / "model.tflite"
    path.write_bytes(blob)
    model = flatbuffer.read(path)
    values = flatbuffer.constant(model, model.subgraphs[0].tensors[1])
    np.testing.assert_array_equal(values, weight % 2)


def test_writing_drops_what_nothing_uses_and_aligns_buffers():
    blob, weight = small_file()
    written = write(flatbuffer.read(blob))
    assert len(written) < len(blob) - 900
    assert written.find(weight.tobytes()) % 16 == 0
    assert write(flatbuffer.read(written)) == written
    model = flatbuffer.read(written)
    np.testing.assert_array_equal(flatbuffer.constant(model, model.subgraphs[0].tensors[1]), weight)


def test_tensors_share_equal_zero_points_and_each_keeps_its_scales():
    model = flatbuffer.read(write(flatbuffer.read(small_file(kind="INT2")[0])))
    one, graph = len(write(model)), model.subgraphs[0]
    other = copy.deepcopy(graph.tensors[1])
    model.buffers.append(flatbuffer.schema().BufferT(data=np.array([1, 2, 3, 0], np.uint8)))
    other.name, other.buffer = b"v", len(model.buffers) - 1
    other.quantization.scale = np.float32([1, 2, 3])
    graph.tensors.append(other)
    operator = copy.deepcopy(graph.operators[0])
    operator.inputs[1] = 3
    graph.operators.append(operator)
    blob = write(model)
    rows = {row.layer: row.bytes for row in stored_tensors(blob)}
    assert rows["w"] == 4 + 12 * 3 and rows["v"] == 4 + 4 * 3
    assert sum(rows.values()) == len(blob) < one + 160
    tensors = flatbuffer.read(blob).subgraphs[0].tensors
    found = {tensor.name: tensor.quantization for tensor in tensors if tensor.quantization}
    assert found[b"v"].scale.tolist() == [1, 2, 3] and found[b"w"].scale.tolist() == [1, 1, 1]
    assert found[b"v"].zeroPoint.tolist() == found[b"w"].zeroPoint.tolist() == [0, 0, 0]


def test_a_lazy_buffer_is_computed_when_the_file_is_written(tmp_path):
    blob, weight = small_file()
    model, asked = flatbuffer.read(blob), []

    def compute():
        asked.append(1)
        return weight.T.copy().T  # not contiguous

    model.buffers[model.subgraphs[0].tensors[1].buffer] = LazyBuffer(60, compute)
    with open(tmp_path / "lazy.tflite", "wb") as file:
        write_to(file, model)
    assert len(asked) == 1
    assert (tmp_path / "lazy.tflite").read_bytes() == write(flatbuffer.read(blob))
    read = flatbuffer.read(tmp_path / "lazy.tflite")
    np.testing.assert_array_equal(flatbuffer.constant(read, read.subgraphs[0].tensors[1]), weight)


def test_files_beyond_two_gigabytes_are_refused(monkeypatch):
    model = flatbuffer.read(small_file()[0])
    monkeypatch.setattr(flatbuffer_writer, "LARGEST_FILE", 300)
    with pytest.raises(ValueError, match="at most 300 bytes"):
        write(model)


def test_writing_keeps_the_operators_of_unused_tensors_straight():
    blob, _ = small_file()
    model = flatbuffer.read(blob)
    graph = model.subgraphs[0]
    graph.tensors.insert(0, flatbuffer.schema().TensorT())
    graph.tensors[0].shape, graph.tensors[0].name = [1], b"unused"
    graph.operators[0].inputs, graph.operators[0].outputs = [1, 2, -1], [3]
    graph.inputs, graph.outputs = [1], [3]
    written = flatbuffer.read(write(model)).subgraphs[0]
    assert [tensor.name for tensor in written.tensors] == [b"x", b"w", b"y"]
    assert written.operators[0].inputs == [0, 1, -1]
    assert list(written.outputs) == [2]


def test_stored_tensors_sum_to_the_file():
    for kind, size, scales in (("FLOAT32", 60, 0), ("INT2", 4, 3)):
        blob, _ = small_file(kind=kind)
        rows = stored_tensors(blob)
        assert sum(row.bytes for row in rows) == len(blob)
        assert rows[0].layer == "w" and rows[0].encoding == kind and rows[0].shape == (3, 5)
        assert rows[0].bytes == size + 12 * scales
        assert rows[0].float_bytes == 60
        assert rows[-1].encoding == "graph"


@pytest.mark.parametrize(
    "blob",
    [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"PK\3\4" + bytes(100), bytes(4) + b"TFL3" + bytes(99)],
)
def test_foreign_bytes_are_refused(blob):
    with pytest.raises(ValueError, match=r"tflite file"):
        flatbuffer.read(blob)


def test_every_truncation_is_refused():
    blob, _ = small_file()
    for size in range(0, len(blob) - 4, 7):
        with pytest.raises(ValueError, match="Received"):
            flatbuffer.read(blob[:size])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_damage_gives_a_value_error_or_a_readable_file(seed):
    random = np.random.default_rng(seed)
    blob = bytearray(small_file()[0])
    for place in random.integers(8, len(blob), 3):
        blob[place] = random.integers(256)
    with contextlib.suppress(ValueError):
        flatbuffer.read(bytes(blob))


def test_a_buffer_of_the_wrong_size_is_refused():
    blob, _ = small_file()
    model = flatbuffer.read(blob)
    model.subgraphs[0].tensors[1].shape = [3, 6]
    with pytest.raises(ValueError, match=r"60 bytes in place of 72"):
        flatbuffer.read(write(model))


def test_a_missing_tensor_is_refused():
    blob, _ = small_file()
    schema = flatbuffer.schema()
    model = schema.ModelT.InitFromPackedBuf(blob, 0)
    model.subgraphs[0].operators[0].inputs = [0, 9, -1]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    with pytest.raises(ValueError, match="missing tensor"):
        flatbuffer.read(bytes(builder.Output()))


def once(model):
    code = flatbuffer.schema().OperatorCodeT()
    code.builtinCode = flatbuffer.schema().BuiltinOperator.CALL_ONCE
    model.operatorCodes = [code]
    operator = model.subgraphs[0].operators[0]
    operator.builtinOptions, operator.builtinOptionsType = None, 0
    return operator


def once_elsewhere(model):
    operator = once(model)
    operator.builtinOptions = flatbuffer.schema().CallOnceOptionsT()
    operator.builtinOptions.initSubgraphIndex = 7
    operator.builtinOptionsType = flatbuffer.schema().BuiltinOptions.CallOnceOptions


def without_inputs(model):
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = flatbuffer.schema().BuiltinOperator.DEQUANTIZE
    model.subgraphs[0].operators[0].inputs = []


def without_outputs(model):
    model.subgraphs[0].operators[0].outputs = []


def sign(model, graph=0, tensor=0, name=b"x"):
    schema = flatbuffer.schema()
    model.signatureDefs, entry = [schema.SignatureDefT()], schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    model.signatureDefs[0].inputs, model.signatureDefs[0].subgraphIndex = [entry], graph


@pytest.mark.parametrize(
    "change, message",
    [
        (once, "CALL_ONCE lacks its options"),
        (once_elsewhere, "CALL_ONCE refers to a missing graph"),
        (without_inputs, "DEQUANTIZE lacks inputs"),
        (without_outputs, "FULLY_CONNECTED lacks inputs or outputs"),
        (lambda model: sign(model, graph=3), "signature refers to a missing graph"),
        (lambda model: sign(model, tensor=9), "signature refers to a missing tensor"),
        (lambda model: sign(model, name=None), "signature refers to a missing tensor"),
    ],
)
def test_what_is_read_later_is_asked_for(change, message):
    model = flatbuffer.read(small_file()[0])
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    with pytest.raises(ValueError, match=message):
        flatbuffer.read(bytes(builder.Output()))


def test_without_options_an_operator_has_the_default_ones():
    model = flatbuffer.read(small_file()[0])
    operator = model.subgraphs[0].operators[0]
    operator.builtinOptions, operator.builtinOptionsType = None, 0
    (read,) = flatbuffer.read(write(model)).subgraphs[0].operators
    assert read.builtinOptions.asymmetricQuantizeInputs is False


def bomb(count, name=b"", operators=False):
    """A file of `count` graphs in one place, whose parts lie in one place each."""
    schema, builder = flatbuffer.schema(), flatbuffers.Builder()

    def vector(start, place):
        start(builder, count)
        for _ in range(count):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()

    schema.BufferStart(builder)
    buffers = vector(schema.ModelStartBuffersVector, schema.BufferEnd(builder))
    text = builder.CreateString(name)
    ends = builder.CreateNumpyVector(np.zeros(count, np.int32))
    schema.TensorStart(builder)
    schema.TensorAddName(builder, text)
    tensors = vector(schema.SubGraphStartTensorsVector, schema.TensorEnd(builder))
    schema.OperatorStart(builder)
    schema.OperatorAddInputs(builder, ends)
    parts = vector(schema.SubGraphStartOperatorsVector, schema.OperatorEnd(builder))
    schema.SubGraphStart(builder)
    if operators:
        schema.SubGraphAddOperators(builder, parts)
    else:
        schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    if name or operators:
        schema.ModelStartSubgraphsVector(builder, 1)
        builder.PrependUOffsetTRelative(graph)
        graphs = builder.EndVector()
    else:
        graphs = vector(schema.ModelStartSubgraphsVector, graph)
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    "arguments", [{}, {"name": b"a" * 100_000}, {"operators": True}], ids=["tables", "name", "list"]
)
def test_a_file_that_would_unpack_to_many_times_its_size_is_refused(arguments):
    blob = bomb(3000, **arguments)
    with pytest.raises(ValueError, match="more than fit into it"):
        flatbuffer.read(blob)


def named_in(part, name):
    """A file in which 300 parts of a kind hold one name."""
    schema, builder = flatbuffer.schema(), _sharing_builder()()
    model = schema.ModelT.InitFromPackedBuf(small_file()[0], 0)
    if part == "metadata":
        model.metadata = [schema.MetadataT() for _ in range(300)]
        for entry in model.metadata:
            entry.name, entry.buffer = name, 0
    elif part == "signature":
        model.signatureDefs = [schema.SignatureDefT()]
        model.signatureDefs[0].inputs = [schema.TensorMapT() for _ in range(300)]
        for entry in model.signatureDefs[0].inputs:
            entry.name = name
    else:
        operator = model.subgraphs[0].operators[0]
        operator.builtinOptions = schema.VarHandleOptionsT()
        operator.builtinOptions.sharedName = name
        operator.builtinOptionsType = schema.BuiltinOptions.VarHandleOptions
        model.subgraphs[0].operators = [copy.deepcopy(operator) for _ in range(300)]
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("part", ["metadata", "signature", "options"])
def test_a_name_counts_wherever_it_is_unpacked(part):
    with pytest.raises(ValueError, match="more than fit into it"):
        flatbuffer.read(named_in(part, b"a" * 100_000))


def test_equal_names_and_lists_may_be_written_once():
    model = flatbuffer.read(small_file()[0])
    graph = model.subgraphs[0]
    graph.operators = [copy.deepcopy(graph.operators[0]) for _ in range(500)]
    for tensor in graph.tensors:
        tensor.name = b"the same name for all of them"
    assert len(flatbuffer.read(write(model)).subgraphs[0].operators) == 500
