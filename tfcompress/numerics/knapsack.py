"""One choice for each item, with the least damage that a budget allows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_SECONDS = 60.0  # for several budgets; then the best choice so far is taken
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


def solve_knapsacks(
    costs: Sequence[Sequence[Sequence[float]]], damages: Sequence[Any], budgets: Sequence[float]
) -> list[int] | None:
    """The multiple-choice knapsack with several budgets at once, by branch and bound (HiGHS).

    Minimizes `sum_i d_i[k_i]` over the choices `k_i` with `sum_i c_bi[k_i] <= B_b` for each b.
    In each item, choices that another one beats in all costs and the damage are left out at once.

    Args:
        costs: for each budget, for each item, the costs of its choices: any finite numbers.
        damages: for each item, the damages of its choices.
        budgets: the sums of costs allowed.

    Returns:
        The index of the choice of each item; None if no choice meets all budgets.

    >>> bytes, times = [[4, 2, 1], [4, 2, 1]], [[3, 1, 2], [3, 1, 2]]
    >>> solve_knapsacks([bytes, times], [[0.0, 1.0, 5.0], [0.0, 3.0, 4.0]], [6, 4])
    [1, 0]
    """
    from scipy.optimize import LinearConstraint, milp

    items = range(len(damages))
    kept = [frontier(np.transpose([c[i] for c in costs]), damages[i]) for i in items]
    item = np.repeat(items, list(map(len, kept)))
    harm = np.concatenate([np.take(damages[i], kept[i]) for i in items]).astype("float64")
    one_each = LinearConstraint((item == np.arange(len(kept))[:, None]).astype("float64"), 1, 1)
    rows, rooms = [], []
    for all_costs, budget in zip(costs, budgets, strict=True):
        taken = [np.take(all_costs[i], kept[i]).astype("float64") for i in items]
        least = sum(min(row) for row in taken)
        room = budget - least
        if room < 0:
            return None
        row = np.concatenate([row - min(row) for row in taken])
        size = max(row.max(), room) or 1.0  # so that the solver's tolerances are shares
        rows.append(row / size)
        rooms.append(room / size)
    for _ in range(2):
        found = milp(
            harm / (abs(harm).max() or 1.0),
            constraints=[one_each, LinearConstraint(np.array(rows), -np.inf, rooms)],
            integrality=np.ones(len(harm)),
            bounds=(0, 1),
            options={"mip_rel_gap": 0.0, "time_limit": MOST_SECONDS},
        )
        if found.x is None:
            return None
        picked = [kept[i][int(found.x[item == i].argmax())] for i in items]
        if all(map(_holds, costs, budgets, [picked] * len(budgets))):
            return picked
        rooms = [room - 1e-5 for room in rooms]  # the solver may overstep a row by a millionth
    return None


def _holds(costs, budget, picked) -> bool:
    return sum(row[i] for row, i in zip(costs, picked, strict=True)) <= budget


def frontier(costs: Sequence[Any], damages: Sequence[float]) -> list[int]:
    """The choices that no other one beats in both cost and damage, in order of rising cost.

    Args:
        costs: a number for each choice, or several, in which all another one must not be dearer.
        damages: of the choices.

    >>> frontier([4, 2, 1, 3], [0.0, 1.0, 5.0, 2.0])
    [2, 1, 0]
    >>> frontier([(4, 1), (2, 2), (1, 3), (3, 1)], [0.0, 1.0, 5.0, 2.0])
    [2, 1, 3, 0]
    """
    if len(damages) == 0:
        return []
    points = np.reshape(np.asarray(costs, "float64"), (len(damages), -1))
    points, kept = np.column_stack([points, damages]), []
    for i in sorted(range(len(points)), key=lambda i: tuple(points[i])):
        if not any((points[j] <= points[i]).all() for j in kept):
            kept.append(i)
    return kept
