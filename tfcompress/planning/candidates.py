"""The forms that a layer may take, fitted, and what each of them takes."""

import itertools

import keras
import numpy as np

from tfcompress import layers as forms
from tfcompress.layers.core.base import kernel_bits
from tfcompress.layers.core.maker import Composed, Maker
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.layers.factorized.rank import Ranked
from tfcompress.measure.macs import layer_macs, matrices
from tfcompress.numerics.knapsack import frontier
from tfcompress.numerics.metric import Kronecker
from tfcompress.utils.arrays import to_numpy

EMPTY_FILE = 1200  # bytes of a file with one small operation
NEAR = 1.1  # times the cost, at which half of the damage makes a form not worth trying
LARGEST_CP = 2**18  # weights of a kernel, above which a CP decomposition takes more than seconds


def default_candidates(target) -> dict[str, list[Maker]]:
    """The forms that `plan` tries, by name; of each list a layer gets the first that takes it."""
    by_kind = (forms.LowRankDense, forms.LowRankConv1D, forms.LowRankConv2D)
    if target == "macs":
        found = {}
        for share in (0.5, 0.25, 0.125):
            found[f"rank, {share:.3g}"] = [cls.using(macs=share) for cls in by_kind]
            found[f"k x 1, 1 x k, {share:.3g}"] = [forms.SpatialConv2D.using(macs=share)]
            found[f"Tucker, {share:.3g}"] = [forms.TuckerConv2D.using(macs=share)]
        return found
    binary = (forms.BinaryDense, forms.BinaryConv1D, forms.BinaryConv2D)
    ternary = (forms.TernaryDense, forms.TernaryConv1D, forms.TernaryConv2D)
    found = {
        "binary": [cls.using() for cls in binary],
        "ternary": [cls.using() for cls in ternary],
    }
    for bits in (3, 4, 8):
        found[f"{bits} bits"] = list(forms.rounding(bits).values())
    if target == "archive":
        books = forms.CodebookDense, forms.CodebookConv1D, forms.CodebookConv2D
        for zeros, size in ((0.6, 16), (0.8, 16), (0.9, 8)):
            name = f"{zeros:.0%} zeros, {size} entries"
            found[name] = [cls.using(size=size, sparsity=zeros) for cls in books]
    eight = forms.QuantizedDense, forms.QuantizedConv1D, forms.QuantizedConv2D
    for share in (0.25, 0.125):
        found[f"rank {share:.3g}, 8 bits"] = [
            low.using(rank=share).then(*(cls.using(bits=8) for cls in eight)) for low in by_kind
        ]
    chains = {"Tucker": forms.TuckerConv2D}
    if target == "tflite":  # in bits, ternary and 4-bit kernels are nearer at the same size
        chains["CP"] = forms.CPConv2D
    for share in (0.5, 0.25):
        for label, cls in chains.items():
            maker = cls.using(rank=share).then(forms.QuantizedConv2D.using(bits=8))
            found[f"{label} {share:.3g}, 8 bits"] = [maker]
    return found


def fitted(layer, metric, candidates, count, estimate, measure, harmless, reasons):
    """The forms worth their cost, as `(name, maker, cost, predicted, measured, chain)`, by cost.

    A form is left out if a smaller one has a lower `1/2 tr e^T A e`, or the next one half of it at
    up to 10% more. Where the cost is known before the fit, forms are fitted from the smallest one
    on, until one does no harm; a low-rank one is not even fitted if a smaller form lies below what
    no kernel of its rank can reach.

    Args:
        layer: a built layer.
        metric: of its inputs.
        candidates: see `planner.plan`.
        count: what a chain of fitted layers takes.
        estimate: the same of layers that are not fitted; None where only a fit can tell.
        measure: the rise of the loss with a chain in the layer's place.
        harmless: a rise that is none.
        reasons: a list; why a maker cannot take the layer is added.
    """
    w = np.asarray(to_numpy(kernel_of(layer)), "float64")
    ordinary, least = count([layer]), _least(metric, w)
    found, done, lowest = [], set(), np.inf
    by_size = _by_size(layer, candidates, estimate)
    for (size, name, maker, bare), (after, *_) in itertools.pairwise([*by_size, (np.inf,)]):
        if name in done or (bare is not None and (size >= ordinary or least(bare) > lowest)):
            continue
        if getattr(maker, "layer_class", None) is forms.CPConv2D and w.size > LARGEST_CP:
            reasons.append(f"- CP would take long for the {w.size:,} weights of {layer.name}.")
            continue
        try:
            first = _first_step(maker)(layer, metric)
            chain = maker.unfolded(first) if isinstance(maker, Composed) else [first]
        except ValueError as error:
            reasons.append(f"- {error}")
            continue
        done.add(name)
        predicted, cost = metric.quadratic(w - to_numpy(first.kernel)), count(chain)
        if cost >= ordinary or (bare is not None and predicted >= lowest):
            continue
        waiting = found and found[-1][4] is None
        if waiting and cost <= NEAR * found[-1][2] and predicted <= found[-1][3] / 2:
            found.pop()
        found.append([name, maker, cost, predicted, None, chain])
        lowest = predicted if bare is not None else lowest
        if bare is not None and after > NEAR * cost:
            found[-1][4] = measure(chain)
            if found[-1][4] <= harmless:
                break
    kept = [found[i] for i in frontier([one[2] for one in found], [one[3] for one in found])]
    for one in kept:
        one[4] = measure(one[5]) if one[4] is None else one[4]
    return kept


