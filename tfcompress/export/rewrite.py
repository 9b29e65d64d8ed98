"""Rewrites a float32 .tflite graph: each low-bit kernel in its best form."""

from dataclasses import dataclass, field

import numpy as np

from ..flatbuffer import operator_name, read, write
from . import forms
from .choose import choose
from .graph import Graph
from .kernel import Kernel, find_kernel


@dataclass(frozen=True)
class Site:
    """An operator of the float32 file whose kernel will be stored in fewer bits.

    Attributes:
        place: the operator's index in the main graph.
        inexact: the tensors whose values the form rounds to int8: none for the exact forms.
    """

    place: int
    kernel: Kernel = field(repr=False)
    form: object
    bits: int
    inexact: tuple[int, ...]


def find_sites(file, layer_of, activations, store, int2, ranges=None) -> list[Site]:
    """Finds the kernels that fewer bits hold exactly, and the form for each.

    Args:
        file: a float32 `ModelT`.
        layer_of: see `kernel.find_kernel`.
        activations, store, int2, ranges: see `choose.choose`.
    """
    graph, sites = Graph(file), []
    for place, operator in enumerate(graph.subgraph.operators):
        kernel = find_kernel(graph, operator, operator_name(file, operator), layer_of)
        if kernel is None:
            continue
        choice = choose(graph, operator, kernel, activations, store, int2, ranges)
        if choice is None:
            continue
        form, bits = choice
        inexact = () if form in (forms.digits, forms.weight_only) else (operator.inputs[0],)
        if ranges and getattr(form, "func", None) is forms.im2col_int8:
            inexact += (operator.outputs[0],)
        sites.append(Site(place, kernel, form, bits, inexact))
    return sites


def apply(blob, sites) -> bytes:
    """The float32 file with the kernels of `sites` in their forms."""
    file = read(blob)
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


def layer_finder(kernels):
    """A function from a constant's rows to the path of the layer whose kernel it is.

    Args:
        kernels: `{path: rows}`; rows [o, i] as the file holds them, up to a factor per row.
    """
    known = [(path, _normal(rows)) for path, rows in kernels.items()]

    def layer_of(rows, name):
        rows = _normal(rows)
        for path, other in known:
            if other.shape == rows.shape and np.allclose(rows, other, atol=1e-5):
                return path
        return name

    return layer_of


def _normal(rows):
    peak = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    return rows / np.where(peak == 0, 1, peak)
