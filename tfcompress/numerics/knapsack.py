"""One choice for each item, with the least damage that a budget allows."""

from collections.abc import Sequence

import numpy as np

BUDGET_STEPS = 20_000  # that the budget is cut into; costs are rounded up to whole steps


def solve_knapsack(
    costs: Sequence[np.ndarray], damages: Sequence[np.ndarray], budget: float
) -> list[int]:
    """The multiple-choice knapsack, by dynamic programming over the budget.

    Exact when the budget is at most `BUDGET_STEPS` above the sum of the cheapest choices. Otherwise
    that difference is cut into `BUDGET_STEPS` steps and each cost is rounded up to whole steps, so
    that the budget always holds.

    Cost: `BUDGET_STEPS` additions for each choice of each item.

    Args:
        costs: for each item, the whole costs of its choices.
        damages: for each item, the damages of its choices, finite.
        budget: the sum of costs allowed.

    Returns:
        The index of the choice of each item.

    Raises:
        ValueError: even the cheapest choices cost more; the message tells how much.

    >>> solve_knapsack([[4, 2, 1], [4, 2, 1]], [[0.0, 1.0, 5.0], [0.0, 3.0, 4.0]], 6)
    [1, 0]
    """
    least = [min(item) for item in costs]
    room = int(budget) - sum(least)
    if room < 0:
        raise ValueError(f"Even the cheapest choices need {sum(least)}. Received: {budget}")
    unit = max(1, -(-room // BUDGET_STEPS))
    size = room // unit + 1
    best = np.zeros(size)  # the least damage so far, by what may be spent
    taken = []
    for item, low, harms in zip(costs, least, damages, strict=True):
        steps = [-(-(cost - low) // unit) for cost in item]  # rounded up
        table = np.full((len(item), size), np.inf)
        for row, step, harm in zip(table, steps, harms, strict=True):
            if step < size:
                row[step:] = best[: size - step] + harm
        taken.append((table.argmin(0), steps))
        best = table.min(0)
    # From the last item back to the first: which choice led to the least damage.
    left, chosen = size - 1, []
    for choices, steps in reversed(taken):
        chosen.append(int(choices[left]))
        left -= steps[chosen[-1]]
    return chosen[::-1]


def frontier(costs: Sequence[np.ndarray], damages: Sequence[np.ndarray]) -> list[int]:
    """The choices that no other one beats in both cost and damage, in order of rising cost.

    >>> frontier([4, 2, 1, 3], [0.0, 1.0, 5.0, 2.0])
    [2, 1, 0]
    """
    kept, lowest = [], np.inf
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], damages[i])):
        if damages[i] < lowest:
            kept.append(i)
            lowest = damages[i]
    return kept