def _by_size(layer, candidates, estimate):
    """`(estimate, name, maker, layer not fitted)`; 0 and None where only a fit can tell."""
    found = []
    for name, makers in candidates.items():
        for maker in makers if isinstance(makers, (list, tuple)) else [makers]:
            bare = None if estimate is None else _unfitted(_first_step(maker), layer)
            if bare is None:
                found.append((0, name, maker, None))
                continue
            chain = [bare]
            if isinstance(maker, Composed):
                chain = [_unfitted(maker.second(part), part) or part for part in bare.to_ordinary()]
            found.append((estimate(chain), name, maker, bare))
    return sorted(found, key=lambda one: one[0])


def _first_step(maker):
    return Maker(maker.layer_class, maker.options) if isinstance(maker, Composed) else maker


def _unfitted(maker, layer):
    """The layer that a maker makes, with random weights; None if it needs the kernel."""
    if not isinstance(maker, Maker):
        return None
    try:
        bare = maker(type(layer).from_config(layer.get_config()))
        bare.build(layer.get_build_config()["input_shape"])
    except ValueError:
        return None
    return bare


def _least(metric, w):
    """A function of a layer: `1/2 tr e^T A e` of the nearest kernel of its rank.

    `tr e^T A e` of rank r is at least the sum of all but the r largest eigenvalues of `w^T A w`.
    """
    if not isinstance(metric, Kronecker) or metric.groups > 1 or metric.g is not None:
        return lambda layer: 0.0
    rows = w.reshape(-1, w.shape[-1])
    values = np.linalg.eigvalsh(rows.T @ metric.apply(w).reshape(rows.shape))
    sums = np.append(0, np.cumsum(np.maximum(values, 0))) / 2

    def least(layer):
        last = list(layer.parts.values())[-1].shape if isinstance(layer, Ranked) else ()
        return sums[max(len(values) - last[0], 0)] if len(last) == 2 else 0.0

    return least


def counter(target, layer, shapes, store="fast"):
    """What a chain of layers in the place of a layer takes.

    Args:
        target: see `planner.plan`.
        shapes: of what the layer gets, one for each of its uses.
        store: see `to_tflite`.
    """
    if target == "bits":
        return lambda chain: sum(map(kernel_bits, chain))
    if target == "macs":
        return lambda chain: sum(_macs(chain, shape) for shape in shapes)
    if target == "archive":
        return lambda chain: sum(map(_archive_bytes, chain))
    return lambda chain: _file_bytes(chain, shapes[0], store)


def _macs(chain, shape):
    total = 0
    for part in chain:
        total += layer_macs(part, shape)
        shape = part.compute_output_shape(shape)
    return total


def _archive_bytes(part) -> int:
    from tfcompress.archive.entropy import encode
    from tfcompress.archive.files import rounded

    compressed = isinstance(part, forms.CompressedLayer)
    arrays = part.stored().values() if compressed else [to_numpy(v) for v in matrices(part)]
    return sum(len(blob) for a in arrays for blob in encode(rounded(np.asarray(a)))[1])


def _file_bytes(chain, shape, store) -> int:
    """What a chain takes in a file of its own, less what any file takes."""
    from tfcompress.export import file_bytes

    layers = [type(part).from_config(part.get_config()) for part in chain]
    model = keras.Sequential([keras.Input(shape[1:]), *layers])
    for new, part in zip(layers, chain, strict=True):
        new.set_weights(part.get_weights())
    return max(file_bytes(model, store) - EMPTY_FILE, 0)
