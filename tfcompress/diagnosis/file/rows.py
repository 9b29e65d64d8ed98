"""Adds what a file loses to the rows of layers."""

import dataclasses

import numpy as np

from tfcompress.diagnosis.explanation import ExplainedLayer
from tfcompress.diagnosis.file.faults import FileDiagnosis


def with_file(layers: list[ExplainedLayer], file: FileDiagnosis) -> list[ExplainedLayer]:
    """The rows with the file's shares in them; the cause is that of what moves outputs more."""
    rows = {row.path: row for row in layers}
    for fault in file.layers:
        row = rows.get(fault.path) or _row(fault)
        larger = fault.share.moved > row.moved
        cause = fault.cause if larger or row.cause is None else row.cause
        rows[fault.path] = dataclasses.replace(
            row,
            share=row.share + fault.share.rise,
            error=float(np.hypot(row.error, fault.share.error)),
            moved=row.moved + fault.share.moved,
            worst=fault.share.worst if larger else row.worst,
            cause=cause or row.cause,
            file_share=row.file_share + fault.share.rise,
            file_error=max(fault.error, row.file_error or 0.0),
        )
    return list(rows.values())


def _row(fault) -> ExplainedLayer:
    return ExplainedLayer(
        path=fault.path,
        method="-",
        share=0.0,
        error=0.0,
        moved=0.0,
        kernel_error=None,
        output_error=None,
        worst=(),
        cause=None,
    )
