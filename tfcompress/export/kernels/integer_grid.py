"""Finds the small integers of which a float32 kernel is made, up to a scale per row."""

from dataclasses import dataclass, field

import numpy as np

# How far entries may be from multiples of the scale, relative to the largest entry of the row: a
# batch normalization's factor was multiplied in, and float32 rounded the products.
TOLERANCE = 1e-6
LARGEST = 127
SMALLEST_SCALE = np.finfo("float32").tiny
ENTRIES_AT_A_TIME = 2**18
INTEGER_RANGES = {
    2: (-2, 1),
    4: (-7, 7),
    8: (-127, 127),
}  # int4 -8 and int8 -128 give wrong results


@dataclass(frozen=True)
class Grid:
    """The matrix `scale[o] * values[o, i]` of small integers with a scale per row."""

    values: np.ndarray = field(repr=False)  # int8 [out, in]
    scale: np.ndarray = field(repr=False)  # float32 [out]
    bits: int

    def decode(self) -> np.ndarray:
        """The matrix in float32."""
        return self.scale[:, None] * self.values.astype(np.float32)


def find_grid(rows: np.ndarray) -> Grid | None:
    """The grid of fewest bits (2, 4 or 8) that holds a matrix up to float32 rounding, or None.

    The scale of a row is its largest entry divided by the smallest `k` in 1..127 for which each
    entry is a multiple of it. A row of zeros has scale 1, and so has one whose scale would be below
    the normal numbers of float32, which LiteRT refuses; it becomes zeros.

    Args:
        rows: float32 matrix [out, in].

    Example:

    >>> grid = find_grid(np.float32([[0.3, -0.3, 0.3], [0.5, 0.0, -0.5]]))
    >>> grid.bits, grid.values.tolist(), grid.scale.tolist()[1]
    (2, [[1, -1, 1], [1, 0, -1]], 0.5)
    """
    values, scale = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    at_a_time = max(1, ENTRIES_AT_A_TIME // max(rows.shape[1], 1))
    for start in range(0, len(rows), at_a_time):
        part = slice(start, start + at_a_time)
        peaks = np.abs(rows[part]).max(axis=1, initial=0.0).astype(np.float64)
        used = peaks >= SMALLEST_SCALE
        peaks = np.where(used, peaks, 1)
        steps = _steps_to_peak(np.where(used[:, None], rows[part], 0), peaks)
        if steps is None:
            return None
        used &= peaks / steps >= SMALLEST_SCALE
        scale[part] = np.where(used, peaks / steps, 1)
        values[part] = np.rint(rows[part] * np.where(used, steps / peaks, 0)[:, None])
    low, high = (int(values.min(initial=0)), int(values.max(initial=0)))
    bits = next(b for b, (least, most) in INTEGER_RANGES.items() if least <= low and high <= most)
    return Grid(values, scale, bits)


def rounded_grid(rows: np.ndarray, one_scale: bool = False) -> Grid:
    """The nearest 8-bit grid of a matrix, with a scale for each row or one for all.

    >>> rounded_grid(np.float32([[1.27, 0.004], [0, 0]])).values.tolist()
    [[127, 0], [0, 0]]
    """
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    peaks = np.full_like(peaks, peaks.max(initial=0.0)) if one_scale else peaks
    scale = peaks / np.float32(LARGEST)
    scale = np.where(scale < SMALLEST_SCALE, 1, scale).astype(np.float32)
    values = np.rint(rows / scale[:, None]).clip(-LARGEST, LARGEST).astype(np.int8)
    return Grid(values, scale, 8)


def _steps_to_peak(rows, peaks) -> np.ndarray | None:
    """For each row the smallest k up to 127 for which `row / peak * k` is all integers."""
    levels = np.sort(np.abs(rows), axis=1) / peaks.astype(np.float32)[:, None]
    # Levels closer than rounding are one level; more than 128 of them fit no 8 bits.
    distinct = np.diff(levels, axis=1, prepend=-1.0) > TOLERANCE
    counts = distinct.sum(axis=1)
    if counts.max(initial=0) > 128:
        return None
    few = np.zeros((len(rows), counts.max(initial=1)))  # a level of 0 is a multiple of all
    few[np.arange(few.shape[1]) < counts[:, None]] = levels[distinct]
    steps, left = np.empty(len(rows)), np.arange(len(rows))
    for k in range(1, 128):
        multiples = k * few[left]
        exact = np.abs(multiples - np.rint(multiples)).max(axis=1) <= TOLERANCE * k
        steps[left[exact]], left = k, left[~exact]
        if not left.size:
            return steps
    return None
