"""Causes in the form in which a kernel is stored: bits, ranks, hash banks, zeros, ranges.

Each function takes a `Case` that has a `product` and returns a `Cause`, or None where its rule does
not hold. "Explains" is the share of the squared error of the layer's products that the best kernel
of such a form would make too: a form cannot be blamed for more.
"""

import numpy as np

from tfcompress.diagnosis.case import Case, Cause, kernel_in
from tfcompress.diagnosis.cures import SwapRule
from tfcompress.diagnosis.product import Product
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.discrete.latent import GridKernel
from tfcompress.layers.shared.codebook import CodebookKernel
from tfcompress.numerics.what_a_kernel_is import PRUNED_FROM, is_discrete

HALF = 0.5
KNEE = 0.99  # share of the energy of the products that a rank at the knee keeps
MOST_SVD = 1024  # rows and columns of a matrix whose singular values are taken
RANK_TOLERANCE = 1e-4  # of the largest singular value
FEW_LEVELS = 2**7  # distinct weights of an output; 8 bits have 255
SPREAD = 4.0  # of the sizes of outputs: the largest over the median
CLIPS = np.linspace(0.05, 1.0, 39)  # tried, in shares of the largest weight


def low_rank(case: Case) -> Cause | None:
    """The rank is at most nine tenths of the float kernel's, and its truncation explains half.

    The cure's rank is at the knee: the smallest that keeps 99% of the energy of the products.
    """
    p = case.product
    rank, full = _rank(p.now), _rank(p.before)
    named = "rank" in getattr(case.now, "options", ())
    if rank > 0.9 * full and not named:
        return None
    kept = _energy_kept(p)
    tail = (1 - kept[min(rank, len(kept)) - 1]) * p.size.sum() if rank else p.size.sum()
    explained = min(1.0, tail / max(p.error.sum(), 1e-300))
    explained = max(explained, case.form_share) if named else explained
    if explained < HALF:
        return None
    knee = int(np.searchsorted(kept, KNEE) + 1)
    known = f"rank {case.now.rank}" if named else f"rank {rank}"
    evidence = f"{known} of {full}, and {KNEE:.0%} of its products' energy needs rank {knee}"
    cure = _of_rank(case, knee) if knee > rank else case.in_8_bits
    return Cause("rank below the knee", evidence, explained, cure)


def _energy_kept(p) -> np.ndarray:
    """The share of the energy of a kernel's products that each rank, from 1, keeps at best."""
    energy = np.square(_singular_values(p.products(p.before)))
    return np.cumsum(energy) / max(energy.sum(), 1e-300)


