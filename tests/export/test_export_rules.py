"""Rules that keep files right on ARM and on old runtimes, checked on the bytes of every form."""

import inspect

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from oracles_export import EIGHT_BITS, FOUR_BITS, TERNARY, run
from oracles_float64 import limit_of, outputs_of
from oracles_forms import FORMS
from oracles_networks import compressed, dense, halves, inputs_of, plain
from oracles_structured import codebook, hashed, pruned

import tfcompress as tfc
from tfcompress.export import ExportError, exporter, passes, to_tflite, verify
from tfcompress.export.kernels import choice as choose
from tfcompress.export.kernels import dense_forms as forms
from tfcompress.export.kernels import integer_grid as grid
from tfcompress.export.kernels import shared_values as shared
from tfcompress.export.kernels import sparse_forms as sparse
from tfcompress.export.kernels import tables
from tfcompress.export.kernels import unpacked_forms as unpacked
from tfcompress.export.known_bad import refuse_known_bad
from tfcompress.tflite import reader as flatbuffer
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.runtimes import min_runtime, parse_version
from tfcompress.tflite.writer import write

LOWEST = {"INT8": -127, "INT4": -7}


def real_numbers(blob, x, delegates):
    """The output of a file, from its input, where the file's own are integers with a step."""
    file = Interpreter(model_content=blob)
    (source,), (result,) = file.get_input_details(), file.get_output_details()
    if source["dtype"] == np.float32:
        return run(blob, [x], delegates)[0]
    step, zero = source["quantization"]
    codes = np.clip(np.round(x / step) + zero, -128, 127).astype(np.int8)
    step, zero = result["quantization"]
    return step * (run(blob, [codes], delegates)[0].astype("float64") - zero)


def broken_rules(blob) -> set[str]:
    """The rules that a file breaks."""
    file, broken = flatbuffer.read(blob), set()
    for index in range(len(file.subgraphs)):
        graph = Graph(file, index)
        if any(_lowest(file, tensor) < LOWEST.get(type, -2) for tensor, type in _integers(graph)):
            broken.add("lowest integer")
        for operator in graph.subgraph.operators:
            code = flatbuffer.operator_name(file, operator)
            version = file.operatorCodes[operator.opcodeIndex].version
            types = [graph.type(i) for i in operator.inputs[:2] if i >= 0]
            if code == "DENSIFY" and types == ["FLOAT16"]:
                broken.add("float16 zeros")
            if code == "FULLY_CONNECTED" and version != _version(graph, operator, *types):
                broken.add("version")
            hybrid = code == "FULLY_CONNECTED" and types[0] == "FLOAT32" and types[1][:3] == "INT"
            if hybrid and not operator.builtinOptions.asymmetricQuantizeInputs:
                broken.add("symmetric")
    return broken


def _integers(graph):
    """Constants of integers that a product may read: a lookup alone takes the lowest one, too."""
    codes = [(o, flatbuffer.operator_name(graph.model, o)) for o in graph.subgraph.operators]
    looked_up = {int(o.inputs[1]) for o, code in codes if code == "EMBEDDING_LOOKUP"}
    looked_up -= {int(i) for o, code in codes if code != "EMBEDDING_LOOKUP" for i in o.inputs}
    for index, tensor in enumerate(graph.tensors):
        if graph.type(index) in ("INT8", "INT4", "INT2") and index not in looked_up:
            yield tensor, graph.type(index)


