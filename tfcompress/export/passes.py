"""The way of a file, as one list of passes: each takes a `Draft` and changes it in its place.

The converter's file is read once, and the end is written once. In between, the float32 file is
kept on disk, since LiteRT runs it to tell what rounding costs.
"""

from collections.abc import Iterator

from tfcompress.export.convert.column_factors import restore_kernels
from tfcompress.export.convert.exact_integers import store_exact
from tfcompress.export.convert.float32 import convert_lowered, keep_float32
from tfcompress.export.convert.full_integer import quantize
from tfcompress.export.convert.kept_from_delegate import keep_from_delegate
from tfcompress.export.convert.lookups import read_plain_ids
from tfcompress.export.convert.names import drop_names, name_kernels
from tfcompress.export.convert.ranges import measure_noise
from tfcompress.export.convert.sequence_products import keep_sequences
from tfcompress.export.convert.static_shapes import drop_unread, make_shapes_static
from tfcompress.export.draft import Draft
from tfcompress.export.kernels.calibrate import calibrate
from tfcompress.export.kernels.encode import encode, encode_loops
from tfcompress.export.kernels.sites import find_kernels
from tfcompress.export.known_bad import refuse
from tfcompress.export.lower.structured_constants import name_structured_constants
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.reader import duplicate

CLEAN = (
    make_shapes_static,
    name_kernels,
    read_plain_ids,
    restore_kernels,
    name_structured_constants,
    drop_names,
)
CONVERT = (convert_lowered, *CLEAN)
FLOAT32 = (keep_from_delegate, keep_float32)
HYBRID = (find_kernels, calibrate, encode)
FULL_INTEGER = (measure_noise, quantize, store_exact, *CLEAN, encode_loops)


def run_passes(draft: Draft) -> None:
    """Lowers and converts the model of a draft, and encodes the kernels of its file."""
    for step in CONVERT:
        step(draft)
    finish(draft)


def finish(draft: Draft) -> None:
    """Encodes the kernels of a draft's file, which is converted."""
    encoded = FULL_INTEGER if draft.static else HYBRID
    for step in (*FLOAT32, *encoded, keep_sequences, keep_from_delegate, refuse):
        step(draft)


def finish_each_output(draft: Draft) -> Iterator[None]:
    """Makes the draft, one after the other, a file of each output of its model alone.

    The outputs share the conversion, which takes most of the time of a small file.
    """
    for step in CONVERT:
        step(draft)
    whole = draft.file
    for number in range(len(whole.subgraphs[0].outputs)):
        draft.file = duplicate(whole)
        graph, (signature,) = Graph(draft.file), draft.file.signatureDefs
        index, signature.outputs = graph.subgraph.outputs[number], [signature.outputs[number]]
        graph.subgraph.outputs = [index]
        signature.outputs[0].name = graph.tensors[index].name  # of two outputs in one, the last
        drop_unread(graph)
        finish(draft)
        yield
