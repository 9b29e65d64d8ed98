"""Rewrites a float32 .tflite graph with each low-bit kernel in its best form."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tfcompress.export.kernels import dense_forms as forms
from tfcompress.export.kernels import sparse_forms as sparse
from tfcompress.export.kernels import unpacked_forms as unpacked
from tfcompress.export.kernels.kernel import Kernel, find_kernel, weight_place
from tfcompress.export.kernels.tables import gathered, looked_up
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name, read
from tfcompress.tflite.runner import Probe
from tfcompress.tflite.writer import write
from tfcompress.utils.types import Path, Rest

MOST_OVERHEAD = 0.05  # of the int8 form of im2col, as a share of its kernel's bytes
EXACT_FORMS = (forms.digits, forms.weight_only, sparse.densified, looked_up, gathered)
Choose = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """An operator of the float32 file whose kernel will be stored in fewer bits.

    Attributes:
        place: the operator's index in its graph.
        kernel: its kernel.
        form: the function that rewrites the operator.
        bits: the bits of an entry of the new constant.
        inexact: the tensors whose values the form rounds to int8, none for the exact forms.
        rounds: whether the form rounds the kernel itself.
        graph: the index of the subgraph, 0 for the main graph; others are bodies of loops.
    """

    place: int
    kernel: Kernel = field(repr=False)
    form: object
    bits: int
    inexact: tuple[int, ...]
    rounds: bool = False
    graph: int = 0


def find_sites(file: Any, choose: Choose, layers: dict, rest: Rest = "float32") -> list[Site]:
    """Finds the kernels that fewer bits hold, and chooses the form of each.

    Args:
        file: a float32 `ModelT`.
        choose: `choice.choose_form` with the wishes for the file.
        layers: `{path: layer}` of the model before it was lowered.
        rest: the type of kernels that nobody compressed, see `find_kernel`.
    """
    products = _products(file)
    sites = []
    for index in range(len(file.subgraphs)):
        graph = Graph(file, index)
        for place, operator in enumerate(graph.subgraph.operators or []):
            table = operator_name(file, operator) == "GATHER"
            tied = table and _buffer(graph, operator.inputs[0]) in products
            kernel = find_kernel(graph, operator, layers, rest, tied)
            choice = None if kernel is None else choose(graph, operator, kernel)
            if choice is None:
                continue
            form, bits = choice
            if form is unpacked.coded:
                # The sizes of later kernels with these levels do not count the table again.
                graph.added[unpacked.table_key(kernel.levels(), bits)] = None
            inexact = () if form in EXACT_FORMS or bits == 32 else (operator.inputs[0],)
            rounds = kernel.rounded and bits != 32
            sites.append(Site(place, kernel, form, bits, inexact, rounds, index))
    return sites


def _products(file) -> set[int]:
    """The buffers of the kernels of matrix products: a tied table is one of these, too."""
    graphs = [Graph(file, index) for index in range(len(file.subgraphs))]
    return {
        _buffer(graph, operator.inputs[1])
        for graph in graphs
        for operator in graph.subgraph.operators or []
        if operator_name(file, operator) == "FULLY_CONNECTED"
    }


def _buffer(graph, index) -> int:
    return graph.tensors[index].buffer


def calibrate(source: Path | bytes, sites: list[Site], batches: Any) -> list[Site]:
    """Gives im2col sites their int8 form, with the ranges of their activations on `batches`.

    This form is 20 to 30% faster. A site keeps the float32 form where the biases and scales of the
    int8 form would take more than `MOST_OVERHEAD` of the kernel's bytes.
    """
    file = read(source)
    operators = file.subgraphs[0].operators
    ends = {
        site.place: (operators[site.place].inputs[0], operators[site.place].outputs[0])
        for site in sites
        if site.form is forms.im2col and not site.graph and _int8_overhead(site) < MOST_OVERHEAD
    }
    if not ends:
        return sites
    probe, lows, highs = Probe(source, {t for pair in ends.values() for t in pair}), {}, {}
    for inputs in batches:
        for t, values in probe.run(inputs)[1].items():
            lows[t] = min(lows.get(t, 0.0), float(values.min()))
            highs[t] = max(highs.get(t, 0.0), float(values.max()))
    calibrated = []
    for site in sites:
        if site.place in ends and not site.graph:
            ranges = [(lows[t], highs[t]) for t in ends[site.place]]
            form = partial(forms.im2col_int8, ranges=ranges)
            site = replace(site, form=form, inexact=ends[site.place])
        calibrated.append(site)
    return calibrated


def _int8_overhead(site) -> float:
    return (700 + 12 * site.kernel.units) / (site.kernel.size * site.bits / 8)


def with_rounded_kernels(source: Path | bytes, sites: list[Site]) -> Any:
    """The file as a `ModelT` in which the kernels that forms round are rounded, in float32."""
    file = read(source)
    graphs = [Graph(file, index) for index in range(len(file.subgraphs))]
    for site in sites:
        if site.rounds:
            graph, kernel = graphs[site.graph], site.kernel
            constant = graph.constant(kernel.decoded(), kernel.name)
            operator = graph.subgraph.operators[site.place]
            operator.inputs[weight_place(kernel.code)] = constant
    return file


def apply_forms(source: Path | bytes, sites: list[Site]) -> bytes:
    """Rewrites the float32 file (bytes or path) with the kernels of `sites` in their forms."""
    file = read(source)
    chosen = {(site.graph, site.place): site for site in sites}
    for index in range(len(file.subgraphs)):
        graph, operators = Graph(file, index), []
        for place, operator in enumerate(graph.subgraph.operators or []):
            site = chosen.get((index, place))
            operators += (
                [operator] if site is None else site.form(graph, operator, site.kernel, site.bits)
            )
        graph.subgraph.operators = operators
    if sites:  # the version that the converter wrote into the metadata is that of a float32 file
        file.metadata = [m for m in file.metadata or [] if m.name != b"min_runtime_version"]
    return write(file)
