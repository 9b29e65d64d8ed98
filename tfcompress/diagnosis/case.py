"""All that is known of one layer when its cause is looked for."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from tfcompress.diagnosis.cures import Cure, SwapRule, eight_bits
from tfcompress.diagnosis.observations import Observation
from tfcompress.diagnosis.product import Product
from tfcompress.graph.chain import Chain
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.rewriting.pairs import Pair
from tfcompress.utils.arrays import to_numpy


@dataclass(frozen=True)
class Cause:
    """Why a layer computes something else than the float one.

    Attributes:
        name: of the kind of cause.
        evidence: what was measured.
        explained: the share of the squared error of the layer's products that is gone without it.
        cure: what can be done, or None.
    """

    name: str
    evidence: str
    explained: float
    cure: Cure | None

    def __str__(self):
        return f"{self.name}: {self.evidence}"


@dataclass(frozen=True, eq=False)
class Case:
    """One layer, with what was measured of it.

    Attributes:
        pair: the layers.
        observation: their inputs and outputs.
        first, last: whether it is the first or the last layer with a kernel.
    """

    pair: Pair
    observation: Observation
    first: bool = False
    last: bool = False

    @property
    def path(self) -> str:
        return self.pair.path

    @property
    def now(self) -> keras.layers.Layer:
        """What stands in the layer's place; of a chain, the last one."""
        return self.pair.now[-1]

    @property
    def chain(self) -> list:
        """The layers in its place, a `Chain` as its parts."""
        return expanded(self.pair.now)

    @cached_property
    def product(self) -> Product | None:
        """The products with both kernels; None without two finite kernels of one shape."""
        before, now = kernel_in(self.pair.before), kernel_in(self.pair.now)
        if before is None or now is None or before.shape != now.shape:
            return None
        if not (np.isfinite(now).all() and np.isfinite(before).all()):
            return None
        return Product(self.pair.before[0], before, now, self.observation.float_inputs)

    @cached_property
    def maker(self) -> Maker | None:
        """What made the compressed layer; None for an ordinary one and for a chain."""
        if len(self.pair.now) > 1 or not isinstance(self.now, CompressedLayer):
            return None
        options = {k: v for k, v in self.now.method_options().items() if v is not None}
        return Maker(type(self.now), options)

    @cached_property
    def form_share(self) -> float:
        """The share of the squared error that the layer's form makes by itself.

        That of a kernel of the same form, made again of the float one: at most 1.
        """
        if self.maker is None or self.product is None:
            return 0.0
        try:
            again = kernel_in([self.maker(self.pair.before[0])])
        except ValueError:  # the form does not take the layer
            return 0.0
        p = self.product
        error = p.squares(p.as_matrix(again).astype("float64") - p.before).sum()
        return float(min(1.0, error / max(p.error.sum(), 1e-300)))

    @property
    def in_8_bits(self) -> SwapRule:
        """The float layer in 8 bits, or as it was if it is in 8 bits already."""
        rounded = getattr(self.now, "level_bits", None) == 8
        return SwapRule(self.path, None if rounded else eight_bits(self.pair.before[0]))

    @property
    def again(self) -> SwapRule:
        """The layer made once more of the float one: in its own form, or else as it was."""
        return SwapRule(self.path, self.maker)


def expanded(layers: list) -> list:
    """Layers with the parts of each `Chain` in its place."""
    return [p for one in layers for p in (one.parts if isinstance(one, Chain) else [one])]


def kernel_in(layers: list) -> np.ndarray | None:
    """The kernel of a layer, or of a chain of Dense layers; None without one."""
    if not layers:
        return None
    layers = expanded(layers)
    try:
        kernels = [to_numpy(kernel_of(layer)) for layer in layers]
    except (AttributeError, ValueError, TypeError):  # a layer without a kernel
        return None
    if len(kernels) == 1:
        return kernels[0].astype("float32", copy=False)
    plain = all(kernel.ndim == 2 for kernel in kernels) and all(map(_is_linear, layers[:-1]))
    return np.linalg.multi_dot(kernels) if plain else None


def _is_linear(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return activation in (None, keras.activations.linear) and getattr(layer, "bias", None) is None
