"""The way of a file, as one list of passes: each takes a `Draft` and changes it in its place.

The converter's file is read once, and the end is written once. In between, the float32 file is
kept on disk, since LiteRT runs it to tell what rounding costs.
"""

from tfcompress.export.convert.column_factors import restore_kernels
from tfcompress.export.convert.exact_integers import store_exact
from tfcompress.export.convert.float32 import convert_lowered, keep_float32
from tfcompress.export.convert.full_integer import quantize
from tfcompress.export.convert.kept_from_delegate import keep_from_delegate
from tfcompress.export.convert.lookups import read_plain_ids
from tfcompress.export.convert.names import drop_names, name_kernels
from tfcompress.export.convert.ranges import measure_noise
from tfcompress.export.convert.sequence_products import keep_sequences
from tfcompress.export.convert.static_shapes import make_shapes_static
from tfcompress.export.draft import Draft
from tfcompress.export.kernels.calibrate import calibrate
from tfcompress.export.kernels.encode import encode, encode_loops
from tfcompress.export.kernels.sites import find_kernels
from tfcompress.export.known_bad import refuse
from tfcompress.export.lower.structured_constants import name_structured_constants

CLEAN = (
    make_shapes_static,
    name_kernels,
    read_plain_ids,
    restore_kernels,
    name_structured_constants,
    drop_names,
)
FLOAT32 = (convert_lowered, *CLEAN, keep_from_delegate, keep_float32)
HYBRID = (find_kernels, calibrate, encode)
FULL_INTEGER = (measure_noise, quantize, store_exact, *CLEAN, encode_loops)


def run_passes(draft: Draft) -> None:
    """Lowers and converts the model of a draft, and encodes the kernels of its file."""
    encoded = FULL_INTEGER if draft.static else HYBRID
    for step in (*FLOAT32, *encoded, keep_sequences, keep_from_delegate, refuse):
        step(draft)