def _singular_values(w) -> np.ndarray:
    """Those of a matrix, of which evenly spaced rows and columns are taken if it is large."""
    step = [max(1, -(-size // MOST_SVD)) for size in w.shape]
    return np.linalg.svd(w[:: step[0], :: step[1]], compute_uv=False)


def _rank(w) -> int:
    values = _singular_values(w)
    return int((values > RANK_TOLERANCE * max(values[0], 1e-300)).sum())


def _of_rank(case, knee) -> SwapRule:
    """The layer's own form with another rank, where that has fewer weights; else 8 bits."""
    n, m = case.product.now.shape
    if case.maker is None or not isinstance(case.now.rank, int) or knee >= n * m / (n + m):
        return case.in_8_bits
    maker = Maker(case.maker.layer_class, case.maker.options | {"rank": knee})
    return SwapRule(case.path, maker)


def hash_collisions(case: Case) -> Cause | None:
    """The weights share the numbers of a hash bank, and that explains half of the error."""
    if "buckets" not in getattr(case.now, "options", ()) or case.form_share < HALF:
        return None
    weights, bank = case.product.now.size, max(case.now.buckets, 1)
    evidence = f"{weights / bank:.3g} weights share each of {bank} numbers"
    options = {k: v for k, v in case.maker.options.items() if k not in ("ratio", "buckets")}
    larger = Maker(case.maker.layer_class, options | {"buckets": min(4 * bank, weights)})
    return Cause("hash collisions", evidence, case.form_share, SwapRule(case.path, larger))


def few_bits(case: Case) -> Cause | None:
    """The kernel has at most 128 distinct weights an output, and rounding to them explains half."""
    p = case.product
    if not _is_coarse(case):
        return None
    explained = case.form_share
    if case.maker is None:
        rounded = _nearest_levels(p.before, p.now)
        explained = min(1.0, p.squares(rounded - p.before).sum() / max(p.error.sum(), 1e-300))
    if explained < HALF:
        return None
    place = "the first layer" if case.first else "the last layer" if case.last else "this layer"
    bits = getattr(case.now, "level_bits", None) or round(np.log2(_levels(p.now)), 1)
    evidence = f"{bits} bits a weight, in {place}"
    return Cause("few bits", evidence, explained, case.in_8_bits)


def _is_coarse(case) -> bool:
    """Whether the kernel has few values: by its form, or by the number of them in each output."""
    bits = getattr(case.now, "level_bits", None)
    if bits is not None:
        return 2**bits <= FEW_LEVELS
    levels = _levels(case.product.now)
    if case.maker is not None:
        return levels <= FEW_LEVELS and isinstance(case.now, (GridKernel, CodebookKernel))
    on_grid = is_discrete(case.product.now) or levels <= len(case.product.now) / 4
    return levels <= FEW_LEVELS and on_grid


def _levels(w) -> int:
    """The number of distinct weights of an output, the most over the outputs."""
    ordered = np.sort(w[:, :MOST_SVD], axis=0)
    steps = np.diff(ordered, axis=0) > 1e-5 * np.abs(ordered).max(initial=1e-300)
    return int(steps.sum(0).max(initial=0)) + 1


def _nearest_levels(before, now):
    """Each column rounded to the nearest of the values that another one has there."""
    rounded = np.empty_like(before)
    for column in range(before.shape[1]):
        levels = np.unique(now[:, column])
        middles = (levels[1:] + levels[:-1]) / 2
        rounded[:, column] = levels[np.searchsorted(middles, before[:, column])]
    return rounded


def unlike_channels(case: Case) -> Cause | None:
    """Outputs of very different size share a scale: one scale for each explains half.

    The largest weight of the largest output is at least 4 times that of the median one.
    """
    p = case.product
    peaks, count = np.abs(p.before).max(0), _steps(p.now.reshape(-1, 1))
    if not count or peaks.max() < SPREAD * np.median(peaks):
        return None
    if not _is_rounding(p, p.before.reshape(-1, 1), p.now.reshape(-1, 1)):
        return None
    explained = p.explained(_rounded(p.before, np.maximum(peaks, 1e-30) / count, count))
    if explained < HALF:
        return None
    sizes = f"{peaks.min():.2g} to {peaks.max():.2g}"
    evidence = f"one scale for outputs whose largest weights are from {sizes}"
    return Cause("channels of different size", evidence, explained, case.in_8_bits)


def outlier_range(case: Case) -> Cause | None:
    """Few large weights set the step of all: a narrower range with as many levels explains half.

    There are at least 5 levels, so that a narrower range leaves some for the other weights.
    """
    p, tried = case.product, []
    count = _steps(p.now)
    if count < 2 or not _is_rounding(p, p.before, p.now):
        return None
    for peak in (np.abs(p.before).max(0), np.abs(p.before).max()):
        for clip in CLIPS:
            rounded = _rounded(p.before, np.maximum(clip * peak, 1e-30) / count, count)
            tried.append((p.explained(rounded), clip))
    explained, clip = max(tried)
    if explained < HALF:
        return None
    evidence = f"with a range of {clip:.0%} of the largest weight the error is {1 - explained:.0%}"
    return Cause("outliers set the range", evidence, explained, case.in_8_bits)


def _is_rounding(p, before, now) -> bool:
    """Whether a kernel is the float one rounded to the values that it has, but for a quarter."""
    rounded = _nearest_levels(before, now).reshape(p.now.shape)
    return p.squares(rounded - p.now).sum() < 0.25 * p.error.sum()


def _steps(w) -> int:
    """How many equal steps a grid has on each side of zero that all weights of outputs lie on.

    0 if there is none, or it has more than 128 or only one value on each side.
    """
    ordered = np.sort(np.abs(w), axis=0)
    gaps = np.diff(np.vstack([np.zeros(w.shape[1]), ordered]), axis=0)
    gaps = np.where(gaps > 1e-5 * np.maximum(ordered[-1], 1e-30), gaps, np.inf)
    step = gaps.min(0)
    places = np.abs(w) / step
    if np.abs(places - np.rint(places)).max() > 0.05:
        return 0
    count = int(np.rint(places).max())
    return count if 1 <= count <= FEW_LEVELS and (w == 0).any() else 0


def _rounded(w, step, count):
    return step * np.clip(np.rint(w / step), -count, count)


def removed_weights(case: Case) -> Cause | None:
    """Weights were set to zero, at least 1% of them, and that explains half of the error."""
    p = case.product
    removed = (p.now == 0) & (p.before != 0)
    if removed.mean() < PRUNED_FROM:
        return None
    error = p.squares(np.where(removed, p.before, 0)).sum()
    explained = float(min(1.0, error / max(p.error.sum(), 1e-300)))
    if explained < HALF:
        return None
    evidence = f"{removed.mean():.0%} of the weights are zero now"
    return Cause("weights removed", evidence, explained, SwapRule(case.path, None))


def narrow_chain(case: Case) -> Cause | None:
    """A chain of layers is at most nine tenths as wide inside as the kernel's rank, as above.

    What the truncation of the products takes is compared with the error of the outputs.
    """
    widths = [kernel.shape[-1] for kernel in map(_kernel, case.chain[:-1]) if kernel is not None]
    before = kernel_in(case.pair.before)
    if not widths or before is None:
        return None
    p = Product(case.pair.before[0], before, before, case.observation.float_inputs)
    full, kept = _rank(p.before), _energy_kept(p)
    rank = min(min(widths), len(kept))
    explained = (1 - kept[rank - 1]) / max(np.square(case.observation.output_error or 0), 1e-12)
    if rank > 0.9 * full or explained < HALF:
        return None
    knee = int(np.searchsorted(kept, KNEE) + 1)
    evidence = f"rank {rank} of {full}, and {KNEE:.0%} of its products' energy needs rank {knee}"
    return Cause("rank below the knee", evidence, float(min(explained, 1)), case.in_8_bits)


def _kernel(layer):
    return kernel_in([layer])


def own_form(case: Case) -> Cause | None:
    """The layer's form, whatever it is, explains half: no kernel of that form comes closer."""
    if case.form_share < HALF:
        return None
    evidence = f"{case.maker!r} comes no closer to the kernel"
    return Cause("the form itself", evidence, case.form_share, case.in_8_bits)
