"""The float32 file of a model: the first pass makes it, and a later one keeps it."""

from tfcompress.export.convert.stock import convert
from tfcompress.export.draft import Draft
from tfcompress.export.lower.large_kernels import put_kernels
from tfcompress.export.lower.lower import lower
from tfcompress.tflite.reader import duplicate, read
from tfcompress.tflite.writer import write_to


def convert_lowered(draft: Draft) -> None:
    """Lowers the model to ordinary layers, and converts these with the stock converter."""
    store = None if draft.static else draft.store  # full-integer files hold ordinary layers alone
    # Whole, if the converter has changed a layer without its kernel.
    for thinned in (False,) if draft.static else (True, False):
        draft.lowered = lower(draft.model.model, store, thinned)
        draft.file = convert(draft.model.of(draft.lowered))
        if put_kernels(draft.file, draft.lowered):
            return


def keep_float32(draft: Draft) -> None:
    """Writes the file as it is, to be run and compared with, and goes on with its constants.

    They are mapped into memory, so that large ones are computed once and need not stay there.
    """
    with open(draft.path, "wb") as opened:
        write_to(opened, draft.file)
    draft.float32 = read(draft.path)
    draft.file = duplicate(draft.float32)
