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

    def then(self, *makers: "Maker") -> "Composed":
        """A maker in two steps: the layer unfolded into its parts, and these made by `makers`.

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
    """A maker whose layer is unfolded and compressed again: makes the chain of the parts.

    Each part is made by the first of `others` whose class takes it, in the sum of squares; others
    stay ordinary.
    """

    others: tuple[Maker, ...]

    def __call__(
        self, layer: keras.layers.Layer, metric: Metric = None, kernel: np.ndarray | None = None
    ) -> Any:
        return self.unfolded(super().__call__(layer, metric, kernel))

    def unfolded(self, layer: keras.layers.Layer) -> list:
        """The second step, for the layer of the first."""
        if not layer.built:
            raise ValueError(f"Layer '{layer.name}' is not built, so it cannot be unfolded.")
        return [self._again(part) for part in layer.to_ordinary()]

    def second(self, part: keras.layers.Layer) -> Maker | None:
        """The maker of a part, or None."""
        takes = (maker for maker in self.others if maker.layer_class.ordinary is type(part))
        return next(takes, None)

    def _again(self, part):
        maker = self.second(part)
        return part if maker is None else maker(part)

    def __repr__(self):
        return f"{super().__repr__()}.then({', '.join(map(repr, self.others))})"
