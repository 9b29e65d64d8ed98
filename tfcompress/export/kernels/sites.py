"""The operators of a float32 file whose kernels fewer bits hold, with the form of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tfcompress.export.draft import Draft
from tfcompress.export.kernels import dense_forms as forms
from tfcompress.export.kernels import sparse_forms as sparse
from tfcompress.export.kernels import unpacked_forms as unpacked
from tfcompress.export.kernels.choice import form_bytes
from tfcompress.export.kernels.kernel import Kernel, find_kernel, weight_place
from tfcompress.export.kernels.tables import clustered, gathered, hashed, looked_up, looked_up_twice
from tfcompress.graph.paths import walk
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import operator_name
from tfcompress.utils.types import Rest

EXACT_FORMS = (
    forms.digits,
    forms.weight_only,
    sparse.densified,
    *(looked_up, looked_up_twice, gathered, clustered, hashed),
)
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


def find_kernels(draft: Draft) -> None:
    """Finds the kernels that fewer bits hold, and chooses the form of each."""
    layers = {path: layer for path, (layer, _) in walk(draft.model.model).items()}
    draft.sites = find_sites(draft.float32, draft.choose, layers, draft.rest)


def find_sites(file: Any, choose: Choose, layers: dict, rest: Rest = "float32") -> list[Site]:
    """The kernels of a file that fewer bits hold, each with its form.

    Args:
        file: a float32 `ModelT`.
        choose: `choice.choose_form` with the wishes for the file.
        layers: `{path: layer}` of the model before it was lowered.
        rest: the type of kernels that nobody compressed, see `find_kernel`.
    """
    products, tables = _kernels_of(file, "FULLY_CONNECTED"), _kernels_of(file, "GATHER")
    sites = []
    for index in range(len(file.subgraphs)):
        graph = Graph(file, index)
        for place, operator in enumerate(graph.subgraph.operators or []):
            code = operator_name(file, operator)
            others = {"GATHER": products, "FULLY_CONNECTED": tables}.get(code, ())
            tied = bool(others) and _kernel_buffer(graph, operator, code) in others
            found = _kernel_and_form(graph, operator, choose, (layers, rest, tied))
            if found is None:
                continue
            kernel, (form, bits) = found
            if form is unpacked.coded:
                # The sizes of later kernels with these levels do not count the table again.
                graph.added[unpacked.table_key(kernel.levels(), bits)] = None
            inexact = () if form in EXACT_FORMS or bits == 32 else (operator.inputs[0],)
            rounds = kernel.rounded and bits != 32 and form is not clustered
            sites.append(Site(place, kernel, form, bits, inexact, rounds, index))
    return sites


def _kernel_and_form(graph, operator, choose, terms):
    """The kernel of an operator and its form, or None.

    Where `rest` rounds a kernel that has zeros, the smaller one of that and of its exact form.
    """
    layers, rest, tied = terms
    found = []
    for one in (rest, "float32"):
        kernel = find_kernel(graph, operator, layers, one, tied)
        choice = None if kernel is None else choose(graph, operator, kernel)
        if choice is not None:
            found.append((form_bytes(graph, operator, kernel, *choice), kernel, choice))
        if kernel is None or not kernel.rounded or one == "float32":
            break
    return min(found, key=lambda entry: entry[0])[1:] if found else None


def _kernels_of(file, code) -> set[int]:
    """The buffers of the kernels of all operators of a kind."""
    graphs = [Graph(file, index) for index in range(len(file.subgraphs))]
    return {
        _kernel_buffer(graph, operator, code)
        for graph in graphs
        for operator in graph.subgraph.operators or []
        if operator_name(file, operator) == code
    }


def _kernel_buffer(graph, operator, code) -> int:
    return graph.tensors[operator.inputs[weight_place(code)]].buffer
