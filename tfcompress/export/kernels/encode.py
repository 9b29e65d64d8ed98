"""Rewrites the operators of a float32 file with their kernels in fewer bits."""

from collections.abc import Sequence
from typing import Any

from tfcompress.export.draft import Draft
from tfcompress.export.kernels.kernel import weight_place
from tfcompress.export.kernels.sites import Site, find_sites
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import duplicate


def encode(draft: Draft) -> None:
    """Rewrites the kernels that were found in their forms."""
    draft.rounded = {t for site in draft.sites if not site.graph for t in site.inexact}
    _apply_forms(draft.file, draft.sites)


def encode_loops(draft: Draft) -> None:
    """Encodes the kernels in the loops of a full-integer file: activations there have no ranges.

    They compute as in files with float32 activations. The sites of the draft are those of the
    float32 file, whose loops are the same.
    """
    draft.sites, inner = (
        [site for site in find_sites(file, draft.choose, {}, "int8") if site.graph]
        for file in (draft.float32, draft.file)
    )
    _apply_forms(draft.file, inner)


def with_forms(file: Any, sites: Sequence[Site]) -> Any:
    """A copy of the float32 file with the kernels of `sites` in their forms."""
    new = duplicate(file)
    _apply_forms(new, sites)
    return new


def with_rounded_kernels(file: Any, sites: Sequence[Site]) -> Any:
    """A copy of the float32 file in which the kernels that forms round are rounded, in float32."""
    new = duplicate(file)
    graphs = [Graph(new, index) for index in range(len(new.subgraphs))]
    for site in sites:
        if site.rounds:
            graph, kernel = graphs[site.graph], site.kernel
            constant = graph.constant(kernel.decoded(), kernel.name)
            operator = graph.subgraph.operators[site.place]
            operator.inputs[weight_place(kernel.code)] = constant
    return new


def _apply_forms(file, sites) -> None:
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
