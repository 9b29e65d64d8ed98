"""A compressed model in which float layers can be put back, one by one, while it runs."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import keras

from tfcompress.graph.intercept import altered, link, running, start_of
from tfcompress.rewriting.pairs import Pair


class Switchboard:
    """Runs a model with other layers in the places of some of its own.

    The model is copied once, with its variables shared, however many runs follow.

    Args:
        small: a built model of any kind.
        pairs: the places.
    """

    def __init__(self, small: keras.Model, pairs: Sequence[Pair]) -> None:
        self.chains, self.see = {}, None
        arounds = {}
        for pair in pairs:
            arrived = []
            arounds |= {one: partial(link, arrived, one is pair.now[0]) for one in pair.now[:-1]}
            arounds[pair.now[-1]] = partial(self._last, pair, arrived)
        self.model = altered(small, arounds)

    def __call__(self, x: Any, chains: dict[Pair, list] | None = None) -> list:
        """The outputs, flat, with `{pair: layers}` in the places of these pairs."""
        self.chains = chains or {}
        return keras.tree.flatten(self.model(x, training=False))

    def watched(self, x: Any, see: Callable) -> list:
        """The outputs; `see(pair, x, y, run)` is shown what goes into each place and comes out.

        `run(layers)` gives what other layers make of the same inputs.
        """
        self.see = see
        try:
            return self(x)
        finally:
            self.see = None

    def _last(self, pair, arrived, call, x, *args, **kwargs):
        start = start_of(arrived, x, args, kwargs)
        if pair in self.chains:
            return _run(self.chains[pair], *start)
        y = call(x, *args, **kwargs)
        if self.see is not None:
            self.see(pair, start[0], y, lambda layers: _run(layers, *start))
        return y


def _run(layers: Iterable, x, args, kwargs):
    return running(list(layers))(None, x, *args, **kwargs) if layers else x
