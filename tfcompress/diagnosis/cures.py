"""What brings a layer's accuracy back: calls that can be printed and run."""

import itertools
import json
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.graph.copy import copied
from tfcompress.graph.suffix import watching
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.discrete.fake_quant import FakeQuant
from tfcompress.layers.discrete.rounding import rounded_to
from tfcompress.measure.batch_norm import recalibrate_batch_norm
from tfcompress.measure.moments import measure
from tfcompress.measure.rows import can_measure
from tfcompress.rewriting.opening import close_like, opened
from tfcompress.rewriting.pairs import Pair, pairs_of
from tfcompress.rewriting.replace import with_replacements
from tfcompress.rewriting.swap import swap
from tfcompress.utils.batches import batches, mixed
from tfcompress.utils.types import Data, Rules

BATCH_SIZE, MOST_BATCHES = 256, 2  # of the data by which a layer is fitted


@dataclass(frozen=True)
class SwapRule:
    """A rule for `swap`: the layer is made again, in another form or as it was.

    Attributes:
        path: of the layer.
        maker: what makes it; None leaves the float layer as it is.
    """

    path: str
    maker: Maker | None = None

    @property
    def rules(self) -> Rules:
        """The rule for `swap`: with others, `cure.rules | others | cure.rules`."""
        return {self.path: self.maker}

    def __str__(self):
        made = "None" if self.maker is None else f"tfc.layers.{self.maker!r}"
        cure = f"cure = {{{json.dumps(self.path)}: {made}}}"
        # A dict keeps the first place of a key and its last value: the cure comes before all rules.
        return f"{cure}; tfc.swap(model, cure | rules | cure, data=x)"

    def layers(self, pair: Pair, inputs: list) -> list:
        """What stands in the place of a pair then.

        Args:
            pair: the layers.
            inputs: arrays of inputs of the float layer, by which the new one is fitted.
        """
        if self.maker is None:
            return pair.before
        layer = pair.before[0]
        metric = measure(layer, inputs) if inputs and can_measure(layer) else None
        made = self.maker(layer, metric)
        return [*(made if isinstance(made, list) else [made]), *pair.before[1:]]

    def apply(self, model: keras.Model, small: keras.Model, data: Data) -> keras.Model:
        """A copy of the compressed model in which this one layer is made again."""
        before, now = opened(model), opened(small)
        pair = next((p for p in pairs_of(before, now) if p.path == self.path), None)
        if pair is None:
            raise ValueError(f"Layer {self.path!r} is the same in both models.")
        inputs = []
        watched = watching(before, pair.before[:1], lambda layer, x: inputs.append(x))
        drawn = mixed(data, BATCH_SIZE, MOST_BATCHES * BATCH_SIZE)
        for x, _, _ in itertools.islice(batches(model, drawn, BATCH_SIZE), MOST_BATCHES):
            watched(x)
        chains = {layer: [keras.layers.Identity()] for layer in pair.now[:-1]}
        chains[pair.now[-1]] = [copied(layer) for layer in self.layers(pair, inputs)]
        new = with_replacements(now, chains)
        close_like(new, small)
        return new


@dataclass(frozen=True)
class Recalibration:
    """A call of `recalibrate_batch_norm` on the compressed model."""

    def __str__(self):
        return "tfc.recalibrate_batch_norm(small, data)"

    def apply(self, model: keras.Model, small: keras.Model, data: Data) -> keras.Model:
        """A copy of the compressed model with the statistics measured again."""
        new = copied(small)
        recalibrate_batch_norm(new, data)
        return new


@dataclass(frozen=True)
class ActivationRange:
    """A `FakeQuant` with the range of what it gets, for a rule of `swap`."""

    path: str
    low: float
    high: float

    def __str__(self):
        new = f"tfc.layers.FakeQuant({self.low:.4g}, {self.high:.4g})"
        return f"tfc.swap(small, {{{json.dumps(self.path)}: lambda layer: {new}}})"

    def layers(self, pair: Pair, inputs: list) -> list:
        """What stands in the place of a pair then."""
        return [FakeQuant(self.low, self.high)]

    def apply(self, model: keras.Model, small: keras.Model, data: Data) -> keras.Model:
        """A copy of the compressed model with that range."""
        return swap(small, {self.path: lambda layer: self.layers(None, [])[0]})


@dataclass(frozen=True)
class Export:
    """A call of `to_tflite` with other options, on inputs to measure ranges on.

    Attributes:
        options: of the call.
    """

    options: dict

    def __str__(self):
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"tfc.to_tflite(small, path{options}, check=x)"

    def file(self, small: keras.Model, inputs: Any) -> bytes:
        """The bytes of that file."""
        from tfcompress.export import to_tflite

        return to_tflite(small, check=inputs, **self.options)


Cure = SwapRule | Recalibration | ActivationRange | Export


def eight_bits(layer: keras.layers.Layer) -> Maker | None:
    """The maker of the layer in 8 bits with a scale per output; None where there is none."""
    kind = rounded_to(8).member(layer)
    return None if kind is None else kind.using(bits=8)
