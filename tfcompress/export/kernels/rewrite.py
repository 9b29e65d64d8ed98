"""Rewrites a float32 .tflite graph: each low-bit kernel in its best form."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tfcompress.export.kernels import dense_forms as forms
from tfcompress.export.kernels import sparse_forms as sparse
from tfcompress.export.kernels import unpacked_forms as unpacked
from tfcompress.export.kernels.choice import choose
from tfcompress.export.kernels.kernel import Kernel, find_kernel
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import read
from tfcompress.tflite.runner import Probe
from tfcompress.tflite.writer import write
from tfcompress.utils.types import Layers, Path, Store

MOST = 0.05
EXACT = (forms.digits, forms.weight_only, sparse.densified)


@dataclass(frozen=True)
class Site:
    """An operator of the float32 file whose kernel will be stored in fewer bits.

    Attributes:
        place: the operator's index in the main graph.
        inexact: the tensors whose values the form rounds to int8: none for the exact forms.
        rounds: whether the form rounds the kernel itself, that of a codebook or a hashed layer.
    """

    place: int
    kernel: Kernel = field(repr=False)
    form: object
    bits: int
    inexact: tuple[int, ...]
    rounds: bool = False


def find_sites(
    file: Any, activations: str, store: Store, runtime: str, layers: Layers
) -> list[Site]:
    """Finds the kernels that fewer bits hold exactly, and the form for each.

    Args:
        file: a float32 `ModelT`.
        activations, store, runtime: see `choose.choose`.
        layers: `{path: layer}` of the model before it was lowered.
    """
    graph, sites = Graph(file), []
    for place, operator in enumerate(graph.subgraph.operators):
        kernel = find_kernel(graph, operator, layers)
        if kernel is None:
            continue
        choice = choose(graph, operator, kernel, activations, store, runtime)
        if choice is None:
            continue
        form, bits = choice
        if form is unpacked.coded:
            graph.added[unpacked.table_key(kernel.levels(), bits)] = None  # the next one has it
        inexact = () if form in EXACT or bits == 32 else (operator.inputs[0],)
        rounds = kernel.shared is not None and bits != 32
        sites.append(Site(place, kernel, form, bits, inexact, rounds))
    return sites


def calibrate(source: Path | bytes, sites: Any, batches: int) -> list[Site]:
    """Gives im2col sites their int8 form, with the ranges of their activations on `batches`.

    It is 20 to 30% faster; a site keeps the float32 form where the other's biases and scales would
    take more than `MOST` of the kernel's bytes.
    """
    file = read(source)
    operators = file.subgraphs[0].operators
    ends = {
        site.place: (operators[site.place].inputs[0], operators[site.place].outputs[0])
        for site in sites
        if site.form is forms.im2col and _int8_share(site) < MOST
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
        if site.place in ends:
            ranges = [(lows[t], highs[t]) for t in ends[site.place]]
            form = partial(forms.im2col_int8, ranges=ranges)
            site = replace(site, form=form, inexact=ends[site.place])
        calibrated.append(site)
    return calibrated


def _int8_share(site) -> float:
    return (700 + 12 * site.kernel.units) / (site.kernel.size * site.bits / 8)


def round_kernels(source: Path | bytes, sites: Any) -> Any:
    """A `ModelT` with the kernels that some sites round, rounded but still in float32."""
    file = read(source)
    graph = Graph(file)
    for site in sites:
        if site.rounds:
            kernel = site.kernel
            values = kernel.grid.decode().reshape(kernel.shape)
            constant = graph.constant(values, f"{kernel.layer}/kernel")
            graph.subgraph.operators[site.place].inputs[1] = constant
    return file


def apply(source: Path | bytes, sites: Any) -> bytes:
    """The float32 file (its bytes or path) with the kernels of `sites` in their forms."""
    file = read(source)
    graph, operators = Graph(file), []
    chosen = {site.place: site for site in sites}
    for place, operator in enumerate(graph.subgraph.operators):
        site = chosen.get(place)
        operators += (
            [operator] if site is None else site.form(graph, operator, site.kernel, site.bits)
        )
    graph.subgraph.operators = operators
    if sites:  # the entry that the converter wrote speaks of the float32 file
        file.metadata = [m for m in file.metadata or [] if m.name != b"min_runtime_version"]
    return write(file)
