"""What `swap` calls with a layer: a compressed layer class with its options."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.utils.types import Metric


@dataclass(frozen=True)
class Maker:
    """A compressed layer class with its options: called with a layer, it makes the new one."""

    layer_class: type
    options: dict

    def __call__(
        self, layer: keras.layers.Layer, metric: Metric = None, kernel: np.ndarray | None = None
    ) -> Any:
        return self.layer_class.from_layer(layer, metric, kernel, **self.options)

    def takes(self, layer: keras.layers.Layer) -> bool:
        """Whether the layer is of the kind that this maker compresses."""
        return self.layer_class.takes(layer)

    def first_step(self) -> "Maker":
        """The maker of one layer that makes the chain's first form; itself if it has one step."""
        return self

    def chosen_for(self, layer: keras.layers.Layer) -> "Maker":
        """The maker of the one class that makes something of a built layer."""
        return self

    def finished(self, layer: keras.layers.Layer) -> Any:
        """What is made of the layer of the first step."""
        return layer

    def then(self, *makers: "Maker") -> "Composed":
        """A maker in two steps: the layer is unfolded into a chain, which `makers` compress.

        >>> import tfcompress as tfc
        >>> four_bits = tfc.layers.QuantizedConv2D.using(bits=4)
        >>> tfc.layers.TuckerConv2D.using(rank=0.25).then(four_bits)
        TuckerConv2D.using(rank=0.25).then(QuantizedConv2D.using(bits=4))
        """
        for maker in makers:
            if not isinstance(maker, Maker):
                raise TypeError(
                    "`then` takes makers such as `QuantizedDense.using(bits=4)`, one after the "
                    f"other. Received: {maker!r}"
                )
        return Composed(self.layer_class, self.options, makers)

    def __repr__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.layer_class.__name__}.using({options})"


@dataclass(frozen=True)
class Composed(Maker):
    """A maker that unfolds its layer into a chain of ordinary layers and compresses these again.

    Each of them is compressed by the first of `others` whose class takes it, without a metric; one
    that none of them takes stays ordinary.
    """

    others: tuple[Maker, ...]

    def __call__(
        self, layer: keras.layers.Layer, metric: Metric = None, kernel: np.ndarray | None = None
    ) -> Any:
        return self.unfolded(super().__call__(layer, metric, kernel))

    def first_step(self) -> Maker:
        return Maker(self.layer_class, self.options)

    def finished(self, layer: keras.layers.Layer) -> list:
        return self.unfolded(layer)

    def unfolded(self, layer: keras.layers.Layer) -> list:
        """The chain that the second step makes of the layer of the first step."""
        if not layer.built:
            raise ValueError(f"Layer {layer.name!r} is not built, so it cannot be unfolded.")
        return [self._compressed(link) for link in layer.to_ordinary()]

    def second(self, link: keras.layers.Layer) -> Maker | None:
        """The maker of a layer of the chain, or None."""
        takes = (maker for maker in self.others if maker.layer_class.ordinary is type(link))
        return next(takes, None)

    def _compressed(self, link):
        maker = self.second(link)
        return link if maker is None else maker(link)

    def __repr__(self):
        return f"{super().__repr__()}.then({', '.join(map(repr, self.others))})"