def _lowest(file, tensor) -> int:
    """The least integer of a constant; of a sparse one too, whose buffer holds what is not zero."""
    data = file.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return 0
    bits = flatbuffer.BITS[flatbuffer.type_name(tensor)]
    return int(flatbuffer.unpack_integers(data, bits, len(data) * 8 // bits).min())


def _version(graph, operator, x, weight) -> int:
    """The lowest version for these types, as the runtime's own tables have it."""
    makers = {o.outputs[0]: o for o in graph.subgraph.operators if o.outputs}
    maker = makers.get(operator.inputs[1])
    unpacked = maker and flatbuffer.operator_name(graph.model, maker) == "DENSIFY"
    if graph.tensors[operator.inputs[1]].sparsity is not None or (unpacked and weight == "INT8"):
        return 8
    if weight == "FLOAT32":
        return 5 if operator.builtinOptions.keepNumDims else 1
    static = {"INT2": 14, "INT4": 10, "INT8": 4}
    return static[weight] if x == "INT8" else {"INT2": 14}.get(weight, 12)


def site_name(site):
    return f"{getattr(site.form, 'func', site.form).__name__} {site.bits}"


@pytest.mark.parametrize("name", FORMS)
def test_a_form_keeps_the_rules_and_computes_what_it_must(name, monkeypatch):
    form, found = FORMS[name], []
    monkeypatch.setattr(
        exporter, "Limits", lambda draft: found.extend(draft.sites) or verify.Limits(draft)
    )
    model = form.make()
    blob = form.export(model)
    assert tuple(map(site_name, found)) == form.sites
    assert broken_rules(blob) == set()
    x = inputs_of(model)
    y = outputs_of(model, x)
    rms = np.sqrt(np.mean(y**2))
    limit = limit_of(model, x, form.exact) if form.limit is None else form.limit * rms
    for delegates in (True, False):
        assert np.abs(real_numbers(blob, x, delegates) - y).max() <= limit
    if min_runtime(blob) != "1.2.0":
        old = form.export(model, min_runtime="1.2")
        assert min_runtime(old) == "1.2.0" and broken_rules(old) == set()


def test_the_table_holds_every_form():
    """A function with these arguments is a form, and each is in the table for each of its bits."""
    names = {
        name
        for module in (forms, sparse, tables, unpacked)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if list(inspect.signature(function).parameters)[:4]
        == ["graph", "operator", "kernel", "bits"]
        and function.__module__ == module.__name__
    }
    assert names == {site.split()[0] for form in FORMS.values() for site in form.sites}


# One rule off at a time.


def without_guard(monkeypatch):
    monkeypatch.setattr(passes, "refuse", lambda draft: None)


SYMMETRIC = {
    "hybrid": (lambda: dense(64, 40, EIGHT_BITS), {}),
    "im2col": (
        lambda: compressed((4, 4, 64), tfc.layers.TernaryConv2D(64, 3)),
        {"store": "small"},
    ),
    "coded": (lambda: codebook(tfc.layers.CodebookDense, (125,), 8, 99), {"store": "small"}),
    "hashed": (lambda: hashed(128, 96, buckets=300), {"store": "small"}),
    "blocks": (lambda: pruned((272,), 16, 0.1), {}),
    "densified_hybrid": (lambda: pruned((500,), 1, 0.1), {"store": "small"}),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_activations_are_refused_and_seen(name, monkeypatch):
    make, options = SYMMETRIC[name]
    table = flatbuffer.schema().FullyConnectedOptionsT
    off = property(lambda self: False, lambda self, value: None)
    monkeypatch.setattr(table, "asymmetricQuantizeInputs", off, raising=False)
    with pytest.raises(ExportError, match="symmetrically"):
        to_tflite(make(), **options)
    without_guard(monkeypatch)
    assert broken_rules(to_tflite(make(), **options)) == {"symmetric"}


def test_the_lowest_integers_are_refused_and_seen(monkeypatch):
    monkeypatch.setattr(grid, "INTEGER_RANGES", {2: (-2, 1), 4: (-8, 7), 8: (-128, 127)})
    model = dense(64, 40, range(-8, 8))
    with pytest.raises(ExportError, match="INT4 weight below -7"):
        to_tflite(model)
    without_guard(monkeypatch)
    with pytest.raises(ExportError, match="without delegates"):  # the builtin kernel is wrong
        to_tflite(model)
    monkeypatch.setattr(exporter, "verify", lambda *_: None)
    assert broken_rules(to_tflite(model)) == {"lowest integer"}


@pytest.mark.parametrize("make", [SYMMETRIC["coded"][0], SYMMETRIC["hashed"][0]])
def test_the_lowest_integer_of_a_table_is_seen(make, monkeypatch):
    monkeypatch.setattr(shared, "LARGEST_INTEGER", 128)
    monkeypatch.setattr(exporter, "verify", lambda *_: None)
    monkeypatch.setattr(exporter, "Limits", lambda *_: None)
    assert broken_rules(to_tflite(make(), store="small")) == {"lowest integer"}


@pytest.mark.parametrize("levels", [FOUR_BITS, EIGHT_BITS])
def test_a_higher_version_is_seen(levels, monkeypatch):
    monkeypatch.setattr(forms, "_product_version", lambda *_, **__: 14)
    blob = to_tflite(dense(64, 40, levels))
    assert broken_rules(blob) == {"version"} and min_runtime(blob) == "2.1.2"
    with pytest.raises(ExportError, match=r"needs LiteRT 2.1.2, and `min_runtime` is 1.4.0"):
        to_tflite(dense(64, 40, levels), min_runtime="1.4")


@pytest.mark.parametrize("name", ["blocks", "densified_hybrid"])
def test_another_version_of_sparse_products_is_refused_and_seen(name, monkeypatch):
    make, options = SYMMETRIC[name]
    monkeypatch.setattr(sparse, "SPARSE_VERSION", 12)
    with pytest.raises(ExportError, match="gives wrong results"):
        to_tflite(make(), **options)
    without_guard(monkeypatch)
    monkeypatch.setattr(exporter, "verify", lambda *_: None)
    assert broken_rules(to_tflite(make(), **options)) == {"version"}


def test_zeros_in_float16_are_refused_and_seen():
    """Zeros of a float16 kernel stay float32; the file changed by hand is refused."""
    file = flatbuffer.read(to_tflite(halves(pruned((510,), 1, 0.1, integers=False))))
    graph = Graph(file)
    unpack = graph.subgraph.operators[0]
    kernel = graph.tensors[unpack.inputs[0]]
    assert flatbuffer.type_name(kernel) == "FLOAT32" and kernel.sparsity is not None
    kernel.type = flatbuffer.schema().TensorType.FLOAT16
    assert broken_rules(write(file)) == {"float16 zeros"}
    assert min_runtime(file) == "2.2.0"
    with pytest.raises(ExportError, match="DENSIFY with a FLOAT16 kernel"):
        refuse_known_bad(file)


def test_what_a_runtime_cannot_run_is_refused(monkeypatch):
    """The rules of `min_runtime` turned off."""
    depth = halves(plain((7, 6, 32), layers.DepthwiseConv2D(3)))
    ternary = dense(64, 40, TERNARY)
    monkeypatch.setattr(choose, "INT2", (0,))
    monkeypatch.setattr(choose, "HALF_DEPTHWISE", (0,))
    for model, needed in (ternary, "2.1.2"), (depth, "1.4.0"):
        assert min_runtime(to_tflite(model)) == needed
        with pytest.raises(ExportError, match=f"needs LiteRT {needed}, .* is 1.3.0"):
            to_tflite(model, min_runtime="1.3.0")


# The oldest runtime of a file.


@pytest.mark.parametrize(
    "name, needed",
    [
        ("ternary", "2.1.2"),
        ("static, 2 bits", "2.1.2"),
        ("static, 4 bits", "1.2.0"),
        ("eight bits", "1.2.0"),
        ("float32", "1.2.0"),
        ("conv, float16", "1.2.0"),
        ("depthwise, float16", "1.4.0"),
        ("blocks of 16", "1.2.0"),
    ],
)
def test_the_oldest_runtime_of_a_file(name, needed, tmp_path):
    form = FORMS[name]
    blob = form.export(form.make())
    path = tmp_path / "model.tflite"
    path.write_bytes(blob)
    assert min_runtime(blob) == min_runtime(path) == needed


def test_the_oldest_runtime_of_changed_files():
    file = flatbuffer.read(to_tflite(dense(64, 40, EIGHT_BITS)))
    (product,) = file.subgraphs[0].operators
    product.builtinOptions.asymmetricQuantizeInputs = False
    assert min_runtime(file) == "2.0.3"
    Graph(file).set_version(product, "FULLY_CONNECTED", 13)
    assert min_runtime(file) == "2.0.3"
    Graph(file).set_version(product, "FULLY_CONNECTED", 14)
    assert min_runtime(file) == "2.1.2"
    file = flatbuffer.read(to_tflite(dense(64, 40, TERNARY)))
    Graph(file).set_version(file.subgraphs[0].operators[0], "FULLY_CONNECTED", 12)
    assert min_runtime(file) == "2.1.2"
    with pytest.raises(ValueError, match="tflite file"):
        min_runtime(b"nothing")


def test_versions():
    assert parse_version("1.2") == parse_version("1.2.0") == (1, 2, 0)
    assert parse_version("2") == (2, 0, 0) and parse_version("2.1.2.1") > parse_version("2.1.2")
    for wrong in ("1.1.9", "0", "", "new", "2.x", None, 2):
        with pytest.raises(ValueError, match="`min_runtime` must be"):
            parse_version(wrong)
