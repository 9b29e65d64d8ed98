"""Shares of the rise of the loss: the layers of the float model put back in random orders."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfcompress.diagnosis.example_loss import ExampleLoss
from tfcompress.diagnosis.switchboard import Switchboard
from tfcompress.rewriting.pairs import Pair

MOST_ORDERS = 4
SIGNIFICANT = 3.0  # standard errors by which a share must stand out to be more than chance


@dataclass(frozen=True)
class Share:
    """What one layer adds to the loss.

    Attributes:
        rise: its share of the rise of the loss.
        error: the standard error of `rise` over the examples.
        moved: its share of the change of the outputs.
        worst: numbers of the examples whose loss it raises most, the worst first.
    """

    rise: float
    error: float
    moved: float
    worst: tuple[int, ...]


def shares(
    board: Switchboard, pairs: Sequence[Pair], loss: ExampleLoss, seconds: float, seed: int = 0
) -> tuple[list[Share], int]:
    """Shapley values of the layers by random orders.

    In an order, one float layer after the other is put back and stays; what the loss falls by in a
    step is that layer's. So in each order the shares add up to the whole rise. An order and its
    reverse are taken together; the first is that of the model.

    Cost: as many forward passes as there are layers, for each of 2 to 4 orders.

    Args:
        board: of the compressed model.
        pairs: the layers.
        loss: on the examples.
        seconds: after which no further pair of orders begins.
        seed: of the orders.

    Returns:
        A `Share` for each layer, and the number of orders.

    Reference: Castro et al., "Polynomial calculation of the Shapley value based on sampling", 2009.
    """
    random, start, known = np.random.default_rng(seed), time.monotonic(), {}
    totals = np.zeros((len(pairs), 2, len(loss.before)))

    def measured(back):
        key = frozenset(back)
        if key not in known:
            chains = {pairs[i]: pairs[i].before for i in back}
            outputs = [board(x, chains) for x, _, _ in loss.batches]
            known[key] = np.stack([loss(outputs), loss.moved(outputs)])
        return known[key]

    order, orders = np.arange(len(pairs)), 0
    while orders < MOST_ORDERS and (orders == 0 or time.monotonic() - start < seconds):
        for one in (order, order[::-1]):
            value = measured(())
            for place, layer in enumerate(one):
                after = measured(one[: place + 1].tolist())
                totals[layer] += value - after
                value = after
            orders += 1
        if len(pairs) < 3:  # these two are all orders
            break
        order = random.permutation(len(pairs))
    return [share_of(total / orders) for total in totals], orders


def share_of(change: np.ndarray, numbers: np.ndarray | None = None) -> Share:
    """The share of what changes the loss and the outputs of each example, `(2, examples)`.

    Args:
        change: of the loss, and of the outputs.
        numbers: of the examples; None counts them.
    """
    rises, moved = change
    worst = np.argsort(-rises, kind="stable")[:3]
    error = float(rises.std() / np.sqrt(max(len(rises) - 1, 1)))
    worst = tuple(int(i if numbers is None else numbers[i]) for i in worst if rises[i] > 0)
    return Share(float(rises.mean()), error, float(moved.mean()), worst)
