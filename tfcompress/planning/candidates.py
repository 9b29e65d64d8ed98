"""The forms that a layer may take: which are tried, and how they are fitted."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress import layers as forms
from tfcompress.layers.core.maker import Composed, Maker
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.layers.discrete.rounding import rounded_to
from tfcompress.measure.rows import fan_in_first
from tfcompress.numerics.knapsack import frontier
from tfcompress.numerics.metric import Kronecker
from tfcompress.numerics.what_a_kernel_is import what_is_lost
from tfcompress.planning.costs import unfitted, unfitted_chain
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Metric

SIMILAR_COST = 1.1  # ratio of costs up to which a form with twice the damage is not worth trying
FORMS = (  # of which there are binary, ternary and codebook layers
    *("Dense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
)
LARGEST_CP_KERNEL = 2**18  # weights; a CP decomposition of a larger one takes more than seconds


class Fitted(NamedTuple):
    """A form that was fitted to a layer.

    Attributes:
        name: name of the candidate.
        maker: its maker.
        cost: in the unit of the target.
        predicted: `1/2 tr e^T A e` of the first step.
        measured: the rise of the loss; None if it was not measured yet.
        chain: the layers that take the place of the layer.
        milliseconds: of this chain; None where time does not count.
    """

    name: str
    maker: object
    cost: float
    predicted: float
    measured: float | None
    chain: list
    milliseconds: float | None = None

    @property
    def costs(self) -> tuple[float, ...]:
        """All costs that count."""
        return (self.cost,) if self.milliseconds is None else (self.cost, self.milliseconds)


def default_candidates(target: str) -> dict[str, list[Maker]]:
    """The forms that `plan` tries, by name; of a list a layer gets the first that accepts it."""
    by_kind = [getattr(forms, f"LowRank{form}") for form in FORMS if "Depthwise" not in form]
    if target == "macs":
        found = {}
        for share in (0.5, 0.25, 0.125):
            found[f"rank, {share:.3g}"] = [cls.using(macs=share) for cls in by_kind]
            found[f"k x 1, 1 x k, {share:.3g}"] = [forms.SpatialConv2D.using(macs=share)]
            found[f"Tucker, {share:.3g}"] = [forms.TuckerConv2D.using(macs=share)]
        return found
    found = {
        name.lower(): [getattr(forms, name + form).using() for form in FORMS]
        for name in ("Binary", "Ternary")
    }
    found["ternary"].append(rounded_to(2))  # EinsumDense and tables have no class of that name
    for bits in (3, 4, 8):
        found[f"{bits} bits"] = [rounded_to(bits)]
    if target == "archive":
        books = [getattr(forms, f"Codebook{form}") for form in FORMS]
        for zeros, size in ((0.6, 16), (0.8, 16), (0.9, 8)):
            name = f"{zeros:.0%} zeros, {size} entries"
            found[name] = [cls.using(size=size, sparsity=zeros) for cls in books]
    quantized = [getattr(forms, f"Quantized{form}") for form in FORMS]
    ranks = [(0.25, 8), (0.125, 8)]
    if target == "tflite":  # 2 bits are the fewest of a kernel there, so that less takes low ranks
        ranks += [(0.25, 4), (0.125, 4), (0.0625, 4)]
    for share, bits in ranks:
        found[f"rank {share:.3g}, {bits} bits"] = [
            low.using(rank=share).then(*(cls.using(bits=bits) for cls in quantized))
            for low in by_kind
        ]
    unfolded = {"Tucker": forms.TuckerConv2D}
    if target == "tflite":  # counted in bits, ternary and 4-bit kernels are nearer at the same size
        unfolded["CP"] = forms.CPConv2D
    for share in (0.5, 0.25):
        for label, cls in unfolded.items():
            maker = cls.using(rank=share).then(forms.QuantizedConv2D.using(bits=8))
            found[f"{label} {share:.3g}, 8 bits"] = [maker]
    return found


def by_name(candidates: Any) -> dict[str, list[Maker]]:
    """Candidates as a dict of lists, from a maker, a list of makers, or a dict of either.

    Raises:
        TypeError: one of them is no maker.
    """
    if isinstance(candidates, Maker):
        candidates = [candidates]
    if not isinstance(candidates, dict):
        if isinstance(candidates, str) or not isinstance(candidates, Iterable):
            _refuse(candidates)
        candidates = {repr(maker): maker for maker in candidates}
    lists = (
        makers if isinstance(makers, (list, tuple)) else [makers] for makers in candidates.values()
    )
    found = dict(zip(candidates, map(list, lists), strict=True))
    for name, makers in found.items():
        for maker in makers:
            if not isinstance(maker, Maker):
                _refuse(f"{name}: {maker!r}")
    return found


def _refuse(received):
    raise TypeError(
        "Expected each candidate to be a maker, as `LayerClass.using(...)` gives, in a list or "
        f"in a dict `{{name: maker or list of makers}}`. Received: {received}"
    )


def fitted(
    layer: keras.layers.Layer,
    metric: Metric,
    candidates: Any,
    whole: tuple[float, ...],
    count: Callable[..., Any],
    estimate: Callable[..., Any],
    measure: Callable[..., Any],
    harmless: Any,
    reasons: dict[str, str],
    time: Callable[..., float] | None = None,
) -> list[Fitted]:
    """The forms of a layer that are worth their cost, by rising cost.

    A form is left out if a smaller one has a lower `1/2 tr e^T A e`, if the next larger one has
    half of it and costs at most 10% more, or if a smaller one is harmless. Where the cost can be
    told before the fit, these are not even fitted, nor a low-rank form if a smaller form is nearer
    than any kernel of its rank can be, nor one of two that cost the same if it stores fewer bits.
    Where time counts too, smaller means smaller and faster, and all forms are fitted and measured.

    Args:
        layer: a built layer.
        metric: the metric of its inputs.
        candidates: see `planner.plan`.
        whole: all costs of the layer as it is.
        count: function that gives the cost of a chain of fitted layers.
        estimate: see `estimate_function`; None where only a fit can tell.
        measure: function that gives the rise of the loss with a chain in the layer's place.
        harmless: the rise of the loss below which a form counts as harmless.
        reasons: a list, to which is added why a maker cannot take the layer.
        time: function that gives the milliseconds of a chain of layers; None where they do not
            count.
    """
    w = np.asarray(to_numpy(kernel_of(layer)), "float64")
    least_damage = _least_damage(metric, fan_in_first(layer, w))
    found, done, lowest = [], set(), np.inf
    by_size = _by_size(layer, candidates, estimate)
    for (size, name, maker, known), (after, *_) in itertools.pairwise([*by_size, (np.inf,)]):
        if name in done or (
            known is not None and (size >= whole[0] or least_damage(known.rank) > lowest)
        ):
            continue
        form = _fit(name, maker, layer, metric, w, count, reasons, time)
        if form is None:
            continue
        done.add(name)
        if _no_less(form.costs, whole) or (known is not None and form.predicted >= lowest):
            continue
        last = found[-1] if found else None
        nearly = last and [SIMILAR_COST * cost for cost in last.costs]
        similar = last and last.measured is None and _no_less(nearly, form.costs)
        if similar and form.predicted <= last.predicted / 2:
            found.pop()
        if known is not None:
            lowest = form.predicted
            # the next form could still replace this one if its cost is similar
            if after > SIMILAR_COST * form.cost:
                form = form._replace(measured=measure(form.chain))
        found.append(form)
        if form.measured is not None and form.measured <= harmless:
            break
    kept = frontier([form.costs for form in found], [form.predicted for form in found])
    return _measured([found[i] for i in kept], measure, harmless if time is None else -np.inf)


def _measured(forms, measure, enough) -> list[Fitted]:
    """Forms with the rise of the loss, up to the first whose rise is small enough."""
    row = []
    for form in forms:
        if form.measured is None:
            form = form._replace(measured=measure(form.chain))
        row.append(form)
        if form.measured <= enough:
            break
    return row


def _no_less(costs, others) -> bool:
    return all(cost >= other for cost, other in zip(costs, others, strict=True))


def _fit(name, maker, layer, metric, w, count, reasons, time):
    """The `Fitted` form of a maker, not measured; None, with a reason, if there is none."""
    first_step = maker.first_step() if isinstance(maker, Maker) else maker
    if _takes_long(maker, layer):
        reasons.append(f"- CP would take long for the {w.size:,} weights of {layer.name}.")
        return None
    try:
        first = first_step(layer, metric)
        chain = maker.unfolded(first) if isinstance(maker, Composed) else [first]
    except ValueError as error:
        reasons.append(f"- {error}")
        return None
    lost = what_is_lost(w, to_numpy(first.kernel))
    if lost is not None:
        reasons.append(f"- {layer.name}, {name}: {lost}.")
        return None
    predicted = metric.quadratic(fan_in_first(layer, w - to_numpy(first.kernel)))
    milliseconds = None if time is None else time(chain)
    return Fitted(name, maker, count(chain), predicted, None, chain, milliseconds)


def _by_size(layer, candidates, estimate):
    """`(cost, name, maker, estimate)`; 0 and None if only a fit can tell."""
    makers = list(_makers_for(layer, candidates))
    estimates = [None] * len(makers)
    if estimate is not None:
        estimates = estimate(layer, [maker for _, maker in makers])
    found, most = [], {}
    for (name, maker), known in zip(makers, estimates, strict=True):
        found.append((0 if known is None else known.cost, name, maker, known))
        if known is not None:
            most[known.cost] = max(known.bits, most.get(known.cost, 0))
    kept = [row for row in found if row[3] is None or row[3].bits == most[row[0]]]
    return sorted(kept, key=lambda row: row[0])


def chains(layer: keras.layers.Layer, candidates: dict) -> Iterator[list[keras.layers.Layer]]:
    """The layers that each candidate makes of one, with random weights: for their time."""
    done = set()
    for name, maker in _makers_for(layer, candidates):
        if name in done or _takes_long(maker, layer):
            continue
        bare = unfitted(maker, layer)
        if bare is not None:
            done.add(name)
            yield unfitted_chain(maker, bare)


def _makers_for(layer, candidates):
    """`(name, maker)` of those that are tried for a layer."""
    for name, makers in candidates.items():
        makers = makers if isinstance(makers, (list, tuple)) else [makers]
        # where one takes the layer, the others' reasons why they do not are of no use
        fitting = [one for one in makers if isinstance(one, Maker) and one.takes(layer)]
        yield from ((name, maker) for maker in fitting or makers)


def _takes_long(maker, layer) -> bool:
    cls = getattr(maker, "layer_class", None)
    return cls is forms.CPConv2D and math.prod(kernel_of(layer).shape) > LARGEST_CP_KERNEL


def _least_damage(metric, w):
    """A function of a rank: a lower bound of `1/2 tr e^T A e` for any kernel of that rank.

    For rank r, `tr e^T A e` is at least the sum of all but the r largest eigenvalues of `w^T A w`.
    """
    if not isinstance(metric, Kronecker) or metric.groups > 1 or metric.g is not None:
        return lambda rank: 0.0
    rows = w.reshape(-1, w.shape[-1])
    if rows.shape[0] < rows.shape[1]:  # the same values but for zeros, of a smaller matrix
        rows = np.linalg.qr(rows.T, "r").T
    toward = metric.apply(rows.reshape(*w.shape[:-1], -1)).reshape(rows.shape)
    values = np.linalg.eigvalsh(rows.T @ toward)
    sums = np.append(0, np.cumsum(np.maximum(values, 0))) / 2
    return lambda rank: 0.0 if rank is None else sums[max(len(values) - rank, 0)]
