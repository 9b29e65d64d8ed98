import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.numerics import knapsack

ITEM = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 100)), min_size=1, max_size=4)


@given(st.lists(ITEM, min_size=1, max_size=5), st.integers(0, 120))
def test_it_is_the_best_of_all(items, budget):
    costs = [[cost for cost, _ in item] for item in items]
    damages = [[harm for _, harm in item] for item in items]
    ways = itertools.product(*map(range, map(len, costs)))

    def total(table, way):
        return sum(row[i] for row, i in zip(table, way, strict=True))

    fitting = [total(damages, way) for way in ways if total(costs, way) <= budget]
    if not fitting:
        with pytest.raises(ValueError, match="cheapest"):
            knapsack.solve_knapsack(costs, damages, budget)
        return
    found = knapsack.solve_knapsack(costs, damages, budget)
    assert total(costs, found) <= budget and total(damages, found) == min(fitting)


def test_large_costs_keep_the_budget_and_come_close():
    rng = np.random.default_rng(0)
    costs = [sorted(map(int, rng.integers(1, 10**9, 6))) for _ in range(30)]
    damages = [sorted(rng.exponential(size=6), reverse=True) for _ in range(30)]
    budget = sum(min(item) for item in costs) + 3 * 10**9
    found = knapsack.solve_knapsack(costs, damages, budget)
    assert sum(c[i] for c, i in zip(costs, found, strict=True)) <= budget
    # The rounding of costs is worth less than one percent more of the budget.
    relaxed = knapsack.solve_knapsack(costs, damages, budget * 1.01)
    harm = [sum(d[i] for d, i in zip(damages, way, strict=True)) for way in (found, relaxed)]
    assert harm[1] <= harm[0] <= 1.05 * harm[1]


TWICE = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 100)), min_size=1, max_size=4
)


@given(st.lists(TWICE, min_size=1, max_size=5), st.integers(0, 120), st.integers(0, 120))
def test_two_budgets_at_once_give_the_best_of_all(items, most, time):
    budgets = most, time
    first, second, damages = ([[row[k] for row in item] for item in items] for k in range(3))

    def total(table, way):
        return sum(row[i] for row, i in zip(table, way, strict=True))

    def holds(way):
        return total(first, way) <= budgets[0] and total(second, way) <= budgets[1]

    ways = filter(holds, itertools.product(*map(range, map(len, first))))
    best = min((total(damages, way) for way in ways), default=None)
    found = knapsack.solve_knapsacks([first, second], damages, budgets)
    if best is None:
        assert found is None
    else:
        assert holds(found) and total(damages, found) == best


def test_one_budget_of_any_numbers():
    rng = np.random.default_rng(0)
    costs, damages = rng.random((2, 40, 9)).tolist()
    found = knapsack.solve_knapsacks([costs], damages, [12.0])
    assert sum(c[i] for c, i in zip(costs, found, strict=True)) <= 12.0
    whole = [[int(1e9 * cost) for cost in item] for item in costs]
    near = knapsack.solve_knapsack(whole, damages, int(12e9))
    harm, other = (sum(d[i] for d, i in zip(damages, way, strict=True)) for way in (found, near))
    assert other * 0.99 <= harm <= other


def test_frontier_drops_what_another_beats():
    assert knapsack.frontier([5, 5, 1], [1.0, 2.0, 1.0]) == [2]
    assert knapsack.frontier([(5, 1), (5, 0), (1, 2)], [1.0, 2.0, 1.0]) == [2, 1, 0]
