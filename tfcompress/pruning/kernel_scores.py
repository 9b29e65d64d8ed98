"""What the weights of kernels are worth, whichever way a kernel has its outputs."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.layers.core.ordinary import from_rows, to_rows
from tfcompress.project.output_axes import output_axes
from tfcompress.score import Block, MByN
from tfcompress.utils.arrays import to_numpy


def kernel_scores(
    kernels: dict[str, keras.Variable],
    score: Callable[..., Any],
    curvature: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The score of each weight of kernels, by path.

    The patterns of `tfcompress.score` take the last axis of a kernel for its outputs: they see
    those of transposed and depthwise convolutions and einsums as matrices `(fan_in, out)`.

    Args:
        kernels: the variables, by path.
        score: `(w, d)`, as `tfcompress.score.get` gives it.
        curvature: by path; empty for a score without.
    """
    scores = {}
    patterned = isinstance(score, (Block, MByN))
    all_axes = output_axes(kernels.values()) if patterned else [(-1,)] * len(kernels)
    for (path, variable), axes in zip(kernels.items(), all_axes, strict=True):
        w, d = to_numpy(variable), curvature.get(path)
        if axes == (-1,):
            scores[path] = score(w, d)
        else:
            rows = score(to_rows(w, axes), None if d is None else to_rows(np.asarray(d), axes))
            scores[path] = from_rows(rows, w.shape, axes)
    return scores
